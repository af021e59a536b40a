"""Run `concurrency` and `smoke` against the service of this checkout, in gunicorn with four workers.

    python -m tests.integration.local

This is `make integration`. It starts a Cassandra node, unless TEST_CASSANDRA_HOSTS (and TEST_CASSANDRA_PORT) name a
cluster, and uses a keyspace of its own with the sample rows. It stops and deletes all of that at the end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.local_cassandra.node import STATE, scratch_node
from routes import RESOURCES
from settings import Settings
from storage import db_connect, db_initialize
from tests.integration.__main__ import TOKEN_VARIABLE
from tests.support import PRODUCT, PROJECT, TESTBED, clean_environment, service
from tests.testbed import database

WORKERS = 4
# Seconds for each command. A loaded machine needs a multiple of what an idle one needs.
COMMAND_SECONDS = 300
# More than the 30 s that in-flight requests may take after POST /shutdown.
STOP_SECONDS = 60


@contextmanager
def cassandra() -> Iterator[tuple[str, int]]:
    """The host and port of the cluster that the environment names, or of a new node that is deleted at the end."""
    if hosts := os.environ.get("TEST_CASSANDRA_HOSTS"):
        yield hosts, int(os.environ.get("TEST_CASSANDRA_PORT") or 9042)
        return
    directory = STATE / f"integration-{os.getpid()}"
    node = scratch_node(directory)
    try:
        node.start()
        node.wait_until_ready()
        yield "127.0.0.1", node.native_port
    finally:
        node.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def keyspace(environment: dict[str, str]) -> Iterator[None]:
    """A keyspace with sample rows, which is dropped at the end."""
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    name = settings.cassandra_keyspace
    db_initialize.initialize(settings, say=lambda line: None)
    session = db_connect.open_session(settings, None)
    try:
        database.create_tables(session, name)
        yield
    finally:
        session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)
        session.cluster.shutdown()


def main() -> int:
    """Return the exit status: 0 if both commands succeed and the service then stops."""
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="fieldbook-") as directory, cassandra() as (host, port):
        environment = {
            "APP_ENV": "development",
            "CASSANDRA_HOSTS": host,
            "CASSANDRA_PORT": str(port),
            "CASSANDRA_KEYSPACE": f"fieldbook_integration_{uuid.uuid4().hex[:8]}",
            "SECRET_KEY": secrets.token_urlsafe(32),
            "OPERATOR_TOKEN": token,
            # As in production, where everything but health and documentation requires a token.
            "AUTH": "all",
            "WEB_CONCURRENCY": str(WORKERS),
        }
        # After the removal of the samples, a project may have no resource yet.
        app = PRODUCT if RESOURCES else TESTBED
        log = Path(directory) / "log"
        with keyspace(environment), service(environment, log, app=app) as running:
            for command in (["concurrency", "--rows", "50"], ["smoke", "--include-shutdown"]):
                status = subprocess.run(
                    [sys.executable, "-m", "tests.integration", "--app-url", str(running.client.base_url), *command],
                    cwd=PROJECT,
                    env=clean_environment() | {TOKEN_VARIABLE: token},
                    timeout=COMMAND_SECONDS,
                    check=False,
                ).returncode
                if status != 0:
                    sys.stderr.write(running.log_text()[-5000:])
                    return status
            # POST /shutdown was the last request of smoke.
            return running.process.wait(timeout=STOP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
