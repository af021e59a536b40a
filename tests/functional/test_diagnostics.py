"""The diagnostics as a whole, and those that time: real queries, deadlines, and who may ask for them."""

from __future__ import annotations

import concurrent.futures
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest
from cassandra.cluster import Session
from flask.testing import FlaskClient

from dev.local_cassandra.node import free_port
from diagnostics import probes
from diagnostics import table as diagnostics
from diagnostics.table import DiagnosticRow, diagnostic_rows
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions, Statement, execution
from storage.db_io.users import SELECT_USER
from storage.errors import StorageTimeout
from tests.functional.test_errors import assert_problem
from tests.support import Service, TcpProxy, rows_left, wait_for

pytestmark = pytest.mark.usefixtures("nothing_is_left")

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


@pytest.fixture
def behind(start: Callable[..., Service], proxy: TcpProxy) -> Service:
    """A service with one worker, whose way to Cassandra is the proxy."""
    return start({"CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})


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
    assert most > 10


@pytest.mark.parametrize("path", ["/performance/async", "/performance/sync"])
@pytest.mark.parametrize("value", ["0", "1001", "abc", "-1", "1.5", ""])
def test_requests_out_of_range(live: Service, path: str, value: str) -> None:
    """422 names the parameter."""
    problem = assert_problem(live.client.get(f"{path}?requests={value}"), 422)
    assert problem["errors"][0]["loc"] == ["query", "requests"]


def test_async_counts_errors(client: FlaskClient, running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 queries, every second of which the server fails to answer, 10 are errors."""
    with diagnostic_rows(running, [DiagnosticRow(15, 1, "fails")], QueryOptions()) as run_id:
        bind, sent = execution.bind, 0

        def every_second_fails(session: Session, statement: Statement, values: Any, options: QueryOptions) -> Any:
            nonlocal sent
            sent += 1
            if sent % 2:
                return bind(session, statement, values, options)
            return bind(session, diagnostics.SELECT_DIAGNOSTICS_FAILING, (run_id,), options)

        monkeypatch.setattr(execution, "bind", every_second_fails)
        body = client.get("/performance/async?requests=20").get_json()
        assert (body["requests"], body["errors"]) == (20, 10)
        monkeypatch.undo()


def test_sync_counts_errors(behind: Service, proxy: TcpProxy) -> None:
    """When the way to Cassandra is cut midway, the rest of the queries are errors."""
    assert behind.client.get("/performance/sync?requests=1").status_code == 200
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(behind.client.get, "/performance/sync?requests=1000", headers={"X-Request-Timeout": "30"})
        wait_for(lambda: proxy.bytes_to_client > before + 1000, what="the first answers")
        proxy.disconnect()
        response = asked.result()
    assert response.status_code == 200, response.text
    assert response.json()["requests"] == 1000
    assert 0 < response.json()["errors"] < 1000


def test_sync_past_the_deadline(behind: Service, proxy: TcpProxy) -> None:
    """Queries that time out at the deadline are no errors of theirs: the request is answered 504."""
    assert behind.client.get("/performance/sync?requests=1").status_code == 200
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(behind.client.get, "/performance/sync?requests=1000", headers={"X-Request-Timeout": "3"})
        wait_for(lambda: proxy.bytes_to_client > before + 1000, what="the first answers")
        proxy.pause()
        assert_problem(asked.result(), 504)


class Alternating:
    """Sends every second statement by another session."""

    def __init__(self, *sessions: Session) -> None:
        self._first = sessions[0]
        self._sessions = itertools.cycle(sessions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def execute_async(self, *arguments: Any, **options: Any) -> Any:
        return next(self._sessions).execute_async(*arguments, **options)


def test_async_past_the_deadline(running: Session, settings: Settings, proxy: TcpProxy) -> None:
    """The same holds where half of the queries, all sent at once, were answered in time."""
    options = QueryOptions(deadline=time.monotonic() + 10)
    values = [(uuid4(),) for _ in range(20)]
    other = settings.model_copy(update={"cassandra_port": proxy.port})
    with db_connect.cluster_context(other) as cluster, db_connect.session_context(cluster, other, None) as held:
        both = Alternating(running, held)
        assert len(execution.execute_concurrently(both, SELECT_USER, values, options)) == 20
        proxy.pause()
        options.deadline = time.monotonic() + 0.5
        with pytest.raises(StorageTimeout, match="deadline has passed"):
            execution.execute_concurrently(both, SELECT_USER, values, options)
        proxy.resume()


# --- slow queries ------------------------------------------------------------------------------------------


def test_slow_query(live: Service) -> None:
    """It reads for five seconds, at its pace."""
    response = live.client.get("/slow_query")
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"message", "seconds", "queries"}
    assert 5 <= body["seconds"] < 6
    assert 15 <= body["queries"] <= 21


def test_slow_query_ends_at_the_deadline(live: Service) -> None:
    """A deadline within the five seconds is answered 504, when it comes."""
    started = time.monotonic()
    assert_problem(live.client.get("/slow_query", headers={"X-Request-Timeout": "1"}), 504)
    assert 1 <= time.monotonic() - started < 2


def test_a_pause_ends_at_the_deadline(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between two reads nobody waits beyond the deadline."""
    monkeypatch.setattr(probes, "_PACE", 4)
    started = time.monotonic()
    assert client.get("/slow_query", headers={"X-Request-Timeout": "1"}).status_code == 504
    assert 1 <= time.monotonic() - started < 2


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
            concurrent.futures.wait([asked], timeout=0.2)
    response = asked.result()
    assert response.status_code == 200, response.text
    assert 10 <= response.json()["seconds"] < 11
    assert 30 <= response.json()["queries"] <= 41
    assert answered > 20


@pytest.mark.parametrize("path", [path for _, path in SLOW])
def test_slow_queries_fail_with_cassandra(behind: Service, proxy: TcpProxy, path: str) -> None:
    """Their reads are real: cut off midway, the answer is an error."""
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(behind.client.get, path, headers={"X-Request-Timeout": "8"})
        wait_for(lambda: proxy.bytes_to_client > before, what="a first read")
        proxy.disconnect()
        assert_problem(asked.result(), 503)


# --- status ----------------------------------------------------------------------------------------------


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


def test_cassandra_hangs(behind: Service, proxy: TcpProxy) -> None:
    """Every probe but the status, with and without its statements prepared, is answered 504 at its deadline."""
    for attempt in ("not prepared", "prepared"):
        if attempt == "prepared":
            for method, path in FAST:
                assert behind.client.request(method, path).status_code == 200, path
        proxy.pause()
        for method, path in FAST + SLOW:
            started = time.monotonic()
            response = behind.client.request(method, path, headers={"X-Request-Timeout": "0.3"})
            assert_problem(response, 504)
            assert 0.3 <= time.monotonic() - started < 1.3, path
        assert behind.client.get(STATUS).json()["session_open"]
        proxy.resume()
        wait_for(behind.healthy, what="health")


def test_cassandra_is_gone(behind: Service, proxy: TcpProxy) -> None:
    """Every probe but the status says 503 when Cassandra can't be reached, and works again when it can."""
    proxy.disconnect()
    wait_for(lambda: not behind.healthy(), what="the end of health")
    for method, path in FAST + SLOW:
        assert_problem(behind.client.request(method, path), 503)
    assert behind.client.get(STATUS).json()["session_open"]
    proxy.reconnect()
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
