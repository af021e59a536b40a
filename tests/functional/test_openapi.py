"""Responses conform to the OpenAPI document.

Requests generated from the document get documented responses, and never a 500.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import PROJECT, Service, unmeasured_environment


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_responses_conform_to_the_document(start: Callable[..., Service], keyspace: str, tmp_path: Path) -> None:
    """Schemathesis sends thousands of valid and invalid requests, alone and in scenarios, and runs all of its checks.

    tests/schemathesis_hooks.py has the exceptions. The seed is fixed: a failure comes from a change of the code, not
    from chance.
    """
    limits = {"SIGN_IN_LIMIT_ACCOUNT": "off", "SIGN_IN_LIMIT_ADDRESS": "off"}
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "2"} | limits)
    report = schemathesis(running, "examples,coverage,fuzzing", tmp_path)
    generated = re.search(r"(\d+) generated", report)
    assert generated is not None, report
    assert int(generated.group(1)) > 3000

    # In a run of its own, because Schemathesis ends this phase early after the other ones.
    report = schemathesis(running, "stateful", tmp_path)
    counts = re.search(r"Scenarios: +(\d+)\s+API Links: +(\d+) covered", report)
    assert counts is not None, report
    assert int(counts.group(1)) > 50
    assert int(counts.group(2)) > 10

    log = running.log_text()
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        assert re.search(rf"\] {method} /observers/[0-9a-f-]{{36}} 20[04] ", log), f"no {method} of a created row"
    # The document describes a 500 response, so some checks accept one. None may occur.
    assert not re.findall(r"^.* 500 [\d.]+ ms.*$", log, re.MULTILINE)


def schemathesis(running: Service, phases: str, directory: Path) -> str:
    """Run Schemathesis, which must find no failure. Return its report."""
    run = subprocess.run(
        [
            str(Path(sys.executable).parent / "schemathesis"),
            f"--config-file={PROJECT / 'tests' / 'schemathesis.toml'}",
            "run",
            f"{running.client.base_url}/openapi.json",
            f"--phases={phases}",
            # These routes are slow on purpose: each response takes seconds.
            "--exclude-path-regex=^/(slow|long_running)_query$",
            "--no-color",
        ],
        cwd=directory,
        env=unmeasured_environment() | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_docs_page_loads_nothing_from_other_hosts(live: Service) -> None:
    """The service itself serves the documentation page and every file that it loads."""
    page = live.client.get("/docs", headers={"Accept": "text/html"})
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "://" not in page.text
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"):
        assert f"/docs/{name}" in page.text
        assert live.client.get(f"/docs/{name}").status_code == 200
