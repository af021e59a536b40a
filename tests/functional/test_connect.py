"""The session of each process, outages of Cassandra, deadlines, and the cache of prepared statements.

Each process opens one session, after the fork and in the background.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from environment import get_settings
from settings import Settings
from storage import db_connect
from storage.cql import KeyRange, QueryOptions
from storage.errors import StorageError, StorageTimeout, StorageUnavailable
from tests.support import OBSERVER, PROJECT, Service, TcpProxy, clean_environment, wait_for
from tests.testbed import database
from tests.testbed.db_io import finds
from tests.testbed.sample_data.finds import HAWKWEEDS
from web.errors import PROBLEM_TYPE


def test_concurrent_threads_share_one_session(settings: Settings) -> None:
    """64 concurrent first calls return one session; a call after reset() opens a new session."""
    db_connect.reset()
    with ThreadPoolExecutor(32) as pool:
        sessions = set(pool.map(lambda _: db_connect.get_session(timeout=20), range(64)))
    assert len(sessions) == 1
    (first,) = sessions
    db_connect.reset()
    assert first.is_shutdown
    assert first.cluster.is_shutdown
    assert db_connect.get_session(timeout=20) is not first
    db_connect.reset()


def test_no_session_is_opened_after_shutdown(settings: Settings) -> None:
    """A request that runs longer than its worker's graceful timeout gets an error, not a new session."""
    db_connect.reset()
    first = db_connect.get_session(timeout=20)
    db_connect.shutdown()
    try:
        assert first.cluster.is_shutdown
        with pytest.raises(StorageUnavailable, match="ending"):
            db_connect.get_session(timeout=20)
        db_connect.start_connecting()
        assert db_connect.session_if_open() is None
        assert "cassandra-connect" not in [thread.name for thread in threading.enumerate()]
    finally:
        db_connect.reset()


FORK = """
import os, sys
from storage import db_connect
from storage.cql import KeyRange, QueryOptions
from tests.testbed.db_io import finds

def rows():
    session = db_connect.get_session(timeout=20)
    return [len(page) for page in finds.stream_finds(session, "Quercus", KeyRange(), QueryOptions())], session

before, session = rows()
children = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        inherited = session
        mine, session = rows()
        db_connect.shutdown()
        os._exit(0 if mine == before and session is not inherited else 1)
    children.append(pid)
statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
after, same = rows()
assert after == before and same is session, "the parent lost its session"
db_connect.reset()
sys.exit(max(statuses))
"""


def test_forked_process_opens_its_own_session(environment: dict[str, str]) -> None:
    """A process forked while a session is open opens its own session; the parent keeps its session."""
    run = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=PROJECT,
        env=clean_environment() | environment,
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), pytest.param(("--preload",), marks=pytest.mark.slow)],
    ids=["without preload", "with preload"],
)
def test_every_worker_connects_with_and_without_preload(
    start: Callable[..., Service], arguments: tuple[str, ...]
) -> None:
    """Each worker connects, whether gunicorn loads the application before or after the fork."""
    running = start({"WEB_CONCURRENCY": "3"}, *arguments)
    wait_for(lambda: running.log_text().count("Connected to Cassandra") == 3, description="three sessions")
    for _ in range(30):
        assert running.client.get("/find/Quercus").status_code == 200
    running.process.terminate()
    assert running.process.wait(timeout=20) == 0
    assert "Traceback" not in running.log_text()


# --- Cassandra becomes unavailable and available again ---------------------------------------------------


def assert_serves_without_cassandra(running: Service) -> None:
    """Check that routes that need no Cassandra respond as usual, and other routes with 503 within 2 s."""
    began = time.monotonic()
    health = running.client.get("/health")
    assert time.monotonic() - began < 2
    assert health.status_code == 503
    body = health.json()
    assert (body["status"], body["cassandra"], body["nodes"]["up"]) == ("unhealthy", "disconnected", 0)
    assert body["quorum"] is False
    response = running.client.get("/health", headers={"X-Request-Timeout": "1"})
    assert (response.status_code, response.headers["Content-Type"]) in (
        (503, "application/json"),
        (504, PROBLEM_TYPE),
    )
    for path, status in (("/health/live", 200), ("/", 200), ("/docs", 200), ("/openapi.json", 200), ("/nope", 404)):
        assert running.client.get(path).status_code == status
    assert running.client.delete("/observers").status_code == 405
    assert running.client.options("/observers").status_code == 200
    began = time.monotonic()
    rejected = running.client.get("/observers", headers={"X-Request-Timeout": "1"})
    assert time.monotonic() - began < 2
    assert rejected.status_code == 503
    assert rejected.headers["Retry-After"]


def test_service_starts_before_cassandra_and_connects_later(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """The service starts without Cassandra, logs the failure, and connects without a restart."""
    proxy.disconnect()
    running = start({"CASSANDRA_PORT": str(proxy.port)}, healthy=False)
    wait_for(
        lambda: "No connection to Cassandra" in running.log_text(), description="the log line about the connection"
    )
    assert_serves_without_cassandra(running)
    proxy.reconnect()
    wait_for(running.healthy, timeout=30, description="the service to be healthy")
    assert running.client.get("/find/Quercus").status_code == 200


@pytest.mark.slow
def test_requests_keep_deadlines_while_cassandra_does_not_respond(
    start: Callable[..., Service], proxy: TcpProxy
) -> None:
    """Cassandra accepts connections at start-up but sends nothing.

    Requests keep their deadlines, and each worker opens only one connection.
    """
    proxy.pause()
    running = start(
        {"CASSANDRA_PORT": str(proxy.port), "CASSANDRA_CONNECT_TIMEOUT": "30", "WEB_CONCURRENCY": "2"}, healthy=False
    )
    with ThreadPoolExecutor(20) as pool:
        one_second = {"X-Request-Timeout": "1"}
        began = time.monotonic()
        statuses = list(pool.map(lambda _: running.client.get("/observers", headers=one_second).status_code, range(20)))
        assert time.monotonic() - began < 4
    assert statuses == [503] * 20
    assert_serves_without_cassandra(running)
    assert proxy.accepted <= 2
    proxy.resume()
    wait_for(running.healthy, timeout=30, description="the service to be healthy")


@pytest.mark.slow
def test_service_reconnects_after_an_outage(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """During an outage /health is 503; afterwards the service reconnects by itself."""
    running = start({"CASSANDRA_PORT": str(proxy.port), "CASSANDRA_RECONNECT_MAX": "1"})
    proxy.disconnect()
    wait_for(lambda: running.client.get("/health").status_code == 503, description="/health to return 503")
    assert_serves_without_cassandra(running)
    proxy.reconnect()
    wait_for(running.healthy, timeout=15, description="the service to be healthy")
    wait_for(
        lambda: running.client.get("/find/Quercus").status_code == 200, timeout=5, description="rows to be readable"
    )


@pytest.mark.slow
def test_service_connects_once_its_missing_keyspace_is_created(start: Callable[..., Service], session: Session) -> None:
    """The log names the command that creates the keyspace; then the service connects without a restart."""
    running = start({"CASSANDRA_KEYSPACE": "fieldbook_test_missing"}, healthy=False)
    wait_for(lambda: "run: flask --app api db upgrade" in running.log_text(), description="the command in the log")
    assert running.client.get("/observers").status_code == 503
    try:
        variables = {"CASSANDRA_KEYSPACE": "fieldbook_test_missing"}
        subprocess.run(
            [sys.executable, "storage/db_initialize.py", "--no-samples"],
            cwd=PROJECT,
            env=clean_environment() | dict(connection_variables(get_settings())) | variables,
            timeout=90,
            check=True,
            capture_output=True,
        )
        wait_for(running.healthy, description="the service to be healthy")
        database.create_tables(session, "fieldbook_test_missing")
        assert running.client.get("/observers").json() == []
    finally:
        session.execute("DROP KEYSPACE IF EXISTS fieldbook_test_missing", timeout=60)


def connection_variables(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "CASSANDRA_HOSTS", ",".join(settings.cassandra_hosts)
    yield "CASSANDRA_PORT", str(settings.cassandra_port)


# --- deadlines ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_504_is_sent_at_the_deadline(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """A 504 is sent at the deadline, before the query ends.

    For a write, the problem document says that it may have been applied.
    """
    running = start({"CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1", "CASSANDRA_HEARTBEAT_TIMEOUT": "30"})
    url = running.client.post("/observers", json=OBSERVER).headers["Location"]
    assert running.client.patch(url, json={"age": 1}).status_code == 200
    other = running.client.post("/observers", json=OBSERVER).headers["Location"]
    assert running.client.delete(other).status_code == 204
    proxy.pause()
    headers = {"X-Request-Timeout": "0.7"}
    for method, path, body in (
        ("GET", "/observers", None),
        ("GET", url, None),
        # This statement is not prepared yet: its preparation counts against the deadline too.
        ("GET", "/find/Quercus", None),
        ("POST", "/observers", OBSERVER),
        ("PATCH", url, {"age": 5}),
        ("DELETE", url, None),
    ):
        began = time.monotonic()
        response = running.client.request(method, path, json=body, headers=headers)
        elapsed = time.monotonic() - began
        assert response.status_code == 504, (method, response.text)
        assert 0.6 < elapsed < 1.7
        # The PATCH was still reading the observer and had written nothing.
        assert ("may have been applied" in response.json()["detail"]) == (method in ("POST", "DELETE"))
    proxy.resume()
    assert wait_for(lambda: running.client.get("/find/Quercus").status_code == 200, timeout=10)


def test_a_process_refuses_a_second_session_with_other_settings(settings: Settings) -> None:
    """Otherwise an application with other settings would read and write the wrong keyspace."""
    db_connect.reset()
    db_connect.get_session(20, settings)
    assert db_connect.get_session(20, settings.model_copy()) is db_connect.get_session(20)
    with pytest.raises(RuntimeError, match="other settings"):
        db_connect.get_session(20, settings.model_copy(update={"cassandra_keyspace": "another"}))
    db_connect.reset()


# --- prepared statements -----------------------------------------------------------------------------------


@pytest.fixture
def counting_session(settings: Settings, keyspace: str) -> Iterator[Session]:
    """A session on an empty keyspace; its `prepared` lists the CQL of each prepared statement."""
    session = db_connect.open_session(settings, keyspace)
    session.prepared = []  # type: ignore[attr-defined]
    add_prepared = session.cluster.add_prepared

    def record_and_add(query_id: bytes, prepared: PreparedStatement) -> None:
        session.prepared.append(prepared.query_string)  # type: ignore[attr-defined]
        add_prepared(query_id, prepared)

    session.cluster.add_prepared = record_and_add
    yield session
    session.cluster.shutdown()


def store_and_count(session: Session) -> int:
    """Insert one oak and return the number of oaks."""
    finds.store_find(session, finds.Find("Quercus", "robur", 1), QueryOptions())
    return sum(len(page) for page in finds.stream_finds(session, "Quercus", KeyRange(), QueryOptions()))


def test_concurrent_threads_prepare_each_statement_once(counting_session: Session) -> None:
    """200 concurrent calls on 32 threads prepare three statements once each.

    These are an INSERT, a SELECT JSON, and the same SELECT without JSON, whose metadata names the timestamp columns.
    """
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: store_and_count(counting_session), range(200))) == {1}
    assert len(counting_session.prepared) == len(set(counting_session.prepared)) == 3  # type: ignore[attr-defined]


def test_statements_evicted_by_the_server_are_prepared_again(counting_session: Session, keyspace: str) -> None:
    """Dropping a table evicts its prepared statements; the driver prepares them again."""
    assert store_and_count(counting_session) == 1
    counting_session.execute(f"DROP TABLE {keyspace}.finds", timeout=60)
    counting_session.execute(
        f"CREATE TABLE {keyspace}.finds (genus text, species text, sightings int, PRIMARY KEY (genus, species))",
        timeout=60,
    )
    assert store_and_count(counting_session) == 1


def test_prepared_statements_follow_a_keyspace_change(
    counting_session: Session, keyspace: str, settings: Settings
) -> None:
    """After USE the same functions read the new keyspace.

    After a second USE they read the first one again.
    """
    assert store_and_count(counting_session) == 1
    counting_session.set_keyspace(settings.cassandra_keyspace)
    hawkweeds = sum(len(page) for page in finds.stream_finds(counting_session, "Hieracium", KeyRange(), QueryOptions()))
    assert hawkweeds == HAWKWEEDS
    counting_session.set_keyspace(keyspace)
    assert store_and_count(counting_session) == 1
    assert sum(len(page) for page in finds.stream_finds(counting_session, "Hieracium", KeyRange(), QueryOptions())) == 0


def test_failed_preparation_is_retried_by_the_next_call(counting_session: Session, keyspace: str) -> None:
    """A statement whose column was missing works once the column exists."""
    counting_session.execute(f"ALTER TABLE {keyspace}.finds RENAME species TO kind", timeout=60)
    with pytest.raises(StorageError):
        store_and_count(counting_session)
    counting_session.execute(f"ALTER TABLE {keyspace}.finds RENAME kind TO species", timeout=60)
    assert store_and_count(counting_session) == 1


def test_preparation_respects_the_deadline(settings: Settings, proxy: TcpProxy) -> None:
    """A call raises StorageTimeout at its deadline; the next call succeeds."""
    through_proxy = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": proxy.port})
    session = db_connect.open_session(through_proxy, settings.cassandra_keyspace)
    try:
        proxy.pause()
        began = time.monotonic()
        with pytest.raises(StorageTimeout):
            finds.retrieve_find(session, "Quercus", "robur", QueryOptions(deadline=began + 0.4))
        assert 0.3 < time.monotonic() - began < 1.5
        proxy.resume()
        assert finds.retrieve_find(session, "Quercus", "robur", QueryOptions()) == ("Quercus", "robur", 41)
    finally:
        session.cluster.shutdown()


def test_get_session_without_cassandra_raises_storage_unavailable(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Cassandra get_session() raises within its timeout, and one thread keeps retrying."""
    monkeypatch.setenv("CASSANDRA_PORT", "1")
    get_settings.cache_clear()
    db_connect.reset()
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(StorageUnavailable):
                db_connect.get_session(timeout=5)
            assert time.monotonic() - began < 6
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("cassandra-connect") == 1
    finally:
        db_connect.reset()
        monkeypatch.undo()
        get_settings.cache_clear()
