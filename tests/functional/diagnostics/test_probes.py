"""Diagnostics: performance probes, slow queries, status, failures of Cassandra, and access control."""

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
from storage.db_io.idempotency import SELECT_KEY
from storage.errors import StorageTimeout
from tests.functional.problems import assert_problem
from tests.support import Service, TcpProxy, rows_left, wait_for

pytestmark = pytest.mark.usefixtures("no_rows_left")

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
TOKEN = "the operator token"


@pytest.fixture
def proxied_service(start: Callable[..., Service], proxy: TcpProxy) -> Service:
    """A service with one worker that is connected to Cassandra through the proxy."""
    return start({"CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})


# --- performance -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/performance/async", "/performance/sync"])
@pytest.mark.parametrize(("query", "requests"), [("", 100), ("?requests=1", 1), ("?requests=1000", 1000)])
def test_performance_figures_are_consistent(live: Service, path: str, query: str, requests: int) -> None:
    """The figures agree with each other and with the duration of the request."""
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


def test_async_queries_are_concurrent_and_sync_queries_are_sequential(
    client: FlaskClient, app_session: Session
) -> None:
    """The async probe has many queries in flight, the sync probe never more than one."""
    maximum = in_flight = 0
    lock = threading.Lock()

    def add(step: int) -> None:
        nonlocal maximum, in_flight
        with lock:
            in_flight += step
            maximum = max(maximum, in_flight)

    def count_query(future: Any) -> None:
        add(1)
        future.add_callbacks(lambda rows: add(-1), lambda error: add(-1))

    client.get("/performance/sync?requests=1")
    app_session.add_request_init_listener(count_query)
    assert client.get("/performance/sync?requests=50").status_code == 200
    assert maximum == 1
    assert client.get("/performance/async?requests=500").status_code == 200
    assert maximum > 10


@pytest.mark.parametrize("path", ["/performance/async", "/performance/sync"])
@pytest.mark.parametrize("value", ["0", "1001", "abc", "-1", "1.5", ""])
def test_invalid_number_of_requests_is_rejected(live: Service, path: str, value: str) -> None:
    """The status is 422, and the error names the parameter."""
    problem = assert_problem(live.client.get(f"{path}?requests={value}"), 422)
    assert problem["errors"][0]["loc"] == ["query", "requests"]


def test_async_probe_counts_errors(client: FlaskClient, app_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """If Cassandra returns an error for every second query of 20, the probe reports 10 errors."""
    with diagnostic_rows(app_session, [DiagnosticRow(15, 1, "fails")], QueryOptions()) as run_id:
        bind, sent_count = execution.bind, 0

        def every_second_fails(session: Session, statement: Statement, values: Any, options: QueryOptions) -> Any:
            nonlocal sent_count
            sent_count += 1
            if sent_count % 2:
                return bind(session, statement, values, options)
            return bind(session, diagnostics.SELECT_DIAGNOSTICS_FAILING, (run_id,), options)

        monkeypatch.setattr(execution, "bind", every_second_fails)
        body = client.get("/performance/async?requests=20").get_json()
        assert (body["requests"], body["errors"]) == (20, 10)
        monkeypatch.undo()


def test_sync_probe_counts_errors(proxied_service: Service, proxy: TcpProxy) -> None:
    """If the connection to Cassandra is lost during the probe, the remaining queries count as errors."""
    assert proxied_service.client.get("/performance/sync?requests=1").status_code == 200
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(
            proxied_service.client.get, "/performance/sync?requests=1000", headers={"X-Request-Timeout": "30"}
        )
        wait_for(lambda: proxy.bytes_to_client > before + 1000, description="the first responses")
        proxy.disconnect()
        response = pending.result()
    assert response.status_code == 200, response.text
    assert response.json()["requests"] == 1000
    assert 0 < response.json()["errors"] < 1000


@pytest.mark.slow
def test_sync_probe_returns_504_after_its_deadline(proxied_service: Service, proxy: TcpProxy) -> None:
    """Queries that time out at the request's deadline are not counted as errors: the status is 504."""
    assert proxied_service.client.get("/performance/sync?requests=1").status_code == 200
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(
            proxied_service.client.get, "/performance/sync?requests=1000", headers={"X-Request-Timeout": "3"}
        )
        wait_for(lambda: proxy.bytes_to_client > before + 1000, description="the first responses")
        proxy.pause()
        assert_problem(pending.result(), 504)


class AlternatingSession:
    """A session that sends each statement through the next of several sessions."""

    def __init__(self, *sessions: Session) -> None:
        self._first = sessions[0]
        self._sessions = itertools.cycle(sessions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._first, name)

    def execute_async(self, *arguments: Any, **options: Any) -> Any:
        return next(self._sessions).execute_async(*arguments, **options)


def test_concurrent_queries_time_out_at_the_deadline(app_session: Session, settings: Settings, proxy: TcpProxy) -> None:
    """The deadline applies even if half of the concurrent queries completed in time."""
    options = QueryOptions(deadline=time.monotonic() + 10)
    values = [("diagnostics", str(uuid4())) for _ in range(20)]
    proxied_settings = settings.model_copy(update={"cassandra_port": proxy.port})
    with (
        db_connect.cluster_context(proxied_settings) as cluster,
        db_connect.session_context(cluster, proxied_settings, None) as proxied_session,
    ):
        alternating = AlternatingSession(app_session, proxied_session)
        assert len(execution.execute_concurrently(alternating, SELECT_KEY, values, options)) == 20
        proxy.pause()
        options.deadline = time.monotonic() + 0.5
        with pytest.raises(StorageTimeout, match="deadline has passed"):
            execution.execute_concurrently(alternating, SELECT_KEY, values, options)
        proxy.resume()


# --- slow queries ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slow_query_takes_five_seconds(live: Service) -> None:
    """The probe reads at a fixed pace for five seconds."""
    response = live.client.get("/slow_query")
    assert response.status_code == 200
    body = response.json()
    assert body.keys() == {"message", "seconds", "queries"}
    assert body["seconds"] >= 5
    # At most four a second; a busy machine is slower.
    assert 5 <= body["queries"] <= 21


def test_slow_query_returns_504_at_the_deadline(live: Service) -> None:
    """With a deadline under five seconds, the status is 504 as soon as the deadline is reached."""
    started = time.monotonic()
    assert_problem(live.client.get("/slow_query", headers={"X-Request-Timeout": "1"}), 504)
    # Without a deadline it takes five seconds.
    assert 1 <= time.monotonic() - started < 5


def test_pause_between_reads_ends_at_the_deadline(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause between two reads does not extend beyond the deadline."""
    monkeypatch.setattr(probes, "_PACE", 10)
    started = time.monotonic()
    assert client.get("/slow_query", headers={"X-Request-Timeout": "1"}).status_code == 504
    assert 1 <= time.monotonic() - started < 10


@pytest.mark.slow
def test_long_running_query_takes_ten_seconds_and_does_not_block_others(start: Callable[..., Service]) -> None:
    """The probe takes ten seconds despite REQUEST_TIMEOUT=3; its worker serves other requests meanwhile."""
    running = start({"WEB_CONCURRENCY": "1", "REQUEST_TIMEOUT": "3"})
    assert_problem(running.client.get("/slow_query"), 504)
    served = 0
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(running.client.get, "/long_running_query")
        while not pending.done():
            assert running.client.get("/observers?limit=1").status_code == 200
            served += 1
            concurrent.futures.wait([pending], timeout=0.2)
    response = pending.result()
    assert response.status_code == 200, response.text
    assert response.json()["seconds"] >= 10
    assert 10 <= response.json()["queries"] <= 41
    # If the probe blocked the others, only the first one would be sent before it ends.
    assert served > 5


@pytest.mark.parametrize("path", [path for _, path in SLOW])
def test_slow_queries_return_503_if_the_connection_is_lost(
    proxied_service: Service, proxy: TcpProxy, path: str
) -> None:
    """The probes really read from Cassandra: without a connection they return an error."""
    before = proxy.bytes_to_client
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(proxied_service.client.get, path, headers={"X-Request-Timeout": "8"})
        wait_for(lambda: proxy.bytes_to_client > before, description="the first read")
        proxy.disconnect()
        assert_problem(pending.result(), 503)


# --- status ------------------------------------------------------------------------------------------------


def test_status_identifies_the_workers_session_and_cluster(live: Service, settings: Settings) -> None:
    """The response has the session id and cluster id of the worker.

    Two workers have at most two pairs.
    """
    statuses = [live.client.get(STATUS).json() for _ in range(20)]
    for status in statuses:
        assert status.keys() == {"session_open", "session_id", "cluster_open", "cluster_id", "keyspace"}
        assert (status["session_open"], status["cluster_open"]) == (True, True)
        assert status["keyspace"] == settings.cassandra_keyspace
        UUID(status["session_id"])
        UUID(status["cluster_id"])
    assert len({(status["session_id"], status["cluster_id"]) for status in statuses}) <= 2


def test_status_reports_closed_sessions_and_clusters(client: FlaskClient, app_session: Session) -> None:
    """The status distinguishes a closed session, a closed cluster, and no session at all."""
    ids = {"session_id": str(app_session.session_id), "cluster_id": str(app_session.cluster.client_id)}
    ids["keyspace"] = app_session.keyspace
    assert client.get(STATUS).get_json() == {"session_open": True, "cluster_open": True, **ids}
    app_session.shutdown()
    assert client.get(STATUS).get_json() == {"session_open": False, "cluster_open": True, **ids}
    app_session.cluster.shutdown()
    assert client.get(STATUS).get_json() == {"session_open": False, "cluster_open": False, **ids}
    db_connect.reset()
    none = {"session_open": False, "cluster_open": False, "session_id": None, "cluster_id": None, "keyspace": None}
    assert client.get(STATUS).get_json() == none
    # The status request must not open a session.
    assert db_connect.session_if_open() is None


def test_status_reports_a_service_that_never_connected(start: Callable[..., Service]) -> None:
    """A service that has never connected reports a closed session and a closed cluster."""
    running = start({"CASSANDRA_PORT": str(free_port())}, healthy=False)
    body = running.client.get(STATUS).json()
    assert (body["session_open"], body["cluster_open"]) == (False, False)


# --- Cassandra is unavailable ------------------------------------------------------------------------------


@pytest.mark.slow
def test_probes_return_504_when_cassandra_does_not_respond(proxied_service: Service, proxy: TcpProxy) -> None:
    """Each probe except status returns 504 at its deadline, with and without prepared statements."""
    for attempt in ("not prepared", "prepared"):
        if attempt == "prepared":
            for method, path in FAST:
                assert proxied_service.client.request(method, path).status_code == 200, path
        proxy.pause()
        for method, path in FAST + SLOW:
            started = time.monotonic()
            response = proxied_service.client.request(method, path, headers={"X-Request-Timeout": "0.3"})
            assert_problem(response, 504)
            # Without a deadline they wait for ten seconds.
            assert 0.3 <= time.monotonic() - started < 5, path
        assert proxied_service.client.get(STATUS).json()["session_open"]
        proxy.resume()
        wait_for(proxied_service.healthy, description="the readiness probe to succeed")


def test_probes_return_503_when_cassandra_is_unreachable(proxied_service: Service, proxy: TcpProxy) -> None:
    """Each probe except status returns 503 while Cassandra is unreachable, and works again afterwards."""
    proxy.disconnect()
    wait_for(lambda: not proxied_service.healthy(), description="the readiness probe to fail")
    for method, path in FAST + SLOW:
        assert_problem(proxied_service.client.request(method, path), 503)
    assert proxied_service.client.get(STATUS).json()["session_open"]
    proxy.reconnect()
    wait_for(proxied_service.healthy, description="the readiness probe to succeed")
    for method, path in FAST:
        assert proxied_service.client.request(method, path).status_code == 200, path


def test_failed_probe_deletes_its_rows(
    app_session: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that fails after storing its rows deletes them, even after its deadline."""
    with (
        pytest.raises(ZeroDivisionError),
        diagnostic_rows(app_session, [DiagnosticRow(1, 2, "x")], options := QueryOptions()),
    ):
        assert len(rows_left(session, settings)) == 1
        options.deadline = time.monotonic() - 1
        raise ZeroDivisionError
    wait_for(lambda: not rows_left(session, settings), timeout=10, description="the rows to be deleted")


def test_unreachable_consistency_levels_are_rejected(live: Service) -> None:
    """A level that needs more replicas than the keyspace has is a client error, not a finding."""
    for method, path in FAST:
        response = live.client.request(method, path, headers={"X-Consistency-Level": "THREE"})
        # The query error probe checks the session at the default consistency level.
        assert response.status_code == (200 if path == QUERY_ERROR else 422), path
        if path == QUERY_ERROR:
            assert response.json()["session_still_works"]


# --- access control ----------------------------------------------------------------------------------------


def test_routes_are_disabled_by_default_in_production(start: Callable[..., Service]) -> None:
    """In production the routes return 404 and are not in the OpenAPI document, unless DIAGNOSTICS=true."""
    running = start({"APP_ENV": "production", "OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "0"})
    document = running.client.get("/openapi.json").json()
    for method, path in [*FAST, *SLOW, ("GET", STATUS)]:
        assert_problem(running.client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"}), 404)
        assert path.partition("?")[0] not in document["paths"]
    assert "Performance" not in document["components"]["schemas"]
    assert "Observer" in document["components"]["schemas"]


def test_diagnostics_setting_disables_the_routes(start: Callable[..., Service]) -> None:
    """DIAGNOSTICS=false disables the routes in development too."""
    assert_problem(start({"DIAGNOSTICS": "0"}).client.get(STATUS), 404)


def test_operator_token_is_required_in_production(start: Callable[..., Service]) -> None:
    """Routes that are enabled in production require the operator token, as in the OpenAPI document."""
    running = start({"APP_ENV": "production", "DIAGNOSTICS": "1", "OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "0"})
    document = running.client.get("/openapi.json").json()
    security = [{"account": ["operator"]}, {"operator": []}]
    for method, path in [*FAST, ("GET", STATUS), *SLOW]:
        assert_problem(running.client.request(method, path), 401)
        wrong_token = {"Authorization": f"Bearer {uuid4()}"}
        assert_problem(running.client.request(method, path, headers=wrong_token), 401)
        assert document["paths"][path.partition("?")[0]][method.lower()]["security"] == security
        if (method, path) not in SLOW:
            response = running.client.request(method, path, headers={"Authorization": f"Bearer {TOKEN}"})
            assert response.status_code == 200, response.text
