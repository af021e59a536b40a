"""The commands on docs/authentication.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.docs_examples import BASE_URL
from tests.functional.auth.accounts import PASSWORD, WITHOUT_LIMITS
from tests.support import PRODUCT, PROJECT, Service, clean_environment

PAGE = PROJECT / "docs" / "authentication.md"


def test_commands_on_the_page_work(
    start: Callable[..., Service], environment: dict[str, str], keyspace: str, tmp_path: Path
) -> None:
    """Run them in their order, in one shell. Standard input answers each prompt for a password."""
    variables = {"CASSANDRA_KEYSPACE": keyspace}
    service = start(WITHOUT_LIMITS | variables, app=PRODUCT)
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL))
    commands = commands.replace(BASE_URL, str(service.client.base_url)).replace("curl -s", "curl -s --fail-with-body")
    answers = rf"printf '%s\\n' '{PASSWORD}' '{PASSWORD}' | \g<0>"
    commands = re.sub(r"flask --app api accounts (create|set-password)", answers, commands)
    (tmp_path / "api.py").symlink_to(PROJECT / "api.py")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=clean_environment() | environment | variables | {"PATH": path, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        # Without a terminal, the prompts read standard input.
        start_new_session=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"email":"ada@example.org"' in run.stdout
    assert "created root@example.org  read write operator  " in run.stdout
    assert "password of grace@example.org changed" in run.stdout
    assert re.search(r'"email":"emil@example.org","scopes":\["read"\],.*"disabled":true', run.stdout)
    first = {**WITHOUT_LIMITS, "TOKEN_KEYS": str(tmp_path / "token_keys.json")}
    published = start(first, app=PRODUCT).client.get("/auth/jwks.json").json()
    assert [key["kid"] for key in published["keys"]] == ["2026-12"]
