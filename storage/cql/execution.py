"""Execution of statements, one page at a time, within the deadline of the request."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from cassandra import query as driver_query
from cassandra.cluster import ResponseFuture, Session
from cassandra.policies import FallthroughRetryPolicy
from cassandra.query import BatchStatement, BatchType, BoundStatement

from observability import metrics
from storage.cql.consistency import execution_profile, set_level
from storage.cql.driver import take_rows
from storage.cql.options import QueryOptions
from storage.cql.prepared_cache import prepared_cache
from storage.cql.row_encoding import row_format
from storage.cql.statement import Kind, Statement, cql_text
from storage.cql.translation import translating
from storage.errors import StorageError

_NEVER_RETRY = FallthroughRetryPolicy()


class Page(NamedTuple):
    """One page of rows.

    :ivar rows: tuples; strings for a statement with `json_rows`.
    :ivar paging_state: of the next page; None on the last page.
    """

    rows: list[Any]
    paging_state: bytes | None


def bind(session: Session, statement: Statement, values: Sequence[Any], options: QueryOptions) -> BoundStatement:
    """The prepared statement with its values, consistency level and retry policy.

    A statement that is not idempotent gets a policy that never retries. The driver's default policy sends *every*
    statement to the next node after a lost connection, even if `is_idempotent` is false.

    :param values: one for each `?` of the statement, in order.
    :raises ConsistencyRefused: the consistency level can't be reached.
    """
    bound = prepared_cache.get(session, statement, options).bind(values)
    bound.is_idempotent = statement.idempotent
    if not statement.idempotent:
        bound.retry_policy = _NEVER_RETRY
    if options.consistency_level is not None:
        set_level(session, bound, options.consistency_level, statement.kind)
    return bound


def execute(
    session: Session,
    statement: Statement,
    values: Sequence[Any],
    options: QueryOptions,
    *,
    fetch_size: int | None = None,
    paging_state: bytes | None = None,
) -> Page:
    """Execute a statement and wait for its page.

    :param values: one for each `?` of the statement, in order.
    :param fetch_size: maximum number of rows of a read; None for the driver's default of 5,000.
    :param paging_state: from the previous page.
    :returns: the rows of a read; no rows for a write; for a lightweight transaction one row whose first column is
        `[applied]`.
    :raises StorageError: the subclass says what happened.
    """
    form = row_format(session, statement, options)
    bound = bind(session, form.statement, values, options)
    if fetch_size is not None:
        bound.fetch_size = fetch_size
    page = execute_bound(session, bound, options, statement.name, statement.kind, paging_state)
    return Page(form.decode(page.rows), page.paging_state)


def execute_batch(
    session: Session, statement: Statement, rows: Iterable[Sequence[Any]], options: QueryOptions, *, name: str
) -> None:
    """Execute a write once for each row, in a logged batch: all or none. Never retried.

    :param rows: the statement's values, one sequence for each row; at least one row.
    :param name: label of the query metrics.
    :raises BatchTooLarge: the batch exceeds the server's limit; nothing is stored.
    :raises StorageError: the subclass says what happened.
    """
    bound = [bind(session, statement, values, options) for values in rows]
    batch = BatchStatement(BatchType.LOGGED, _NEVER_RETRY, bound[0].consistency_level)
    batch.keyspace = bound[0].keyspace
    for each in bound:
        batch.add(each)
    execute_bound(session, batch, options, name, statement.kind)


def execute_concurrently(
    session: Session, statement: Statement, rows: Iterable[Sequence[Any]], options: QueryOptions
) -> list[Page | StorageError]:
    """Send a read once for each row of values, all before waiting for the first response.

    :param rows: the statement's values, one sequence for each execution.
    :returns: for each execution its first page, or its error.
    :raises StorageTimeout: the deadline has passed.
    """
    bound = [bind(session, statement, values, options) for values in rows]
    started = time.monotonic()
    try:
        sent: list[ResponseFuture | StorageError] = []
        for each in bound:
            options.remaining()
            try:
                sent.append(send(session, each, options, statement.name))
            except StorageError as error:
                sent.append(error)
        results = [each if isinstance(each, StorageError) else _page_or_error(each) for each in sent]
        # Past the deadline the request fails, even if the driver reported a timeout for each execution itself.
        options.remaining()
        return results
    finally:
        options.database.seconds += time.monotonic() - started


def execute_unprepared(session: Session, statement: Statement, options: QueryOptions) -> Page:
    """Execute a statement without values and without preparing it.

    :raises StorageError: the subclass says what happened.
    """
    simple = driver_query.SimpleStatement(cql_text(statement, session.keyspace), is_idempotent=statement.idempotent)
    return execute_bound(session, simple, options, statement.name, statement.kind)


def execute_bound(
    session: Session,
    bound: driver_query.Statement,
    options: QueryOptions,
    name: str,
    kind: Kind,
    paging_state: bytes | None = None,
) -> Page:
    """Execute a statement of the driver and wait for its page.

    For use in `storage/cql` and by callers of :func:`bind`.

    :param name: label of the query metrics.
    :raises StorageError: the subclass says what happened.
    """
    timeout = options.remaining()
    started = time.monotonic()
    try:
        with translating(kind, bound.is_idempotent):
            return _page(_execute_async(session, bound, kind, timeout, paging_state))
    finally:
        options.database.seconds += metrics.observe_query(name, started)


def send(
    session: Session, bound: BoundStatement, options: QueryOptions, name: str, paging_state: bytes | None = None
) -> ResponseFuture:
    """Request a page of a read without waiting for it; :func:`receive` waits.

    :param name: label of the query metrics.
    :raises StorageError: the request can't be sent.
    """
    timeout = options.remaining()
    with translating():
        future = _execute_async(session, bound, "read", timeout, paging_state)
        # Observed when the response arrives: receive() may be called later, after the previous page is processed.
        answered = partial(_observe_page, name, time.monotonic())
        future.add_callbacks(answered, answered)
    return future


def send_write(session: Session, statement: driver_query.Statement, options: QueryOptions, name: str) -> ResponseFuture:
    """Send a write without waiting for its response. The caller adds callbacks to the future.

    :param name: label of the query metrics.
    :raises StorageError: the request can't be sent.
    """
    timeout = options.remaining()
    with translating("write"):
        future = _execute_async(session, statement, "write", timeout, None)
        answered = partial(_observe_page, name, time.monotonic())
        future.add_callbacks(answered, answered)
    return future


def receive(future: ResponseFuture) -> Page:
    """Wait for the page that :func:`send` requested.

    :raises StorageError: the subclass says what happened.
    """
    with translating():
        return _page(future)


def _execute_async(
    session: Session, bound: driver_query.Statement, kind: Kind, timeout: float, paging_state: bytes | None
) -> ResponseFuture:
    profile = execution_profile(bound, kind)
    return session.execute_async(bound, timeout=timeout, paging_state=paging_state, execution_profile=profile)


def _observe_page(name: str, started: float, result: object) -> None:
    metrics.observe_query(name, started)


def _page(future: ResponseFuture) -> Page:
    result = future.result()
    return Page(take_rows(result), result.paging_state)


def _page_or_error(future: ResponseFuture) -> Page | StorageError:
    try:
        return receive(future)
    except StorageError as error:
        return error
