"""A real Cassandra for the suite, in a keyspace that is dropped at the end.

It is the one that `TEST_CASSANDRA_HOSTS` (and `TEST_CASSANDRA_PORT`) names, or a node of the suite's own. What `.env`
and `CASSANDRA_HOSTS` name is never touched.
"""

from __future__ import annotations

import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import Service, Wire, clean_environment, service

_given = {name: os.environ.get(name) for name in ("TEST_CASSANDRA_HOSTS", "TEST_CASSANDRA_PORT")}
_environment = clean_environment()
os.environ.clear()
os.environ.update(_environment)

# Only now: the settings read the environment when they are imported.
from cassandra.cluster import Session  # noqa: E402

from dev.local_cassandra.jars import NodeError  # noqa: E402
from dev.local_cassandra.node import STATE, Node, free_port  # noqa: E402
from settings import Settings, get_settings  # noqa: E402
from storage import db_connect, db_initialize  # noqa: E402

_node: Node | None = None
_hosts, _port = "127.0.0.1", 9042
_versions = ""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before the first test, so that a first download is not counted against its time limit."""
    global _node, _hosts, _port
    if session.config.option.collectonly:
        return
    if _given["TEST_CASSANDRA_HOSTS"]:
        _hosts, _port = _given["TEST_CASSANDRA_HOSTS"], int(_given["TEST_CASSANDRA_PORT"] or 9042)
    else:
        directory = STATE / f"tests-{os.getpid()}"
        _port = free_port()
        _node = Node(directory=directory, native_port=_port, storage_port=free_port())
        try:
            _node.start()
            _node.wait_until_ready()
        except BaseException as error:
            # After this pytest does not call pytest_sessionfinish.
            _node.stop()
            if isinstance(error, NodeError):
                pytest.exit(str(error), returncode=1)
            raise


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _node is not None:
        _node.stop()
        shutil.rmtree(_node.directory, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _versions:
        terminalreporter.write_line(f"Cassandra {_versions}, at {_hosts}:{_port}")


@pytest.fixture(scope="session")
def node() -> Node:
    """The suite's own node; a test that needs to stop it cannot run on somebody else's cluster."""
    if _node is None:
        pytest.skip("TEST_CASSANDRA_HOSTS names a cluster that is not ours to stop")
    return _node


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """The service's variables for the suite's Cassandra and keyspace, with the schema and the sample rows in it."""
    global _versions
    variables = {
        "CASSANDRA_HOSTS": _hosts,
        "CASSANDRA_PORT": str(_port),
        "CASSANDRA_KEYSPACE": f"fieldbook_test_{uuid.uuid4().hex[:12]}",
        "SECRET_KEY": "the secret of the tests",
        "LOG_LEVEL": "INFO",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        get_settings.cache_clear()
        settings = get_settings()
        db_initialize.initialize(settings, say=logging.getLogger("tests").info)
        session = db_connect.open_session(settings, None)
        _versions = session.execute("SELECT release_version FROM system.local").one()[0]
        yield variables
        db_connect.shutdown()
        session.execute(f"DROP KEYSPACE {settings.cassandra_keyspace}", timeout=60)
        session.cluster.shutdown()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def settings(environment: dict[str, str]) -> Settings:
    return get_settings()


@pytest.fixture(scope="session")
def session(settings: Settings) -> Iterator[Session]:
    """A session of the tests' own, to look into the tables."""
    session = db_connect.open_session(settings, settings.cassandra_keyspace)
    yield session
    session.cluster.shutdown()


@pytest.fixture(scope="session")
def live(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service under gunicorn with two workers, for every test that changes nothing about it."""
    with service(environment, tmp_path_factory.mktemp("live") / "log") as running:
        yield running


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts a service of the test's own: `start({"PORT": …}, "--preload", healthy=False)`."""
    with ExitStack() as stack:

        def start_service(variables: dict[str, str] | None = None, *arguments: str, healthy: bool = True) -> Service:
            log = tmp_path / f"service-{uuid.uuid4().hex[:6]}.log"
            return stack.enter_context(service(environment | (variables or {}), log, *arguments, healthy=healthy))

        yield start_service


@pytest.fixture
def wire(environment: dict[str, str]) -> Iterator[Wire]:
    """A relay to the suite's Cassandra: give its port to a service as CASSANDRA_PORT."""
    relay = Wire(_hosts.split(",")[0], _port)
    yield relay
    relay.release()
    relay.close()


@pytest.fixture(scope="session")
def add_users(session: Session) -> Callable[[str, int], None]:
    """Fills a keyspace's users table with rows fast: `add_users(keyspace, 200_000)`."""
    from cassandra.concurrent import execute_concurrent_with_args

    def add(keyspace: str, count: int) -> None:
        insert = session.prepare(
            f"INSERT INTO {keyspace}.users (id, name, email, age, created_at, updated_at, version) "
            "VALUES (?, ?, ?, ?, toTimestamp(now()), toTimestamp(now()), uuid())"
        )
        for begin in range(0, count, 20_000):
            rows = [
                (uuid.uuid4(), f"Observer {number}", f"observer{number}@example.org", number % 100)
                for number in range(begin, min(begin + 20_000, count))
            ]
            execute_concurrent_with_args(session, insert, rows, concurrency=200)

    return add


@pytest.fixture
def keyspace(settings: Settings, session: Session) -> Iterator[str]:
    """A keyspace of the test's own, with the schema and no rows."""
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    own = settings.model_copy(update={"cassandra_keyspace": name})
    db_initialize.initialize(own, samples=False, say=logging.getLogger("tests").info)
    yield name
    session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)
