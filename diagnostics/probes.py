"""Probes of the session, streams and cluster of this process. Each reports its findings.

An unreachable Cassandra is not a finding: it returns 503 or 504, as everywhere. A session that can no longer be used is
a finding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

from cassandra.cluster import Cluster, Session

from diagnostics import table
from diagnostics.table import DiagnosticRow
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions, Stream, WaitTime
from storage.db_io.cluster import retrieve_release_version
from storage.errors import ConsistencyRefused, StorageError, StorageTimeout, StorageUnavailable
from web.dependencies import current_settings, session_if_open

log = logging.getLogger(__name__)

# Seconds between the reads of :func:`query_for`.
_PACE = 0.25

_PAGE = 10
_STREAMED_ROWS = 30
_AGES = (20, 30, 40)
_ROWS_OF_AN_AGE = 20
_NESTED_ROWS = 5
_CANCELLED_ROWS = 100
# Number of rows after which the stream is closed: in the middle of a page.
_CANCELLED_AFTER = 25

# Errors that are no finding: Cassandra is unreachable, or the client asked for a level that can't be reached.
_NO_FINDING = (StorageUnavailable, StorageTimeout, ConsistencyRefused)
# The same after the session has worked once: from then on StorageUnavailable is a finding.
_NO_FINDING_LATER = (StorageTimeout, ConsistencyRefused)

# Fields of a response schema, by name.
Findings = dict[str, Any]


# --- performance -------------------------------------------------------------------------------------------


def query_concurrently(session: Session, requests: int, options: QueryOptions) -> Findings:
    """Read `requests` random idempotency keys, all at once. Times are in seconds.

    :raises StorageError: the deadline has passed, or every read failed.
    """
    started = time.monotonic()
    results = table.read_keys_concurrently(session, [uuid4() for _ in range(requests)], options)
    return _performance(started, requests, [result for result in results if isinstance(result, StorageError)])


def query_serially(session: Session, requests: int, options: QueryOptions) -> Findings:
    """Read `requests` random idempotency keys, one after the other. Times are in seconds.

    :raises StorageError: the deadline has passed, or every read failed.
    """
    started = time.monotonic()
    errors = []
    for _ in range(requests):
        try:
            table.read_key(session, uuid4(), options)
        except StorageError as error:
            errors.append(error)
            # Past the deadline the whole request fails.
            options.remaining()
    return _performance(started, requests, errors)


def _performance(started: float, requests: int, errors: Sequence[StorageError]) -> Findings:
    total = time.monotonic() - started
    if len(errors) == requests:
        # Nothing was measured. The first error says why.
        raise errors[0]
    return {
        "requests": requests,
        "total_time": total,
        "avg_time_per_request": total / requests,
        "requests_per_second": requests / total,
        "errors": len(errors),
    }


def query_for(session: Session, seconds: float, options: QueryOptions) -> Findings:
    """Read a user by a random id at a steady pace, for `seconds` seconds.

    :raises StorageError: a read failed, or the deadline has passed.
    """
    started = time.monotonic()
    queries = 0
    while True:
        table.read_key(session, uuid4(), options)
        queries += 1
        elapsed = time.monotonic() - started
        if elapsed >= seconds:
            return {"message": f"Queried for {seconds:g} seconds.", "seconds": elapsed, "queries": queries}
        time.sleep(min(_PACE, seconds - elapsed, options.remaining()))


# --- errors ------------------------------------------------------------------------------------------------


def survive_query_error(session: Session, options: QueryOptions) -> Findings:
    """Query a table that does not exist, and check that the session still works."""
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
    """Stream until the server fails midway, and check that the session still streams."""
    rows = _rows(_STREAMED_ROWS)
    with table.diagnostic_rows(session, rows, options) as run_id:
        error = None
        try:
            with table.stream_diagnostics_failing(session, run_id, _PAGE, options) as stream:
                _, error = _read(stream)
        except _NO_FINDING:
            raise
        except StorageError as caught:
            # A server without arithmetic refuses the statement before its first page.
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
    """Stream rows of three ages in three threads, and check that the streams do not mix."""
    rows = _rows(len(_AGES) * _ROWS_OF_AN_AGE)
    # A separate clock, because the three streams wait at the same time, so their waits must not add up.
    concurrent = replace(options, database=WaitTime())
    with table.diagnostic_rows(session, rows, options) as run_id:
        started = time.monotonic()
        # The pool is closed first, so that no stream is closed while a thread reads it.
        with ExitStack() as stack, ThreadPoolExecutor(len(_AGES)) as pool:
            streams = [
                stack.enter_context(table.stream_diagnostics_by_age(session, run_id, age, _PAGE, concurrent))
                for age in _AGES
            ]
            # All streams have started before any continues.
            first_pages = list(pool.map(lambda stream: _read(stream, pages=1), streams))
            other_pages = list(pool.map(_read, streams))
        options.database.seconds += time.monotonic() - started
        found = [first + more for (first, _), (more, _) in zip(first_pages, other_pages, strict=True)]
        own = [[row for row in rows if row.age == age] for age in _AGES]
        return {
            "streams_completed": sum(
                error is None and later is None for (_, error), (_, later) in zip(first_pages, other_pages, strict=True)
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
    """Close a stream midway, and check that it ended and the session still streams."""
    rows = _rows(_CANCELLED_ROWS)
    with table.diagnostic_rows(session, rows, options) as run_id:
        endings: list[str] = []
        rows_of_run = table.stream_diagnostics(session, run_id, _PAGE, options)
        stream = Stream(_watched(rows_of_run, endings), rows_of_run.columns)
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
        error_type = endings[0] if endings else None
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


def _watched(stream: Stream, endings: list[str]) -> Generator[list[Any]]:
    """The pages of `stream`, which is closed together with this generator.

    :param endings: receives the name of the exception that ends the stream early.
    """
    try:
        yield from stream
    except BaseException as error:
        endings.append(type(error).__name__)
        raise


# --- contexts ----------------------------------------------------------------------------------------------


def nest_contexts(session: Session, options: QueryOptions) -> Findings:
    """Open a cluster, a session and a stream as nested contexts, and check how they close."""
    with table.diagnostic_rows(session, _rows(_NESTED_ROWS), options) as run_id:
        findings: Future[Findings] = Future()
        # A separate thread, because connecting has no deadline. The thread closes its contexts, even past the deadline.
        context = copy_context()  # for the request id in its log lines
        arguments = (findings, current_settings(), run_id, replace(options, database=WaitTime()))
        threading.Thread(target=context.run, args=(_nest_in_thread, *arguments), daemon=True).start()
        options.wait_for(findings)
        unaffected = _is_unchanged(session) and _is_open(session) and _version(session, options) is not None
        return {**findings.result(), "main_session_unaffected": unaffected}


def _nest_in_thread(findings: Future[Findings], settings: Settings, run_id: UUID, options: QueryOptions) -> None:
    try:
        findings.set_result(_open_and_close(settings, run_id, options))
    except db_connect.NotConnected as error:
        unavailable = StorageUnavailable("No further connection to Cassandra can be opened.")
        unavailable.__cause__ = error
        findings.set_exception(unavailable)
    except BaseException as error:
        findings.set_exception(error)


def _open_and_close(settings: Settings, run_id: UUID, options: QueryOptions) -> Findings:
    events = []
    closed_after = []
    with db_connect.cluster_context(settings) as cluster:
        events.append("cluster_opened")
        with db_connect.session_context(cluster, settings, settings.cassandra_keyspace) as session:
            events.append("session_opened")
            with table.stream_diagnostics(session, run_id, _PAGE, options) as stream:
                events.append("stream_opened")
                rows, _ = _read(stream)
            closed_after.append(_closed(stream, session, cluster))
            events += _newly_closed(closed_after)
        closed_after.append(_closed(stream, session, cluster))
        events += _newly_closed(closed_after)
    closed_after.append(_closed(stream, session, cluster))
    events += _newly_closed(closed_after)
    return {
        "events": events,
        "correct_order": closed_after == [(True, False, False), (True, True, False), (True, True, True)],
        "row_count": len(rows),
    }


def _closed(stream: Stream, session: Session, cluster: Cluster) -> tuple[bool, bool, bool]:
    return stream.closed, session.is_shutdown, cluster.is_shutdown


def _newly_closed(closed_after: Sequence[tuple[bool, bool, bool]]) -> Iterator[str]:
    """An event for each object that was closed by the last context, and not by an earlier one."""
    before = closed_after[-2] if len(closed_after) > 1 else (False, False, False)
    for name, now, then in zip(("stream", "session", "cluster"), closed_after[-1], before, strict=True):
        if now and not then:
            yield f"{name}_closed"


def connection_status() -> Findings:
    """Session and cluster of this process, without a query."""
    session = session_if_open()
    if session is None:
        return {"session_open": False, "session_id": None, "cluster_open": False, "cluster_id": None, "keyspace": None}
    return {
        "session_open": not session.is_shutdown,
        "session_id": str(session.session_id),
        "cluster_open": not session.cluster.is_shutdown,
        "cluster_id": str(session.cluster.client_id),
        "keyspace": session.keyspace,
    }


# --- helpers -----------------------------------------------------------------------------------------------


def _rows(count: int) -> list[DiagnosticRow]:
    return [DiagnosticRow(number, _AGES[number % len(_AGES)], f"Observer {number:03}") for number in range(count)]


def _is_open(session: Session) -> bool:
    return not session.is_shutdown and not session.cluster.is_shutdown


def _is_unchanged(session: Session) -> bool:
    """Whether this session is still the one that requests of this process get."""
    return session_if_open() is session


def _version(session: Session, options: QueryOptions) -> str | None:
    """Cassandra's version, or None if the session can't query it.

    :raises StorageTimeout: no answer in time, which says nothing about the session.
    """
    try:
        # The default consistency level: the probe asks whether the session works, not whether this level does.
        return retrieve_release_version(session, replace(options, consistency_level=None))
    except _NO_FINDING_LATER:
        raise
    except StorageError:
        return None


def _read_again(session: Session, run_id: UUID, options: QueryOptions) -> list[Any]:
    """All rows of a run; if the session can no longer stream, the rows that arrived.

    :raises StorageTimeout: no answer in time, which says nothing about the session.
    """
    try:
        with table.stream_diagnostics(session, run_id, _PAGE, options) as stream:
            return _read(stream, no_finding=_NO_FINDING_LATER)[0]
    except _NO_FINDING_LATER:
        raise
    except StorageError:
        # The statement could not be prepared.
        return []


def _read(
    stream: Stream, pages: int | None = None, no_finding: tuple[type[StorageError], ...] = _NO_FINDING
) -> tuple[list[Any], str | None]:
    """The remaining rows of a stream, and the message of the error that ended it early.

    :param pages: maximum number of pages; None for all.
    :param no_finding: errors that are raised instead.
    """
    rows: list[Any] = []
    try:
        for page in islice(stream, pages):
            rows += page
    except no_finding:
        raise
    except StorageError as error:
        return rows, str(error)
    return rows, None
