"""The diagnostics: probes of the session, streams and cluster that this process works with.

Each does what it is named by for real, and then looks: whatever it says of the session it has asked the session.
That Cassandra does not answer is no finding but an error, as in every other request; that the session can no longer be
used is a finding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from cassandra.cluster import Cluster, Session

from diagnostics import table
from diagnostics.table import DiagnosticRow
from settings import Settings, get_settings
from storage import db_connect, db_io
from storage.cql.execution import Clock, QueryOptions, Row, Stream
from storage.errors import ConsistencyRefused, StorageError, StorageTimeout, StorageUnavailable

log = logging.getLogger(__name__)

# Seconds between two reads of a slow query.
_PACE = 0.25

_PAGE = 10
_STREAMED_ROWS = 30
_AGES = (20, 30, 40)
_ROWS_OF_AN_AGE = 20
_NESTED_ROWS = 5
_CANCELLED_ROWS = 100
# In the middle of a page.
_CANCELLED_AFTER = 25

# What says nothing about the probed thing: Cassandra is away, or the request asks for a level that can't be.
_NO_FINDING = (StorageUnavailable, StorageTimeout, ConsistencyRefused)
# The same once the session has worked: from then on it is a finding that it can't.
_NO_FINDING_LATER = (StorageTimeout, ConsistencyRefused)

# By the names of the contract.
Findings = dict[str, Any]


# --- performance -------------------------------------------------------------------------------------------


def query_concurrently(session: Session, requests: int, options: QueryOptions) -> Findings:
    """Reads `requests` users by random ids, all at once. Times are in seconds.

    :raises StorageError: the deadline has passed, or not one read worked.
    """
    started = time.monotonic()
    results = table.retrieve_users_concurrently(session, [uuid4() for _ in range(requests)], options)
    return _performance(started, requests, [result for result in results if isinstance(result, StorageError)])


def query_serially(session: Session, requests: int, options: QueryOptions) -> Findings:
    """Reads `requests` users by random ids, each when the one before is answered. Times are in seconds.

    :raises StorageError: the deadline has passed, or not one read worked.
    """
    started = time.monotonic()
    errors = []
    for _ in range(requests):
        try:
            db_io.retrieve_user(session, uuid4(), options)
        except StorageError as error:
            errors.append(error)
            # Also when the driver gave up at the deadline, what failed is the request.
            options.remaining()
    return _performance(started, requests, errors)


def _performance(started: float, requests: int, errors: Sequence[StorageError]) -> Findings:
    total = time.monotonic() - started
    if len(errors) == requests:
        # There is nothing to measure, and the error says why.
        raise errors[0]
    return {
        "requests": requests,
        "total_time": total,
        "avg_time_per_request": total / requests,
        "requests_per_second": requests / total,
        "errors": len(errors),
    }


def query_for(session: Session, seconds: float, options: QueryOptions) -> Findings:
    """Reads a user by a random id, again and again at a steady pace, for so many seconds.

    :raises StorageError: a read failed, or the deadline came first; it is raised when it comes.
    """
    started = time.monotonic()
    queries = 0
    while True:
        db_io.retrieve_user(session, uuid4(), options)
        queries += 1
        elapsed = time.monotonic() - started
        if elapsed >= seconds:
            return {"message": f"Queried for {seconds:g} seconds.", "seconds": elapsed, "queries": queries}
        time.sleep(min(_PACE, seconds - elapsed, options.remaining()))


# --- errors ------------------------------------------------------------------------------------------------


def survive_query_error(session: Session, options: QueryOptions) -> Findings:
    """Asks for a table that does not exist, and looks whether the session is any the worse for it."""
    error = None
    try:
        table.query_missing_table(session, options)
    except _NO_FINDING:
        raise
    except StorageError as caught:
        error = str(caught)
    version = _version(session, options)
    return {
        "session_unchanged": _is_unchanged(session),
        "session_open": _is_open(session),
        "error_caught": error,
        "session_still_works": version is not None,
        "cassandra_version": version,
    }


def survive_streaming_error(session: Session, options: QueryOptions) -> Findings:
    """Streams until the server fails midway, and looks whether the session still streams."""
    rows = _rows(_STREAMED_ROWS)
    with table.diagnostic_rows(session, rows, options) as run_id:
        error = None
        try:
            with table.stream_diagnostics_failing(session, run_id, _PAGE, options) as stream:
                _, error = _read(stream)
        except _NO_FINDING:
            raise
        except StorageError as caught:
            # Some servers know no arithmetic, and refuse the statement before its first page.
            error = str(caught)
        after = _read_again(session, run_id, options)
        return {
            "session_unchanged": _is_unchanged(session),
            "session_open": _is_open(session),
            "streaming_error_caught": error is not None,
            "error_message": error,
            "stream_completed": error is None,
            "session_still_streams": after == rows,
            "rows_after_error": len(after),
        }


# --- streams -----------------------------------------------------------------------------------------------


def stream_concurrently(session: Session, options: QueryOptions) -> Findings:
    """Streams rows of three ages in three threads, and looks whether each stream has its own rows and no others."""
    rows = _rows(len(_AGES) * _ROWS_OF_AN_AGE)
    # A clock of their own, because three waits at once are one wait of the request.
    apart = replace(options, database=Clock())
    with table.diagnostic_rows(session, rows, options) as run_id:
        started = time.monotonic()
        # The pool is left first: no stream is closed while a thread reads it.
        with ExitStack() as stack, ThreadPoolExecutor(len(_AGES)) as pool:
            streams = [
                stack.enter_context(table.stream_diagnostics_by_age(session, run_id, age, _PAGE, apart))
                for age in _AGES
            ]
            # All have begun before any goes on.
            beginnings = list(pool.map(lambda stream: _read(stream, pages=1), streams))
            rests = list(pool.map(_read, streams))
        options.database.seconds += time.monotonic() - started
        found = [rows + more for (rows, _), (more, _) in zip(beginnings, rests, strict=True)]
        own = [[row for row in rows if row.age == age] for age in _AGES]
        return {
            "streams_completed": sum(
                early is None and late is None for (_, early), (_, late) in zip(beginnings, rests, strict=True)
            ),
            "all_streams_independent": found == own,
            "results": [
                {
                    "age": age,
                    "count": len(users),
                    "users": [{"name": name, "age": of_age} for _, of_age, name in users],
                }
                for age, users in zip(_AGES, found, strict=True)
            ],
            "session_still_open": _is_open(session),
        }


def cancel_stream(session: Session, options: QueryOptions) -> Findings:
    """Closes a stream midway, and looks whether it ended, and whether the session streams the rows again."""
    rows = _rows(_CANCELLED_ROWS)
    with table.diagnostic_rows(session, rows, options) as run_id:
        seen: list[str] = []
        stream = Stream(_watched(table.stream_diagnostics(session, run_id, _PAGE, options), seen))
        processed = 0
        try:
            with stream:
                for _ in (row for page in stream for row in page):
                    processed += 1
                    if processed == _CANCELLED_AFTER:
                        break
        except _NO_FINDING:
            raise
        except StorageError as error:
            log.warning("The stream failed before it was closed: %s", error)
        error_type = seen[0] if seen else None
        was_cancelled = error_type == GeneratorExit.__name__ and next(stream, None) is None
        works = _version(session, options) is not None
        again = _read_again(session, run_id, options)
        return {
            "rows_processed_before_cancel": processed,
            "was_cancelled": was_cancelled,
            "session_still_works": works,
            "total_rows": len(again),
            "new_stream_worked": again == rows,
            "session_open": _is_open(session),
            "error_type": error_type,
        }


def _watched(stream: Stream, seen: list[str]) -> Generator[list[Row]]:
    """The pages of `stream`, which is closed with this; `seen` gets the name of what ends it before its end."""
    try:
        yield from stream
    except BaseException as error:
        seen.append(type(error).__name__)
        raise


# --- contexts ----------------------------------------------------------------------------------------------


def nest_contexts(session: Session, options: QueryOptions) -> Findings:
    """Opens a cluster, in it a session, in it a stream, and looks what each end of a context closes."""
    with table.diagnostic_rows(session, _rows(_NESTED_ROWS), options) as run_id:
        findings: Future[Findings] = Future()
        # A thread of its own, because connecting knows no deadline; it closes what it opened, if only later.
        context = copy_context()  # for the request's id in its log lines
        arguments = (findings, get_settings(), run_id, replace(options, database=Clock()))
        threading.Thread(target=context.run, args=(_nest, *arguments), daemon=True).start()
        started = time.monotonic()
        try:
            if not wait([findings], timeout=options.remaining()).done:
                raise StorageTimeout("Cassandra did not answer before the deadline.")
        finally:
            options.database.seconds += time.monotonic() - started
        unaffected = _is_unchanged(session) and _is_open(session) and _version(session, options) is not None
        return {**findings.result(), "main_session_unaffected": unaffected}


def _nest(findings: Future[Findings], settings: Settings, run_id: UUID, options: QueryOptions) -> None:
    try:
        findings.set_result(_nested(settings, run_id, options))
    except db_connect.NotConnected as error:
        unavailable = StorageUnavailable("No further connection to Cassandra can be had.")
        unavailable.__cause__ = error
        findings.set_exception(unavailable)
    except BaseException as error:
        findings.set_exception(error)


def _nested(settings: Settings, run_id: UUID, options: QueryOptions) -> Findings:
    events = []
    ends = []
    with db_connect.cluster_context(settings) as cluster:
        events.append("cluster_opened")
        with db_connect.session_context(cluster, settings, settings.cassandra_keyspace) as session:
            events.append("session_opened")
            with table.stream_diagnostics(session, run_id, _PAGE, options) as stream:
                events.append("stream_opened")
                rows, _ = _read(stream)
            ends.append(_closed(stream, session, cluster))
            events += _news(ends)
        ends.append(_closed(stream, session, cluster))
        events += _news(ends)
    ends.append(_closed(stream, session, cluster))
    events += _news(ends)
    return {
        "events": events,
        "correct_order": ends == [(True, False, False), (True, True, False), (True, True, True)],
        "row_count": len(rows),
    }


def _closed(stream: Stream, session: Session, cluster: Cluster) -> tuple[bool, bool, bool]:
    return stream.closed, session.is_shutdown, cluster.is_shutdown


def _news(ends: Sequence[tuple[bool, bool, bool]]) -> Iterator[str]:
    """What is closed at the last end, and was not at the one before."""
    before = ends[-2] if len(ends) > 1 else (False, False, False)
    for name, now, then in zip(("stream", "session", "cluster"), ends[-1], before, strict=True):
        if now and not then:
            yield f"{name}_closed"


def connection_status() -> Findings:
    """What this process has open now. Asks nobody."""
    session = db_connect.current_session()
    if session is None:
        return {"session_open": False, "session_id": None, "cluster_open": False, "cluster_id": None, "keyspace": None}
    return {
        "session_open": not session.is_shutdown,
        "session_id": str(session.session_id),
        "cluster_open": not session.cluster.is_shutdown,
        "cluster_id": str(session.cluster.client_id),
        "keyspace": session.keyspace,
    }


# --- looking -----------------------------------------------------------------------------------------------


def _rows(count: int) -> list[DiagnosticRow]:
    return [DiagnosticRow(number, _AGES[number % len(_AGES)], f"Observer {number:03}") for number in range(count)]


def _is_open(session: Session) -> bool:
    return not session.is_shutdown and not session.cluster.is_shutdown


def _is_unchanged(session: Session) -> bool:
    """Whether the requests of this process still get this session."""
    return db_connect.current_session() is session


def _version(session: Session, options: QueryOptions) -> str | None:
    """Cassandra's version; None when the session can't ask for it.

    :raises StorageTimeout: no answer in time, which says nothing of the session.
    """
    try:
        # At the default level: whether the session works, and not whether this request's level does.
        return db_io.retrieve_release_version(session, replace(options, consistency_level=None))
    except _NO_FINDING_LATER:
        raise
    except StorageError:
        return None


def _read_again(session: Session, run_id: UUID, options: QueryOptions) -> list[Row]:
    """All rows of a run; of a session that can't stream any more, those that came.

    :raises StorageTimeout: no answer in time, which says nothing of the session.
    """
    try:
        with table.stream_diagnostics(session, run_id, _PAGE, options) as stream:
            return _read(stream, no_finding=_NO_FINDING_LATER)[0]
    except _NO_FINDING_LATER:
        raise
    except StorageError:
        # The statement could not even be prepared.
        return []


def _read(
    stream: Stream, pages: int | None = None, no_finding: tuple[type[StorageError], ...] = _NO_FINDING
) -> tuple[list[Row], str | None]:
    """The rows that are left, and the message of the error that ended them early.

    :param pages: at the most; None for all.
    :param no_finding: errors that are raised.
    """
    rows: list[Row] = []
    try:
        for page in islice(stream, pages):
            rows += page
    except no_finding:
        raise
    except StorageError as error:
        return rows, str(error)
    return rows, None
