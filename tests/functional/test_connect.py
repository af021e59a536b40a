"""The session: one a process, after the fork, in the background; and the statements prepared on it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cassandra.cluster import Session

from settings import Settings, get_settings
from storage import db_connect, db_io
from storage.cql.execution import QueryOptions
from storage.errors import StorageError, StorageTimeout, StorageUnavailable
from tests.support import PROJECT, USER, Service, Wire, clean_environment, wait_for
from web.errors import PROBLEM_TYPE


def test_threads_share_one_session(settings: Settings) -> None:
    """Threads that race to be first get the same session; after a shutdown there is a new one."""
    db_connect.shutdown()
    with ThreadPoolExecutor(32) as pool:
        sessions = set(pool.map(lambda _: db_connect.get_session(timeout=20), range(64)))
    assert len(sessions) == 1
    (first,) = sessions
    db_connect.shutdown()
    assert first.is_shutdown
    assert first.cluster.is_shutdown
    assert db_connect.get_session(timeout=20) is not first
    db_connect.shutdown()


FORK = """
import os, sys
from storage import db_connect, db_io
from storage.cql.execution import QueryOptions

def rows():
    session = db_connect.get_session(timeout=20)
    return [len(page) for page in db_io.retrieve_animals_by_genus(session, "Lynx", QueryOptions())], session

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
db_connect.shutdown()
sys.exit(max(statuses))
"""


def test_a_fork_gets_a_session_of_its_own(environment: dict[str, str]) -> None:
    """Children forked with the session open make their own, and the parent's goes on."""
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


@pytest.mark.parametrize("arguments", [(), ("--preload",)])
def test_workers_with_and_without_preload(start: Callable[..., Service], arguments: tuple[str, ...]) -> None:
    """Each worker answers from Cassandra, whether the application was loaded before or after the fork."""
    running = start({"WEB_CONCURRENCY": "3"}, *arguments)
    wait_for(lambda: running.log_text().count("Connected to Cassandra") == 3, what="three sessions")
    for _ in range(30):
        assert running.client.get("/animal/Lynx").status_code == 200
    running.process.terminate()
    assert running.process.wait(timeout=20) == 0
    assert "Traceback" not in running.log_text()


# --- Cassandra down and up ---------------------------------------------------------------------------------


def assert_up_without_cassandra(running: Service) -> None:
    """What does not need the database is answered as always; what does gets its 503, and soon."""
    began = time.monotonic()
    health = running.client.get("/health")
    assert time.monotonic() - began < 2
    assert health.status_code == 503
    body = health.json()
    assert (body["status"], body["cassandra"], body["nodes"]["up"]) == ("unhealthy", "disconnected", 0)
    hurried = running.client.get("/health", headers={"X-Request-Timeout": "1"})
    assert (hurried.status_code, hurried.headers["Content-Type"]) in ((503, "application/json"), (504, PROBLEM_TYPE))
    for path, status in (("/health/live", 200), ("/", 200), ("/docs", 200), ("/openapi.json", 200), ("/nope", 404)):
        assert running.client.get(path).status_code == status
    assert running.client.delete("/users").status_code == 405
    assert running.client.options("/users").status_code == 200
    began = time.monotonic()
    refused = running.client.get("/users", headers={"X-Request-Timeout": "1"})
    assert time.monotonic() - began < 2
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]


def test_cassandra_down_at_the_start(start: Callable[..., Service], wire: Wire) -> None:
    """The service starts, says what is wrong, and connects when Cassandra comes, without a restart."""
    wire.cut()
    running = start({"CASSANDRA_PORT": str(wire.port)}, healthy=False)
    wait_for(lambda: "No connection to Cassandra" in running.log_text(), what="the log line")
    assert_up_without_cassandra(running)
    wire.mend()
    wait_for(running.healthy, timeout=30, what="health")
    assert running.client.get("/animal/Lynx").status_code == 200


def test_cassandra_silent_at_the_start(start: Callable[..., Service], wire: Wire) -> None:
    """A server that takes connections and says nothing: requests keep their deadlines, each worker tries once."""
    wire.hold()
    running = start({"CASSANDRA_PORT": str(wire.port), "CASSANDRA_CONNECT_TIMEOUT": "30"}, healthy=False)
    with ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        statuses = list(
            pool.map(lambda _: running.client.get("/users", headers={"X-Request-Timeout": "1"}).status_code, range(20))
        )
        assert time.monotonic() - began < 4
    assert statuses == [503] * 20
    assert_up_without_cassandra(running)
    assert wire.accepted <= 2
    wire.release()
    wait_for(running.healthy, timeout=30, what="health")


def test_cassandra_goes_and_comes_back(start: Callable[..., Service], wire: Wire) -> None:
    """A service that has lost Cassandra says so, and finds it again within the reconnection settings."""
    running = start({"CASSANDRA_PORT": str(wire.port), "CASSANDRA_RECONNECT_MAX": "1"})
    wire.cut()
    wait_for(lambda: running.client.get("/health").status_code == 503, what="503")
    assert_up_without_cassandra(running)
    wire.mend()
    wait_for(running.healthy, timeout=15, what="health")
    wait_for(lambda: running.client.get("/animal/Lynx").status_code == 200, timeout=5, what="rows")


def test_missing_keyspace(start: Callable[..., Service], session: Session) -> None:
    """The log says what to run; once it has run, the service finds the keyspace by itself."""
    running = start({"CASSANDRA_KEYSPACE": "fieldbook_test_missing"}, healthy=False)
    wait_for(lambda: "run: python storage/db_initialize.py" in running.log_text(), what="the advice")
    assert running.client.get("/users").status_code == 503
    try:
        variables = {"CASSANDRA_KEYSPACE": "fieldbook_test_missing"}
        subprocess.run(
            [sys.executable, "storage/db_initialize.py", "--no-samples"],
            cwd=PROJECT,
            env=clean_environment() | dict(_connection(get_settings())) | variables,
            timeout=90,
            check=True,
            capture_output=True,
        )
        wait_for(running.healthy, what="health")
        assert running.client.get("/users").json() == []
    finally:
        session.execute("DROP KEYSPACE IF EXISTS fieldbook_test_missing", timeout=60)


def _connection(settings: Settings) -> Iterator[tuple[str, str]]:
    yield "CASSANDRA_HOSTS", ",".join(settings.cassandra_hosts)
    yield "CASSANDRA_PORT", str(settings.cassandra_port)


# --- deadlines ---------------------------------------------------------------------------------------------


def test_504_at_the_deadline(start: Callable[..., Service], wire: Wire) -> None:
    """The answer comes at the deadline and not when the query ends; a write says that it may have been applied."""
    running = start({"CASSANDRA_PORT": str(wire.port), "WEB_CONCURRENCY": "1", "CASSANDRA_HEARTBEAT_TIMEOUT": "30"})
    url = running.client.post("/users", json=USER).headers["Location"]
    assert running.client.patch(url, json={"age": 1}).status_code == 200
    other = running.client.post("/users", json=USER).headers["Location"]
    assert running.client.delete(other).status_code == 204
    wire.hold()
    headers = {"X-Request-Timeout": "0.7"}
    for method, path, body in (
        ("GET", "/users", None),
        ("GET", url, None),
        # Not prepared yet: the preparation spends the deadline too.
        ("GET", "/plant/Quercus", None),
        ("POST", "/users", USER),
        ("PATCH", url, {"age": 5}),
        ("DELETE", url, None),
    ):
        began = time.monotonic()
        response = running.client.request(method, path, json=body, headers=headers)
        elapsed = time.monotonic() - began
        assert response.status_code == 504, (method, response.text)
        assert 0.6 < elapsed < 1.7
        # The PATCH did not come further than its read.
        assert ("may have been applied" in response.json()["detail"]) == (method in ("POST", "DELETE"))
    wire.release()
    assert wait_for(lambda: running.client.get("/plant/Quercus").status_code == 200, timeout=10)


# --- prepared statements -----------------------------------------------------------------------------------


@pytest.fixture
def own(settings: Settings, keyspace: str) -> Iterator[Session]:
    """A session on a keyspace of the test's own that counts what it prepares."""
    session = db_connect.open_session(settings, keyspace)
    session.prepared = []  # type: ignore[attr-defined]
    prepare = session.prepare

    def counting(cql: str) -> Any:
        session.prepared.append(cql)  # type: ignore[attr-defined]
        return prepare(cql)

    session.prepare = counting
    yield session
    session.cluster.shutdown()


def store_and_count(session: Session) -> int:
    db_io.store_plant(session, ("Quercus", "robur", 1))
    return sum(len(page) for page in db_io.retrieve_plants_by_genus(session, "Quercus"))


def test_each_statement_is_prepared_once(own: Session) -> None:
    """However many threads ask for it first, a statement is prepared once."""
    with ThreadPoolExecutor(32) as pool:
        assert set(pool.map(lambda _: store_and_count(own), range(200))) == {1}
    assert len(own.prepared) == len(set(own.prepared)) == 2  # type: ignore[attr-defined]


def test_a_statement_that_the_server_forgot(own: Session, keyspace: str) -> None:
    """The server drops its prepared statements with a table; the driver prepares them again, and nobody notices."""
    assert store_and_count(own) == 1
    own.execute(f"DROP TABLE {keyspace}.plants", timeout=60)
    own.execute(
        f"CREATE TABLE {keyspace}.plants (genus text, species text, sightings int, PRIMARY KEY (genus, species))",
        timeout=60,
    )
    assert store_and_count(own) == 1


def test_a_keyspace_change(own: Session, keyspace: str, settings: Settings) -> None:
    """After USE, the same functions work on the keyspace in use, and after another USE on the first again."""
    assert store_and_count(own) == 1
    own.set_keyspace(settings.cassandra_keyspace)
    others = sum(len(page) for page in db_io.retrieve_plants_by_genus(own, "Hieracium"))
    assert others == 12_000
    own.set_keyspace(keyspace)
    assert store_and_count(own) == 1
    assert sum(len(page) for page in db_io.retrieve_plants_by_genus(own, "Hieracium")) == 0


def test_a_preparation_that_failed_is_tried_again(own: Session, keyspace: str) -> None:
    """A statement whose table was missing works once the table is there."""
    own.execute(f"ALTER TABLE {keyspace}.plants RENAME species TO kind", timeout=60)
    with pytest.raises(StorageError):
        store_and_count(own)
    own.execute(f"ALTER TABLE {keyspace}.plants RENAME kind TO species", timeout=60)
    assert store_and_count(own) == 1


def test_a_preparation_keeps_the_deadline(settings: Settings, wire: Wire) -> None:
    """A caller whose deadline comes first leaves; the preparation goes on, and the next caller finds it."""
    through = settings.model_copy(update={"cassandra_hosts": ("127.0.0.1",), "cassandra_port": wire.port})
    session = db_connect.open_session(through, settings.cassandra_keyspace)
    try:
        wire.hold()
        began = time.monotonic()
        with pytest.raises(StorageTimeout):
            db_io.retrieve_plant(session, "Quercus", "robur", QueryOptions(deadline=began + 0.4))
        assert 0.3 < time.monotonic() - began < 1.5
        wire.release()
        assert db_io.retrieve_plant(session, "Quercus", "robur", QueryOptions()) == ("Quercus", "robur", 41)
    finally:
        session.cluster.shutdown()


def test_no_session_raises_what_storage_raises(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Cassandra get_session() fails within its time-out, first waiting, then at once."""
    monkeypatch.setenv("CASSANDRA_PORT", "1")
    get_settings.cache_clear()
    db_connect.shutdown()
    try:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(StorageUnavailable):
                db_connect.get_session(timeout=5)
            assert time.monotonic() - began < 6
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("cassandra-connect") == 1
    finally:
        db_connect.shutdown()
        monkeypatch.undo()
        get_settings.cache_clear()
