"""Fixtures of all tests, and the Cassandra node that the functional tests use.

Unit tests need no Cassandra: `pytest tests/unit` starts no node, and `get_settings()` returns the defaults. All other
tests use the cluster that `TEST_CASSANDRA_HOSTS` and `TEST_CASSANDRA_PORT` name, or a node that this module starts,
of the version in `CASSANDRA_VERSION`.
Each run creates its own keyspace and drops it at the end. The clusters that `.env` and `CASSANDRA_HOSTS` name are
never touched.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from auth.callers import Scope
from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import STATE, Node, scratch_node
from environment import get_settings
from settings import Settings
from storage import db_connect, db_initialize
from storage.cql.statement import cql_text
from tests.sockets import MAX_BODY_BYTES
from tests.support import LARGE, PROJECT, TESTBED, Service, TcpProxy, access_token, bearer, clean_environment, service
from tests.testbed import database
from tests.testbed.db_io.observers import INSERT_OBSERVER, TABLE

_given = {name: os.environ.get(name) for name in ("TEST_CASSANDRA_HOSTS", "TEST_CASSANDRA_PORT")}
_environment = clean_environment()
os.environ.clear()
os.environ.update(_environment)

UNIT_TESTS = PROJECT / "tests" / "unit"

_node: Node | None = None
_hosts, _port = "127.0.0.1", 9042
_cassandra_version = ""


def needs_cassandra(item: pytest.Item) -> bool:
    """Return whether a test is outside tests/unit or uses a fixture that connects to Cassandra."""
    fixtures = getattr(item, "fixturenames", ())
    return not item.path.is_relative_to(UNIT_TESTS) or "environment" in fixtures or "node" in fixtures


# The files that take longest, in seconds about 60 to 200. pytest-xdist gives out whole files in this order. With a long
# file at the end, one of its two processes would be idle for minutes.
LONGEST = (
    "test_resource_generator",
    "test_job_worker",
    "test_openapi",
    "test_hostile_requests",
    "test_migrations_on_three_nodes",
    "test_probes",
    "test_run",
    "test_streaming",
    "test_graceful_shutdown",
    "test_docs",
    "test_migrations",
    "test_rate_limits",
    "test_types",
    "test_metrics",
)


def order(item: pytest.Item) -> tuple[bool, int]:
    """Return the sort key of a test: tests that need Cassandra are last, and of these the longest files first."""
    name = item.path.stem
    return needs_cassandra(item), LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the unit tests first, before the `environment` fixture changes the settings. See also LONGEST."""
    items.sort(key=order)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Start a node if a collected test needs one.

    The node starts before the first test, so that its download does not count against a test's time limit.
    """
    global _hosts, _port
    options = session.config.option
    will_run = not options.collectonly and (not session.testsfailed or options.continue_on_collection_errors)
    if not will_run or not any(needs_cassandra(item) for item in session.items):
        return
    if _given["TEST_CASSANDRA_HOSTS"]:
        _hosts, _port = _given["TEST_CASSANDRA_HOSTS"], int(_given["TEST_CASSANDRA_PORT"] or 9042)
    else:
        start_node()


def start_node() -> None:
    """Start a node on free ports and wait until it answers CQL. End the run if it does not."""
    global _node, _port
    directory = STATE / f"tests-{os.getpid()}"
    node = scratch_node(directory)
    _port = node.native_port
    STATE.mkdir(exist_ok=True)
    try:
        # Two processes of pytest-xdist must not download Cassandra at the same time.
        with (STATE / "tests.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            node.start()
        node.wait_until_ready()
    except BaseException as error:
        # The directory stays: the error message names the log in it.
        node.stop()
        if isinstance(error, NodeError):
            pytest.exit(str(error), returncode=1)
        raise
    _node = node


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _node is not None:
        _node.stop()
        shutil.rmtree(_node.directory, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _cassandra_version:
        terminalreporter.write_line(f"Cassandra {_cassandra_version}, at {_hosts}:{_port}")


@pytest.fixture(scope="session")
def node() -> Node:
    """The node that this run started.

    Tests that stop Cassandra use this fixture. They are skipped on the cluster that TEST_CASSANDRA_HOSTS names.
    """
    if _node is None:
        pytest.skip("needs a node that the test may stop; TEST_CASSANDRA_HOSTS names another cluster")
    return _node


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """The service's environment variables.

    They name a keyspace of this run, with the schema and the sample rows of the product and of the testbed.
    """
    global _cassandra_version
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
        database.create_tables(session, settings.cassandra_keyspace)
        database.insert_samples(session, settings.cassandra_keyspace)
        _cassandra_version = session.execute("SELECT release_version FROM system.local").one()[0]
        yield variables
        db_connect.reset()
        session.execute(f"DROP KEYSPACE {settings.cassandra_keyspace}", timeout=60)
        session.cluster.shutdown()
    get_settings.cache_clear()


@pytest.fixture(scope="session")
def cassandra_major(environment: dict[str, str]) -> int:
    """The major version of the Cassandra that the tests use: 5 for Cassandra 5.0.8."""
    return int(_cassandra_version.split(".")[0])


@pytest.fixture(scope="session")
def needs_cassandra_5(cassandra_major: int) -> None:
    """Skip a test that needs vectors or storage-attached indexes on a Cassandra that has neither."""
    if cassandra_major < 5:
        pytest.skip(f"Cassandra {_cassandra_version} has no vectors and no storage-attached indexes")


@pytest.fixture(scope="session")
def settings(environment: dict[str, str]) -> Settings:
    return get_settings()


@pytest.fixture(scope="session")
def session(settings: Settings) -> Iterator[Session]:
    """A session with which tests read and change tables directly, not through the service."""
    session = db_connect.open_session(settings, settings.cassandra_keyspace)
    yield session
    session.cluster.shutdown()


@pytest.fixture(scope="session")
def live(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service with two workers, which has the resources of the testbed too.

    It is shared by all tests that neither change its settings nor stop it.
    """
    with service(environment, tmp_path_factory.mktemp("live") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def guarded(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service with AUTH=all and two workers, which has the resources of the testbed too.

    Its clients are behind a trusted proxy, so that a test can send requests from any address.
    """
    variables = {"AUTH": "all", "TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "127.0.0.1"}
    with service(environment | variables, tmp_path_factory.mktemp("guarded") / "log") as running:
        yield running


@pytest.fixture
def as_account(guarded: Service, session: Session, settings: Settings) -> Iterator[Callable[..., httpx.Client]]:
    """Return a client that is signed in to a new account: `as_account(scopes=("read",))`. The service has AUTH=all."""
    with ExitStack() as stack:

        def client(scopes: Iterable[Scope] = ("read", "write")) -> httpx.Client:
            headers = bearer(access_token(settings, scopes, session))
            return stack.enter_context(httpx.Client(base_url=guarded.client.base_url, timeout=30, headers=headers))

        yield client


@pytest.fixture(scope="module")
def target(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A running service of one test module, for raw sockets: one worker, and short limits for bodies and idle clients.

    With one worker, the lines of its log are in the order of the requests.
    """
    variables = {"WEB_CONCURRENCY": "1", "CLIENT_IDLE_TIMEOUT": "1", "MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with service(environment | variables, tmp_path_factory.mktemp("target") / "log") as running:
        yield running


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Start a service for one test: `start({"LOG_LEVEL": "DEBUG"}, "--preload", healthy=False)`.

    It has one worker, unless WEB_CONCURRENCY says otherwise: each worker takes more than a second of processor time to
    import the application. It has the resources of the testbed too. `start(app=PRODUCT)` starts the product's own
    application.
    """
    with ExitStack() as stack:

        def start_service(
            variables: dict[str, str] | None = None, *arguments: str, healthy: bool = True, app: str = TESTBED
        ) -> Service:
            log = tmp_path / f"service-{uuid.uuid4().hex[:6]}.log"
            variables = {"WEB_CONCURRENCY": "1"} | (variables or {})
            running = service(environment | variables, log, *arguments, healthy=healthy, app=app)
            return stack.enter_context(running)

        yield start_service


@pytest.fixture
def proxy(environment: dict[str, str]) -> Iterator[TcpProxy]:
    """A TCP proxy in front of Cassandra. Pass its port to a service as CASSANDRA_PORT."""
    proxy = TcpProxy(_hosts.split(",")[0], _port)
    yield proxy
    proxy.resume()
    proxy.close()


@pytest.fixture(scope="session")
def add_observers(session: Session) -> Callable[[str, int], None]:
    """Insert many observers quickly: `add_observers(keyspace, 200_000)`."""

    def insert_observers(keyspace: str, count: int) -> None:
        insert = session.prepare(cql_text(INSERT_OBSERVER, keyspace))
        for first in range(0, count, 20_000):
            rows = [
                TABLE.new({"name": f"Observer {number}", "email": f"observer{number}@example.org", "age": number % 100})
                for number in range(first, min(first + 20_000, count))
            ]
            execute_concurrent_with_args(session, insert, rows, concurrency=200)

    return insert_observers


@pytest.fixture(scope="session")
def large_keyspace(settings: Settings, session: Session, add_observers: Callable[[str, int], None]) -> Iterator[str]:
    """A keyspace with LARGE observers and the sample rows, for streams. No test changes its rows."""
    with database.new_keyspace(session, settings) as name:
        database.insert_samples(session, name)
        add_observers(name, LARGE)
        yield name


@pytest.fixture(scope="module")
def own_session(settings: Settings, session: Session) -> Iterator[Session]:
    """A session with a keyspace of the module's own."""
    with database.new_keyspace(session, settings) as name:
        own = db_connect.open_session(settings.model_copy(update={"cassandra_keyspace": name}), name)
        yield own
        own.cluster.shutdown()


@pytest.fixture(scope="module")
def migrated(settings: Settings, session: Session) -> Iterator[str]:
    """A keyspace with the schema of the product only."""
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    own_settings = settings.model_copy(update={"cassandra_keyspace": name})
    db_initialize.initialize(own_settings, samples=False, say=lambda line: None)
    yield name
    session.execute(f"DROP KEYSPACE {name}", timeout=60)


@pytest.fixture
def keyspace(settings: Settings, session: Session) -> Iterator[str]:
    """The name of a new keyspace for one test, with the schema of the product and of the testbed, and no rows."""
    with database.new_keyspace(session, settings) as name:
        yield name
