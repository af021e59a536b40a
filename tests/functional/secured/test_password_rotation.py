"""The password of Cassandra is replaced without downtime, as docs/operations.md describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.functional.secured.test_astra import log_in
from tests.support import Service, wait_for


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_reload_moves_the_service_to_another_role(
    start: Callable[..., Service], secured: dict[str, str], tmp_path: Path
) -> None:
    """Connections of the first role stay until the reload. Afterwards, the first role can be dropped."""
    admin = wait_for(lambda: log_in(secured), description="the superuser of the node")
    try:
        for name in ("fieldbook_a", "fieldbook_b"):
            admin.execute(f"CREATE ROLE {name} WITH LOGIN = true AND PASSWORD = 'password of {name}'")
            admin.execute(f"GRANT SELECT ON KEYSPACE system TO {name}")
        env_file = tmp_path / "env"
        # Variables in the environment would override the file.
        variables = secured | {
            "CASSANDRA_USERNAME": "",
            "CASSANDRA_PASSWORD": "",
            "ENV_FILE": str(env_file),
            "WEB_CONCURRENCY": "1",
        }

        def write(name: str) -> None:
            env_file.write_text(f"CASSANDRA_USERNAME={name}\nCASSANDRA_PASSWORD='password of {name}'\n")

        def roles() -> set[str]:
            names = admin.execute("SELECT username FROM system_views.clients")
            return {name for (name,) in names} - {"cassandra", None}

        write("fieldbook_a")
        running = start(variables)
        assert roles() == {"fieldbook_a"}
        write("fieldbook_b")
        running.reload()
        wait_for(lambda: roles() == {"fieldbook_b"}, description="connections of the new role only")
        admin.execute("DROP ROLE fieldbook_a")
        assert httpx.get(f"{running.client.base_url}/health", timeout=30).status_code == 200
    finally:
        admin.cluster.shutdown()
