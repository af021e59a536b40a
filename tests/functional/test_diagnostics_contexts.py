"""Probes of sessions and streams: each says that all is well when it is, and what is wrong when that is broken."""

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
from tests.functional.test_diagnostics import CANCELLATION, CONCURRENT, NESTED, QUERY_ERROR, STREAMING_ERROR
from tests.support import Service, TcpProxy, rows_left, wait_for

pytestmark = pytest.mark.usefixtures("nothing_is_left")


def at_error(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Makes something happen whenever the driver raises: an error that does harm."""
    translate = translation.translate

    def harmful(*arguments: Any) -> StorageError:
        happens()
        return translate(*arguments)

    monkeypatch.setattr(translation, "translate", harmful)


def closing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Makes something happen whenever a stream is closed."""
    close = Stream.close

    def harmful(stream: Stream) -> None:
        close(stream)
        happens()

    monkeypatch.setattr(Stream, "close", harmful)


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
    assert "by zero" in body.pop("error_message")
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

    monkeypatch.setattr(probes.table, "stream_diagnostics_by_age", one_fails)
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
    """Stream, session and cluster close in this order, each by itself, and the main session does not notice."""
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
    client: FlaskClient, settings: Settings, monkeypatch: pytest.MonkeyPatch, proxy: TcpProxy
) -> None:
    """Where the probe's own cluster can't connect the answer is 503, where that hangs it is 504 at the deadline."""

    def connect_to(port: int) -> None:
        monkeypatch.setattr(probes, "get_settings", lambda: settings.model_copy(update={"cassandra_port": port}))

    connect_to(free_port())
    assert client.post(NESTED).status_code == 503
    connect_to(proxy.port)
    proxy.pause()
    started = time.monotonic()
    assert client.post(NESTED, headers={"X-Request-Timeout": "1"}).status_code == 504
    assert 1 <= time.monotonic() - started < 2
