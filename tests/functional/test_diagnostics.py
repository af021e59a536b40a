"""The diagnostics: each says that all is well when it is, and what is wrong when that has been broken."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from cassandra.cluster import Cluster, Session
from flask.testing import FlaskClient

from api import create_app
from local_cassandra.node import free_port
from settings import Settings
from storage import db_connect, execution, probes
from storage.db_io import DiagnosticRow, diagnostic_rows, diagnostics
from storage.db_io.statements import Statement, bound
from storage.errors import StorageError
from storage.execution import QueryOptions, Stream
from tests.functional.test_errors import assert_problem
from tests.support import Service, Wire, wait_for

SAFETY = "/context_manager_safety"
QUERY_ERROR, STREAMING_ERROR = f"{SAFETY}/query_error", f"{SAFETY}/streaming_error"
CONCURRENT, NESTED, CANCELLATION = f"{SAFETY}/concurrent_streams", f"{SAFETY}/nested_contexts", f"{SAFETY}/cancellation"
STATUS = f"{SAFETY}/status"
FAST = [
    ("GET", "/performance/async?requests=20"),
    ("GET", "/performance/sync?requests=20"),
    ("POST", QUERY_ERROR),
    ("POST", STREAMING_ERROR),
    ("POST", CONCURRENT),
    ("POST", NESTED),
    ("POST", CANCELLATION),
]
SLOW = [("GET", "/slow_query"), ("GET", "/long_running_query")]
TOKEN = "the token of the operators"


@pytest.fixture(autouse=True)
def _nothing_is_left(session: Session, settings: Settings) -> Iterator[None]:
    """Fails a test, also of a probe that fails, after which a row of the diagnostics is left or a user was touched."""

    def users() -> set[Any]:
        return set(session.execute(f"SELECT id, name, age, version FROM {settings.cassandra_keyspace}.users"))

    before = users()
    yield
    # What failed is deleted without anybody waiting for it.
    wait_for(lambda: not rows_left(session, settings), timeout=10, what="the end of the diagnostics' rows")
    assert users() == before


def rows_left(session: Session, settings: Settings) -> list[Any]:
    """The time to live, in seconds, of each row in the diagnostics' table."""
    return list(session.execute(f"SELECT TTL(name) FROM {settings.cassandra_keyspace}.diagnostics"))


@pytest.fixture
def running(settings: Settings) -> Iterator[Session]:
    """The session of this process, which the in-process service works with, as a worker has it."""
    db_connect.shutdown()
    yield db_connect.get_session(timeout=20)
    db_connect.shutdown()


@pytest.fixture
def client(running: Session) -> FlaskClient:
    """A client of a service in this process, where a test can break what a probe looks at."""
    return create_app().test_client()


@pytest.fixture
def behind(start: Callable[..., Service], wire: Wire) -> Service:
    """A service with one worker, whose way to Cassandra is the wire."""
    return start({"CASSANDRA_PORT": str(wire.port), "WEB_CONCURRENCY": "1"})


def at_error(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Makes something happen whenever the driver raises: an error that does harm."""
    translate = execution.translate

    def harmful(*arguments: Any) -> StorageError:
        happens()
        return translate(*arguments)

    monkeypatch.setattr(execution, "translate", harmful)


# --- performance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/performance/async", "/performance/sync"])
@pytest.mark.parametrize(("query", "requests"), [("", 100), ("?requests=1", 1), ("?requests=1000", 1000)])
def test_performance(live: Service, path: str, query: str, requests: int) -> None:
    """The figures agree with each other, and with the time that the request took."""
    started = time.monotonic()
    response = live.client.get(path + query, headers={"X-Request-Timeout": "30"})
    elapsed = time.monotonic() - started
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"requests", "total_time", "avg_time_per_request", "requests_per_second", "errors"}
    assert (body["requests"], body["errors"]) == (requests, 0)
    assert 0 < body["total_time"] < elapsed
    assert body["avg_time_per_request"] == pytest.approx(body["total_time"] / requests)
    assert body["requests_per_second"] == pytest.approx(requests / body["total_time"])


def test_queries_are_sent_at_once_or_one_by_one(client: FlaskClient, running: Session) -> None:
    """Async has all queries on their way before the first is answered, sync never more than one."""
    most = waiting = 0
    lock = threading.Lock()

    def count(step: int) -> None:
        nonlocal most, waiting
        with lock:
            waiting += step
            most = max(most, waiting)

    def sent(future: Any) -> None:
        count(1)
        future.add_callbacks(lambda rows: count(-1), lambda error: count(-1))

    client.get("/performance/sync?requests=1")
    running.add_request_init_listener(sent)
    assert client.get("/performance/sync?requests=50").status_code == 200
    assert most == 1
    assert client.get("/performance/async?requests=500").status_code == 200
    assert most > 50


@pytest.mark.parametrize("path", ["/performance/async", "/performance/sync"])
@pytest.mark.parametrize("value", ["0", "1001", "abc", "-1", "1.5", ""])
def test_requests_out_of_range(live: Service, path: str, value: str) -> None:
    """422 names the parameter."""
    problem = assert_problem(live.client.get(f"{path}?requests={value}"), 422)
    assert problem["errors"][0]["loc"] == ["query", "requests"]


def test_async_counts_errors(client: FlaskClient, running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 queries, every second of which the server fails to answer, 10 are errors."""
    with diagnostic_rows(running, [DiagnosticRow(15, 1, "fails")], QueryOptions()) as run_id:
        sent = 0

        def every_second_fails(session: Session, statement: Statement, values: Any, options: QueryOptions) -> Any:
            nonlocal sent
            sent += 1
            if sent % 2:
                return bound(session, statement, values, options)
            return bound(session, diagnostics.SELECT_DIAGNOSTICS_FAILING, (run_id,), options)

        monkeypatch.setattr(diagnostics, "bound", every_second_fails)
        body = client.get("/performance/async?requests=20").get_json()
        assert (body["requests"], body["errors"]) == (20, 10)
        monkeypatch.undo()


def test_sync_counts_errors(behind: Service, wire: Wire) -> None:
    """When the way to Cassandra is cut midway, the rest of the queries are errors."""
    assert behind.client.get("/performance/sync?requests=1").status_code == 200
    before = wire.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(behind.client.get, "/performance/sync?requests=1000", headers={"X-Request-Timeout": "30"})
        wait_for(lambda: wire.bytes_to_client > before + 1000, what="the first answers")
        wire.cut()
        response = asked.result()
    assert response.status_code == 200, response.text
    assert response.json()["requests"] == 1000
    assert 0 < response.json()["errors"] < 1000


# --- slow queries ------------------------------------------------------------------------------------------


def test_slow_query(live: Service) -> None:
    """It reads for five seconds, at its pace."""
    response = live.client.get("/slow_query")
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"message", "seconds", "queries"}
    assert 5 <= body["seconds"] < 6
    assert 15 <= body["queries"] <= 21
    # For real: in another test the same reads fail when Cassandra does.
    assert 0 < float(re.search(r"db;dur=([\d.]+)", response.headers["Server-Timing"])[1]) < 5000  # type: ignore[index]


def test_slow_query_ends_at_the_deadline(live: Service) -> None:
    """A deadline within the five seconds is answered 504, when it comes."""
    started = time.monotonic()
    assert_problem(live.client.get("/slow_query", headers={"X-Request-Timeout": "1"}), 504)
    assert 1 <= time.monotonic() - started < 1.5


def test_long_running_query(start: Callable[..., Service]) -> None:
    """It takes ten seconds, also where requests usually have one, and its worker answers others meanwhile."""
    running = start({"WEB_CONCURRENCY": "1", "REQUEST_TIMEOUT": "1"})
    assert_problem(running.client.get("/slow_query"), 504)
    answered = 0
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.client.get, "/long_running_query")
        while not asked.done():
            started = time.monotonic()
            assert running.client.get("/users?limit=1").status_code == 200
            assert time.monotonic() - started < 1
            answered += 1
            asked_for = threading.Event()
            asked.add_done_callback(lambda _, done=asked_for: done.set())
            asked_for.wait(0.2)
    response = asked.result()
    assert response.status_code == 200, response.text
    assert 10 <= response.json()["seconds"] < 11
    assert 30 <= response.json()["queries"] <= 41
    assert answered > 20


@pytest.mark.parametrize("path", [path for _, path in SLOW])
def test_slow_queries_fail_with_cassandra(behind: Service, wire: Wire, path: str) -> None:
    """Their reads are real: cut off midway, the answer is an error."""
    before = wire.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(behind.client.get, path, headers={"X-Request-Timeout": "8"})
        wait_for(lambda: wire.bytes_to_client > before, what="a first read")
        wire.cut()
        assert_problem(asked.result(), 503)


# --- errors ------------------------------------------------------------------------------------------------


def test_query_error(live: Service) -> None:
    """The missing table is named, and the session is as before."""
    response = live.client.post(QUERY_ERROR)
    assert response.status_code == 200
    body = response.json()
    assert "non_existent_table_xyz" in body.pop("error_caught")
    assert re.match(r"\d+\.\d+", body.pop("cassandra_version"))
    assert body == {"session_unchanged": True, "session_open": True, "session_still_works": True}
    # It is expected, so that it must not look like a fault.
    assert " ERROR " not in live.log_text()


def test_query_error_without_an_error(client: FlaskClient, session: Session, settings: Settings) -> None:
    """Where the table exists, no error is caught, and the answer says so."""
    session.execute(f"CREATE TABLE {settings.cassandra_keyspace}.non_existent_table_xyz (id int PRIMARY KEY)")
    try:
        body = client.post(QUERY_ERROR).get_json()
    finally:
        session.execute(f"DROP TABLE {settings.cassandra_keyspace}.non_existent_table_xyz")
    assert body["error_caught"] is None
    assert body["session_still_works"]


def test_query_error_that_closes_the_session(
    client: FlaskClient, running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that the error shuts down is neither open nor working."""
    at_error(monkeypatch, running.shutdown)
    body = client.post(QUERY_ERROR).get_json()
    assert "non_existent_table_xyz" in body.pop("error_caught")
    assert body == {
        "session_unchanged": True,
        "session_open": False,
        "session_still_works": False,
        "cassandra_version": None,
    }


def test_query_error_that_replaces_the_session(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that answers an error with a new session is found out."""
    at_error(monkeypatch, lambda: (db_connect.shutdown(), db_connect.get_session(timeout=20)))
    body = client.post(QUERY_ERROR).get_json()
    assert (body["session_unchanged"], body["session_open"]) == (False, False)


def test_streaming_error(live: Service) -> None:
    """A stream that fails midway is caught, and the session streams all of the rows afterwards."""
    body = live.client.post(STREAMING_ERROR).json()
    assert "division" in body.pop("error_message") or "by zero" in body
    assert body == {
        "session_unchanged": True,
        "session_open": True,
        "streaming_error_caught": True,
        "stream_completed": False,
        "session_still_streams": True,
        "rows_after_error": 30,
    }


def test_streaming_error_is_midway(running: Session) -> None:
    """Pages come before the one that fails."""
    rows = [DiagnosticRow(number, 1, "x") for number in range(30)]
    with diagnostic_rows(running, rows, QueryOptions()) as run_id:
        stream = diagnostics.stream_diagnostics_failing(running, run_id, 10, QueryOptions())
        assert len(next(stream)) == 10
        with pytest.raises(StorageError):
            next(stream)


def test_streaming_error_without_an_error(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that does not fail is not said to."""
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS_FAILING", diagnostics.SELECT_DIAGNOSTICS)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["streaming_error_caught"], body["error_message"], body["stream_completed"]) == (False, None, True)


def test_streaming_error_where_the_server_knows_no_arithmetic(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that is refused before its first page is an error of the stream too."""
    refused = diagnostics.SELECT_DIAGNOSTICS._replace(cql="SELECT no_such_function(number) FROM {keyspace}.diagnostics")
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS_FAILING", refused)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["streaming_error_caught"], body["session_still_streams"]) == (True, True)
    assert "no_such_function" in body["error_message"]


def test_streaming_error_that_loses_rows(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose later streams lack rows does not stream any more."""
    short = diagnostics.SELECT_DIAGNOSTICS._replace(cql=diagnostics.SELECT_DIAGNOSTICS.cql + " LIMIT 7")
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", short)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["session_still_streams"], body["rows_after_error"]) == (False, 7)


def test_streaming_error_that_closes_the_session(
    client: FlaskClient, running: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that the error shuts down is found out; the rows that it can't delete then have an end set."""
    at_error(monkeypatch, running.shutdown)
    body = client.post(STREAMING_ERROR).get_json()
    assert body["streaming_error_caught"]
    assert (body["session_open"], body["session_still_streams"], body["rows_after_error"]) == (False, False, 0)
    left = rows_left(session, settings)
    assert len(left) == 30
    assert all(0 < seconds <= 600 for (seconds,) in left)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


# --- streams -----------------------------------------------------------------------------------------------


def test_concurrent_streams(live: Service) -> None:
    """Three streams give each its own rows."""
    body = live.client.post(CONCURRENT).json()
    assert body.keys() == {"streams_completed", "all_streams_independent", "results", "session_still_open"}
    assert (body["streams_completed"], body["all_streams_independent"], body["session_still_open"]) == (3, True, True)
    assert [(result["age"], result["count"]) for result in body["results"]] == [(20, 20), (30, 20), (40, 20)]
    for result in body["results"]:
        assert result.keys() == {"age", "count", "users"}
        assert len(result["users"]) == 20
        assert {user["age"] for user in result["users"]} == {result["age"]}
        assert all(user.keys() == {"name", "age"} for user in result["users"])
    assert len({user["name"] for result in body["results"] for user in result["users"]}) == 60


@pytest.mark.parametrize("condition", ["age >= ?", "age = ? LIMIT 15"])
def test_concurrent_streams_that_mix(client: FlaskClient, monkeypatch: pytest.MonkeyPatch, condition: str) -> None:
    """Streams that give rows of another's age, or not all of their own, are not independent."""
    known = diagnostics.SELECT_DIAGNOSTICS_BY_AGE
    monkeypatch.setattr(
        diagnostics, "SELECT_DIAGNOSTICS_BY_AGE", known._replace(cql=known.cql.replace("age = ?", condition))
    )
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["all_streams_independent"]) == (3, False)
    assert body["results"][0]["count"] != 20


def test_a_concurrent_stream_that_fails(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three streams one of which the server cuts off, two are complete."""
    by_age = diagnostics.stream_diagnostics_by_age

    def one_fails(session: Session, run_id: UUID, age: int, fetch_size: int, options: QueryOptions) -> Stream:
        if age == 30:
            return diagnostics.stream_diagnostics_failing(session, run_id, fetch_size, options)
        return by_age(session, run_id, age, fetch_size, options)

    monkeypatch.setattr(probes.db_io, "stream_diagnostics_by_age", one_fails)
    # What it gives until then has columns of its own.
    monkeypatch.setattr(
        diagnostics,
        "SELECT_DIAGNOSTICS_FAILING",
        diagnostics.SELECT_DIAGNOSTICS_FAILING._replace(
            cql="SELECT number, 100 / (number - 15), name FROM {keyspace}.diagnostics WHERE run = ?"
        ),
    )
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["all_streams_independent"]) == (2, False)


def test_concurrent_streams_that_close_the_session(
    client: FlaskClient, running: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that a stream takes along when it ends is not open any more."""
    closing(monkeypatch, running.shutdown)
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["session_still_open"]) == (3, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


def closing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Makes something happen whenever a stream is closed."""
    close = Stream.close

    def harmful(stream: Stream) -> None:
        close(stream)
        happens()

    monkeypatch.setattr(Stream, "close", harmful)


def test_cancellation(live: Service) -> None:
    """A stream closed midway ends there, and the session streams the same rows again."""
    assert live.client.post(CANCELLATION).json() == {
        "rows_processed_before_cancel": 25,
        "was_cancelled": True,
        "session_still_works": True,
        "total_rows": 100,
        "new_stream_worked": True,
        "session_open": True,
        "error_type": "GeneratorExit",
    }


def test_cancellation_of_a_stream_that_goes_on(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A close that only says so does not cancel."""
    monkeypatch.setattr(Stream, "close", lambda stream: setattr(stream, "closed", True))
    body = client.post(CANCELLATION).get_json()
    assert (body["was_cancelled"], body["error_type"]) == (False, None)
    assert body["new_stream_worked"]


def test_cancellation_of_a_stream_that_fails(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ended the stream is named when it was not the cancellation."""
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", diagnostics.SELECT_DIAGNOSTICS_FAILING)
    body = client.post(CANCELLATION).get_json()
    assert (body["rows_processed_before_cancel"], body["was_cancelled"]) == (10, False)
    assert body["error_type"] == "StorageError"
    assert (body["total_rows"], body["new_stream_worked"]) == (10, False)


def test_cancellation_that_closes_the_session(
    client: FlaskClient, running: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that goes with the cancelled stream neither works nor streams."""
    closing(monkeypatch, running.shutdown)
    body = client.post(CANCELLATION).get_json()
    assert body["was_cancelled"]
    assert not body["session_still_works"]
    assert not body["session_open"]
    assert (body["total_rows"], body["new_stream_worked"]) == (0, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


# --- contexts ----------------------------------------------------------------------------------------------

IN_ORDER = ["cluster_opened", "session_opened", "stream_opened", "stream_closed", "session_closed", "cluster_closed"]


def test_nested_contexts(live: Service) -> None:
    """Stream, session and cluster close in this order, each by itself, and the service's own session does not notice."""
    assert live.client.post(NESTED).json() == {
        "events": IN_ORDER,
        "correct_order": True,
        "row_count": 5,
        "main_session_unaffected": True,
    }


def test_nested_contexts_leave_no_connection(live: Service, session: Session) -> None:
    """What the probe has opened on the server is closed there too."""

    def connections() -> int:
        return len(list(session.execute("SELECT port FROM system_views.clients")))

    # A session opens its connections in its own time.
    live.client.post(NESTED)
    before = connections()
    for _ in range(3):
        live.client.post(NESTED)
    wait_for(lambda: connections() <= before, what="the end of the probe's connections")


def test_a_session_context_that_closes_the_cluster(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that takes its cluster along is out of order, and the events show it."""

    @contextmanager
    def too_much(cluster: Cluster, settings: Settings, keyspace: str | None) -> Iterator[Session]:
        yield db_connect.connect(cluster, settings, keyspace)
        cluster.shutdown()

    monkeypatch.setattr(db_connect, "session_context", too_much)
    body = client.post(NESTED).get_json()
    assert body["events"] == IN_ORDER
    assert not body["correct_order"]
    assert body["main_session_unaffected"]


def test_a_session_context_that_closes_nothing(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that is left to its cluster is out of order."""

    @contextmanager
    def too_little(cluster: Cluster, settings: Settings, keyspace: str | None) -> Iterator[Session]:
        yield db_connect.connect(cluster, settings, keyspace)

    monkeypatch.setattr(db_connect, "session_context", too_little)
    assert not client.post(NESTED).get_json()["correct_order"]


def test_a_stream_whose_close_does_nothing(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is never closed has no such event, and the order is not correct."""
    monkeypatch.setattr(Stream, "close", lambda stream: None)
    body = client.post(NESTED).get_json()
    assert "stream_closed" not in body["events"]
    assert not body["correct_order"]


def test_contexts_that_close_the_main_session(
    client: FlaskClient, running: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that reaches beyond its own shows in the session of the service."""
    closing(monkeypatch, running.shutdown)
    body = client.post(NESTED).get_json()
    assert (body["correct_order"], body["main_session_unaffected"]) == (True, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


def test_nested_contexts_that_lack_rows(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are counted as they come out of the stream."""
    short = diagnostics.SELECT_DIAGNOSTICS._replace(cql=diagnostics.SELECT_DIAGNOSTICS.cql + " LIMIT 3")
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", short)
    assert client.post(NESTED).get_json()["row_count"] == 3


def test_nested_contexts_without_a_further_connection(
    client: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    """Where the probe's own cluster can't connect the answer is 503, where that hangs it is 504 at the deadline."""

    def connect_to(port: int) -> None:
        monkeypatch.setattr(probes, "get_settings", lambda: settings.model_copy(update={"cassandra_port": port}))

    connect_to(free_port())
    assert client.post(NESTED).status_code == 503
    connect_to(wire.port)
    wire.hold()
    started = time.monotonic()
    assert client.post(NESTED, headers={"X-Request-Timeout": "1"}).status_code == 504
    assert 1 <= time.monotonic() - started < 2


def test_status(live: Service, settings: Settings) -> None:
    """It names the session and the cluster of the worker that answers: the same each time, for each of the two."""
    answers = [live.client.get(STATUS).json() for _ in range(20)]
    for answer in answers:
        assert answer.keys() == {"session_open", "session_id", "cluster_open", "cluster_id", "keyspace"}
        assert (answer["session_open"], answer["cluster_open"]) == (True, True)
        assert answer["keyspace"] == settings.cassandra_keyspace
        UUID(answer["session_id"])
        UUID(answer["cluster_id"])
    assert len({(answer["session_id"], answer["cluster_id"]) for answer in answers}) <= 2


def test_status_of_what_is_closed(client: FlaskClient, running: Session) -> None:
    """It tells a session that is shut down from a cluster that is, and from none at all."""
    names = {"session_id": str(running.session_id), "cluster_id": str(running.cluster.client_id)}
    names["keyspace"] = running.keyspace
    assert client.get(STATUS).get_json() == {"session_open": True, "cluster_open": True, **names}
    running.shutdown()
    assert client.get(STATUS).get_json() == {"session_open": False, "cluster_open": True, **names}
    running.cluster.shutdown()
    assert client.get(STATUS).get_json() == {"session_open": False, "cluster_open": False, **names}
    db_connect.shutdown()
    none = {"session_open": False, "cluster_open": False, "session_id": None, "cluster_id": None, "keyspace": None}
    assert client.get(STATUS).get_json() == none
    # To look is not to connect.
    assert db_connect.current_session() is None


def test_status_without_cassandra(start: Callable[..., Service]) -> None:
    """A service that has never had a session says so, at once."""
    running = start({"CASSANDRA_PORT": str(free_port())}, healthy=False)
    body = running.client.get(STATUS).json()
    assert (body["session_open"], body["cluster_open"]) == (False, False)


# --- Cassandra is away -------------------------------------------------------------------------------------


def test_cassandra_hangs(behind: Service, wire: Wire) -> None:
    """Every probe but the status, with and without its statements prepared, is answered 504 at its deadline."""
    for attempt in ("not prepared", "prepared"):
        if attempt == "prepared":
            for method, path in FAST:
                assert behind.client.request(method, path).status_code == 200, path
        wire.hold()
        for method, path in FAST + SLOW:
            started = time.monotonic()
            response = behind.client.request(method, path, headers={"X-Request-Timeout": "0.3"})
            assert_problem(response, 504)
            assert 0.3 <= time.monotonic() - started < 0.8, path
        assert behind.client.get(STATUS).json()["session_open"]
        wire.release()
        wait_for(behind.healthy, what="health")


def test_cassandra_is_gone(behind: Service, wire: Wire) -> None:
    """Every probe but the status says 503 when Cassandra can't be reached, and works again when it can."""
    wire.cut()
    wait_for(lambda: not behind.healthy(), what="the end of health")
    for method, path in FAST + SLOW:
        assert_problem(behind.client.request(method, path), 503)
    assert behind.client.get(STATUS).json()["session_open"]
    wire.mend()
    wait_for(behind.healthy, what="health")
    for method, path in FAST:
        assert behind.client.request(method, path).status_code == 200, path


def test_a_probe_that_fails_cleans_up(
    running: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are deleted also when the probe fails between storing and deleting, and past its deadline."""
    with (
        pytest.raises(ZeroDivisionError),
        diagnostic_rows(running, [DiagnosticRow(1, 2, "x")], options := QueryOptions()),
    ):
        assert len(rows_left(session, settings)) == 1
        options.deadline = time.monotonic() - 1
        raise ZeroDivisionError
    wait_for(lambda: not rows_left(session, settings), timeout=10, what="the end of the rows")


def test_levels_that_can_not_be(live: Service) -> None:
    """A level that this keyspace's single replica can't reach is the client's mistake, and no finding."""
    for method, path in FAST:
        response = live.client.request(method, path, headers={"X-Consistency-Level": "THREE"})
        # The query error's own queries have no level to refuse.
        assert response.status_code == (200 if path == QUERY_ERROR else 422), path
        if path == QUERY_ERROR:
            assert response.json()["session_still_works"]


# --- who may -----------------------------------------------------------------------------------------------


def test_off_in_production(start: Callable[..., Service]) -> None:
    """In production they are not there, and not in the document, unless they are switched on."""
    running = start({"APP_ENV": "production", "OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "0"})
    document = running.client.get("/openapi.json").json()
    for method, path in [*FAST, *SLOW, ("GET", STATUS)]:
        assert_problem(running.client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"}), 404)
        assert path.partition("?")[0] not in document["paths"]
    assert "Performance" not in document["components"]["schemas"]
    assert "User" in document["components"]["schemas"]


def test_off_in_development(start: Callable[..., Service]) -> None:
    """DIAGNOSTICS=0 switches them off anywhere."""
    assert_problem(start({"DIAGNOSTICS": "0"}).client.get(STATUS), 404)


def test_for_operators_in_production(start: Callable[..., Service]) -> None:
    """Switched on in production, they are for those who have the operator's token, and say so in the document."""
    running = start({"APP_ENV": "production", "DIAGNOSTICS": "1", "OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "0"})
    document = running.client.get("/openapi.json").json()
    for method, path in [*FAST, ("GET", STATUS), *SLOW]:
        assert_problem(running.client.request(method, path), 401)
        another = {"Authorization": f"Bearer {uuid4()}"}
        assert_problem(running.client.request(method, path, headers=another), 401)
        assert document["paths"][path.partition("?")[0]][method.lower()]["security"] == [{"operator": []}]
        if (method, path) not in SLOW:
            response = running.client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
            assert response.status_code == 200, response.text
