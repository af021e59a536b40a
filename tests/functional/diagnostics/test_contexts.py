"""Diagnostics of sessions and streams: each probe reports success and detects injected faults."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from cassandra.cluster import Cluster, Session
from flask.testing import FlaskClient

from dev.local_cassandra.node import free_port
from diagnostics import probes
from diagnostics import table as diagnostics
from diagnostics.table import DiagnosticRow, diagnostic_rows
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions, Stream, translation
from storage.errors import StorageError
from tests.functional.diagnostics.test_probes import CANCELLATION, CONCURRENT, NESTED, QUERY_ERROR, STREAMING_ERROR
from tests.support import Service, TcpProxy, rows_left, wait_for

pytestmark = pytest.mark.usefixtures("no_rows_left")


def call_on_error(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call `action` whenever the driver raises an error."""
    translate = translation.translate

    def patched(*arguments: Any) -> StorageError:
        action()
        return translate(*arguments)

    monkeypatch.setattr(translation, "translate", patched)


def call_on_close(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Call `action` whenever a stream is closed."""
    close = Stream.close

    def patched(stream: Stream) -> None:
        close(stream)
        action()

    monkeypatch.setattr(Stream, "close", patched)


# --- errors ------------------------------------------------------------------------------------------------


def test_query_error_leaves_the_session_usable(live: Service) -> None:
    """The response names the missing table, and the session still works."""
    logged_before = len(live.log_text())
    response = live.client.post(QUERY_ERROR)
    assert response.status_code == 200
    body = response.json()
    assert "non_existent_table_xyz" in body.pop("error_caught")
    assert re.match(r"\d+\.\d+", body.pop("cassandra_version"))
    assert body == {"session_unchanged": True, "session_open": True, "session_still_works": True}
    # The error is expected, so it must not be logged as an error.
    assert " ERROR " not in live.log_text()[logged_before:]


def test_query_error_probe_detects_a_missing_error(client: FlaskClient, session: Session, settings: Settings) -> None:
    """If the table exists, no error is caught, and the response says so."""
    session.execute(f"CREATE TABLE {settings.cassandra_keyspace}.non_existent_table_xyz (id int PRIMARY KEY)")
    try:
        body = client.post(QUERY_ERROR).get_json()
    finally:
        session.execute(f"DROP TABLE {settings.cassandra_keyspace}.non_existent_table_xyz")
    assert body["error_caught"] is None
    assert body["session_still_works"]


def test_query_error_probe_detects_a_closed_session(
    client: FlaskClient, app_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the error closes the session, the response says that it is not open and does not work."""
    call_on_error(monkeypatch, app_session.shutdown)
    body = client.post(QUERY_ERROR).get_json()
    assert "non_existent_table_xyz" in body.pop("error_caught")
    assert body == {
        "session_unchanged": True,
        "session_open": False,
        "session_still_works": False,
        "cassandra_version": None,
    }


def test_query_error_probe_detects_a_replaced_session(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the service opens a new session after the error, the response says that the session has changed."""
    call_on_error(monkeypatch, lambda: (db_connect.reset(), db_connect.get_session(timeout=20)))
    body = client.post(QUERY_ERROR).get_json()
    assert (body["session_unchanged"], body["session_open"]) == (False, False)


def test_streaming_error_leaves_the_session_usable(live: Service) -> None:
    """The error of a stream is caught, and the session streams all rows afterwards."""
    body = live.client.post(STREAMING_ERROR).json()
    # A node whose JIT compiler has seen this division many times leaves out the reason, "/ by zero".
    assert "the operation 'int / int' failed" in body.pop("error_message")
    assert body == {
        "session_unchanged": True,
        "session_open": True,
        "streaming_error_caught": True,
        "stream_completed": False,
        "session_still_streams": True,
        "rows_after_error": 30,
    }


def test_streaming_error_occurs_after_the_first_page(app_session: Session) -> None:
    """A page of rows is returned before the page that fails."""
    rows = [DiagnosticRow(number, 1, "x") for number in range(30)]
    with diagnostic_rows(app_session, rows, QueryOptions()) as run_id:
        stream = diagnostics.stream_diagnostics_failing(app_session, run_id, 10, QueryOptions())
        assert len(next(stream)) == 10
        with pytest.raises(StorageError):
            next(stream)


def test_streaming_error_probe_detects_a_missing_error(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the stream does not fail, the response says that it completed."""
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS_FAILING", diagnostics.SELECT_DIAGNOSTICS)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["streaming_error_caught"], body["error_message"], body["stream_completed"]) == (False, None, True)


def test_streaming_error_before_the_first_page_is_caught(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that Cassandra rejects counts as an error of the stream.

    Cassandra versions without arithmetic in CQL reject the statement of the probe.
    """
    rejected = diagnostics.SELECT_DIAGNOSTICS._replace(
        cql="SELECT no_such_function(number) FROM {keyspace}.diagnostics"
    )
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS_FAILING", rejected)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["streaming_error_caught"], body["session_still_streams"]) == (True, True)
    assert "no_such_function" in body["error_message"]


def test_streaming_error_probe_detects_missing_rows(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a later stream has too few rows, the response says that the session no longer streams."""
    limited = diagnostics.SELECT_DIAGNOSTICS._replace(cql=diagnostics.SELECT_DIAGNOSTICS.cql + " LIMIT 7")
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", limited)
    body = client.post(STREAMING_ERROR).get_json()
    assert (body["session_still_streams"], body["rows_after_error"]) == (False, 7)


def test_streaming_error_probe_detects_a_closed_session(
    client: FlaskClient, app_session: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the error closes the session, the response says so. Remaining rows expire within 600 s."""
    call_on_error(monkeypatch, app_session.shutdown)
    body = client.post(STREAMING_ERROR).get_json()
    assert body["streaming_error_caught"]
    assert (body["session_open"], body["session_still_streams"], body["rows_after_error"]) == (False, False, 0)
    remaining = rows_left(session, settings)
    assert len(remaining) == 30
    assert all(0 < seconds <= 600 for (seconds,) in remaining)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


# --- streams -----------------------------------------------------------------------------------------------


def test_concurrent_streams_are_independent(live: Service) -> None:
    """Each of three concurrent streams returns only the rows of its own age."""
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
def test_concurrent_streams_probe_detects_wrong_rows(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    """Streams with rows of another age, or with missing rows, are reported as not independent."""
    original = diagnostics.SELECT_DIAGNOSTICS_BY_AGE
    monkeypatch.setattr(
        diagnostics, "SELECT_DIAGNOSTICS_BY_AGE", original._replace(cql=original.cql.replace("age = ?", condition))
    )
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["all_streams_independent"]) == (3, False)
    assert body["results"][0]["count"] != 20


def test_concurrent_streams_probe_detects_a_failed_stream(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of three streams fails, the probe reports two completed streams."""
    by_age = diagnostics.stream_diagnostics_by_age

    def one_fails(session: Session, run_id: UUID, age: int, fetch_size: int, options: QueryOptions) -> Stream:
        if age == 30:
            return diagnostics.stream_diagnostics_failing(session, run_id, fetch_size, options)
        return by_age(session, run_id, age, fetch_size, options)

    monkeypatch.setattr(probes.table, "stream_diagnostics_by_age", one_fails)
    # The probe reads the rows before the failure, so select three columns, as the other streams do.
    monkeypatch.setattr(
        diagnostics,
        "SELECT_DIAGNOSTICS_FAILING",
        diagnostics.SELECT_DIAGNOSTICS_FAILING._replace(
            cql="SELECT number, 100 / (number - 15), name FROM {keyspace}.diagnostics WHERE run = ?"
        ),
    )
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["all_streams_independent"]) == (2, False)


def test_concurrent_streams_probe_detects_a_closed_session(
    client: FlaskClient, app_session: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the end of a stream closes the session, the response says so."""
    call_on_close(monkeypatch, app_session.shutdown)
    body = client.post(CONCURRENT).get_json()
    assert (body["streams_completed"], body["session_still_open"]) == (3, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


def test_cancelled_stream_leaves_the_session_usable(live: Service) -> None:
    """A stream that is closed after 25 rows ends, and the session streams the same rows again."""
    assert live.client.post(CANCELLATION).json() == {
        "rows_processed_before_cancel": 25,
        "was_cancelled": True,
        "session_still_works": True,
        "total_rows": 100,
        "new_stream_worked": True,
        "session_open": True,
        "error_type": "GeneratorExit",
    }


def test_cancellation_probe_detects_a_stream_that_is_not_cancelled(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If `close()` only sets a flag, the response says that the stream was not cancelled."""
    monkeypatch.setattr(Stream, "close", lambda stream: setattr(stream, "closed", True))
    body = client.post(CANCELLATION).get_json()
    assert (body["was_cancelled"], body["error_type"]) == (False, None)
    assert body["new_stream_worked"]


def test_cancellation_probe_reports_another_error(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an error ends the stream before the cancellation, the response names the error."""
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", diagnostics.SELECT_DIAGNOSTICS_FAILING)
    body = client.post(CANCELLATION).get_json()
    assert (body["rows_processed_before_cancel"], body["was_cancelled"]) == (10, False)
    assert body["error_type"] == "StorageError"
    assert (body["total_rows"], body["new_stream_worked"]) == (10, False)


def test_cancellation_probe_detects_a_closed_session(
    client: FlaskClient, app_session: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cancellation closes the session, the response says that it neither works nor streams."""
    call_on_close(monkeypatch, app_session.shutdown)
    body = client.post(CANCELLATION).get_json()
    assert body["was_cancelled"]
    assert not body["session_still_works"]
    assert not body["session_open"]
    assert (body["total_rows"], body["new_stream_worked"]) == (0, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


# --- contexts ----------------------------------------------------------------------------------------------

CORRECT_ORDER = [
    "cluster_opened",
    "session_opened",
    "stream_opened",
    "stream_closed",
    "session_closed",
    "cluster_closed",
]


def test_nested_contexts_close_in_reverse_order(live: Service) -> None:
    """Stream, session and cluster close in this order, and the main session stays open."""
    assert live.client.post(NESTED).json() == {
        "events": CORRECT_ORDER,
        "correct_order": True,
        "row_count": 5,
        "main_session_unaffected": True,
    }


def test_nested_contexts_close_their_connections(live: Service, session: Session) -> None:
    """After the probe ends, Cassandra lists none of its connections."""

    def connections() -> int:
        return len(list(session.execute("SELECT port FROM system_views.clients")))

    # A session opens its connections in the background, so call the probe once before counting.
    live.client.post(NESTED)
    before = connections()
    for _ in range(3):
        live.client.post(NESTED)
    wait_for(lambda: connections() <= before, description="the probe's connections to close")


def test_nested_contexts_probe_detects_a_session_that_closes_its_cluster(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the session context closes its cluster too, the order is reported as incorrect."""

    @contextmanager
    def close_cluster_too(cluster: Cluster, settings: Settings, keyspace: str | None) -> Iterator[Session]:
        yield db_connect.connect(cluster, settings, keyspace)
        cluster.shutdown()

    monkeypatch.setattr(db_connect, "session_context", close_cluster_too)
    body = client.post(NESTED).get_json()
    assert body["events"] == CORRECT_ORDER
    assert not body["correct_order"]
    assert body["main_session_unaffected"]


def test_nested_contexts_probe_detects_a_session_that_stays_open(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the session context does not close its session, the order is reported as incorrect."""

    @contextmanager
    def close_nothing(cluster: Cluster, settings: Settings, keyspace: str | None) -> Iterator[Session]:
        yield db_connect.connect(cluster, settings, keyspace)

    monkeypatch.setattr(db_connect, "session_context", close_nothing)
    assert not client.post(NESTED).get_json()["correct_order"]


def test_nested_contexts_probe_detects_a_stream_that_stays_open(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the stream is never closed, `stream_closed` is missing, and the order is reported as incorrect."""
    monkeypatch.setattr(Stream, "close", lambda stream: None)
    body = client.post(NESTED).get_json()
    assert "stream_closed" not in body["events"]
    assert not body["correct_order"]


def test_nested_contexts_probe_detects_a_closed_main_session(
    client: FlaskClient, app_session: Session, session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a context closes the service's main session, the response says that it is affected."""
    call_on_close(monkeypatch, app_session.shutdown)
    body = client.post(NESTED).get_json()
    assert (body["correct_order"], body["main_session_unaffected"]) == (True, False)
    session.execute(f"TRUNCATE {settings.cassandra_keyspace}.diagnostics", timeout=60)


def test_nested_contexts_probe_counts_the_streamed_rows(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row count is the number of rows that the stream returned, not the number stored."""
    limited = diagnostics.SELECT_DIAGNOSTICS._replace(cql=diagnostics.SELECT_DIAGNOSTICS.cql + " LIMIT 3")
    monkeypatch.setattr(diagnostics, "SELECT_DIAGNOSTICS", limited)
    assert client.post(NESTED).get_json()["row_count"] == 3


def test_nested_contexts_probe_returns_503_or_504_if_it_cannot_connect(
    client: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, proxy: TcpProxy
) -> None:
    """If the probe's own connection is refused, the status is 503; if connecting hangs, it is 504."""

    def connect_to(port: int) -> None:
        monkeypatch.setattr(probes, "current_settings", lambda: settings.model_copy(update={"cassandra_port": port}))

    connect_to(free_port())
    assert client.post(NESTED).status_code == 503
    connect_to(proxy.port)
    proxy.pause()
    started = time.monotonic()
    assert client.post(NESTED, headers={"X-Request-Timeout": "1"}).status_code == 504
    assert 1 <= time.monotonic() - started < 2
