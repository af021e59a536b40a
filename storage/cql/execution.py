"""Runs prepared statements: one page at a time, within a deadline, with the driver's errors translated."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

from cassandra import ConsistencyLevel
from cassandra.cluster import ResponseFuture, Session
from cassandra.policies import FallthroughRetryPolicy
from cassandra.query import BatchStatement, BatchType, BoundStatement, PreparedStatement, Statement

from observability import metrics
from storage.errors import ConsistencyRefused, Kind, StorageError, StorageTimeout, translate

Row = tuple[Any, ...]

_NEVER_RETRY = FallthroughRetryPolicy()
# Levels that ask for a number of replicas whatever the replication.
_REPLICAS_OF = {"TWO": 2, "THREE": 3}


@dataclass(slots=True)
class Clock:
    """Seconds spent waiting for Cassandra."""

    seconds: float = 0.0


@dataclass(slots=True)
class QueryOptions:
    """What a caller may set for all the queries of one request.

    :ivar deadline: on `time.monotonic()`'s clock; None for streams, whose limit is `timeout` for each page.
    :ivar timeout: seconds for one query where there is no deadline.
    :ivar consistency_level: a name such as `QUORUM`; None for the default of the session. Of a lightweight
        transaction it is the level of the commit.
    :ivar database: counts the time of all queries, also of those of a copy.
    """

    deadline: float | None = None
    timeout: float = 10.0
    consistency_level: str | None = None
    database: Clock = field(default_factory=Clock)

    def remaining(self) -> float:
        """Seconds that the next query may take.

        :raises StorageTimeout: when the deadline has passed.
        """
        if self.deadline is None:
            return self.timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise StorageTimeout("The deadline has passed.")
        return left


class Stream(Iterator[list[Row]]):
    """Pages of rows, fetched as they are asked for, in a context that ends the fetching.

    :ivar closed: it has been closed; what is asked for then is not fetched.
    """

    def __init__(self, pages: Generator[list[Row]], texts: Generator[list[str]] | None = None) -> None:
        """:param texts: another way to the same rows, each as JSON."""
        self._pages: Generator[list[Any]] = pages
        self._texts = texts
        self.closed = False

    def __next__(self) -> list[Row]:
        """:raises StorageError: a page can't be had, also after others could."""
        return next(self._pages)

    def as_json(self) -> Iterator[list[str]]:
        """The pages with each row as JSON, which the server writes; instead of the tuples, from the beginning.

        :raises StorageError: from `next()`, as above.
        """
        assert self._texts is not None, "there is no JSON of these rows"
        self._pages = self._texts
        return self._pages

    def close(self) -> None:
        """Fetches no more: the page that is on its way is the last."""
        self.closed = True
        self._pages.close()
        if self._texts is not None:
            self._texts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Page(NamedTuple):
    """Rows (tuples; of a SELECT JSON, texts), and the paging state of the rows after them: None at the end."""

    rows: list[Any]
    paging_state: bytes | None


def bind(
    session: Session,
    prepared: PreparedStatement,
    values: Sequence[Any],
    options: QueryOptions,
    *,
    kind: Kind,
    idempotent: bool,
) -> BoundStatement:
    """The statement with its values, its consistency level and its retry policy.

    A statement that is not idempotent gets the policy that never retries. The driver's default one sends
    *every* statement to the next node after a lost connection, whatever `is_idempotent` says.

    :raises ConsistencyRefused: the level can't work. It is found out here and not by the server, which refuses the
        level of a lightweight transaction's commit only when it can't be taken back.
    """
    bound = prepared.bind(values)
    bound.is_idempotent = idempotent
    if not idempotent:
        bound.retry_policy = _NEVER_RETRY
    level = options.consistency_level
    if level is not None:
        if level == "ANY" and kind == "read":
            raise ConsistencyRefused("ANY is a consistency level for writes.")
        replicas = _replicas(session, bound.keyspace or session.keyspace)
        if replicas is not None and _REPLICAS_OF.get(level, 0) > replicas:
            raise ConsistencyRefused(f"{level} needs {_REPLICAS_OF[level]} replicas; this keyspace has {replicas}.")
        bound.consistency_level = ConsistencyLevel.name_to_value[level]
    return bound


def execute(
    session: Session,
    statement: Statement,
    options: QueryOptions,
    *,
    name: str,
    kind: Kind = "read",
    paging_state: bytes | None = None,
) -> Page:
    """Executes and waits.

    :param name: of the statement, for the metrics.
    :returns: the first page, or the page at `paging_state`; of a write, an empty one or the `[applied]` row.
    :raises StorageError: a subclass that says what happened.
    """
    timeout = options.remaining()
    started = time.monotonic()
    try:
        return _page(session.execute_async(statement, timeout=timeout, paging_state=paging_state))
    except Exception as error:
        raise _translated(error, kind, statement.is_idempotent) from error
    finally:
        options.database.seconds += metrics.observe_query(name, started)


def execute_concurrently(
    session: Session, statements: Sequence[Statement], options: QueryOptions, *, name: str
) -> list[Page | StorageError]:
    """Sends all statements, which only read, before it waits for the first.

    :param name: of the statements, for the metrics.
    :returns: for each statement its first page, or what went wrong with it.
    :raises StorageTimeout: the deadline has passed.
    """
    started = time.monotonic()
    try:
        waiting: list[ResponseFuture | StorageError] = []
        for statement in statements:
            options.remaining()
            try:
                waiting.append(send(session, statement, options, name=name))
            except StorageError as error:
                waiting.append(error)
        results = [sent if isinstance(sent, StorageError) else _page_or_error(sent) for sent in waiting]
        # Also when the driver gave up at the deadline, what failed is the request.
        options.remaining()
        return results
    finally:
        options.database.seconds += time.monotonic() - started


def logged_batch(statements: Sequence[BoundStatement]) -> BatchStatement:
    """All or none of the statements, at the consistency level of the first, never sent twice."""
    batch = BatchStatement(BatchType.LOGGED, _NEVER_RETRY, statements[0].consistency_level)
    batch.keyspace = statements[0].keyspace
    for statement in statements:
        batch.add(statement)
    return batch


def pages(
    session: Session,
    statement: BoundStatement,
    options: QueryOptions,
    *,
    name: str,
    limit: int | None,
    fetch_size: int,
) -> Generator[list[Row]]:
    """All rows in pages of `fetch_size`, the next one on its way while the caller deals with this one.

    Never more than two pages are in memory. Closing the generator stops the fetching: what is on its way
    by then is the last.

    :param name: of the statement, for the metrics.
    :param limit: rows in all; None for no limit.
    :raises StorageError: from `next()`, also after pages were given out.
    """
    left = limit
    if left == 0:
        return
    statement.fetch_size = fetch_size if left is None else min(fetch_size, left)
    page = execute(session, statement, options, name=name)
    while True:
        rows = page.rows if left is None else page.rows[:left]
        if left is not None:
            left -= len(rows)
        future = None
        if page.paging_state is not None and left != 0:
            statement.fetch_size = fetch_size if left is None else min(fetch_size, left)
            future = send(session, statement, options, name=name, paging_state=page.paging_state)
        if rows:
            # A page may be empty with more to come: a filter or tombstones left nothing of it.
            yield rows
        if future is None:
            return
        page = receive(future)


def send(
    session: Session, statement: Statement, options: QueryOptions, *, name: str, paging_state: bytes | None = None
) -> ResponseFuture:
    """Asks for a page of a read, and does not wait.

    :param name: of the statement, for the metrics.
    :raises StorageError: it can't be sent.
    """
    timeout = options.remaining()
    with translating():
        future = session.execute_async(statement, timeout=timeout, paging_state=paging_state)
        # Its time ends when it comes, and not when the caller has dealt with the page before.
        answered = partial(_observe_page, name, time.monotonic())
        future.add_callbacks(answered, answered)
    return future


def receive(future: ResponseFuture) -> Page:
    """Waits for the page that was asked for.

    :raises StorageError: a subclass that says what happened.
    """
    with translating():
        return _page(future)


def _observe_page(name: str, started: float, result: object) -> None:
    metrics.observe_query(name, started)


@contextmanager
def translating(kind: Kind = "read", idempotent: bool = True) -> Iterator[None]:
    """What the driver raises within becomes a storage error, and is counted.

    :param idempotent: the driver was allowed to send the statement to another node after a failure.
    """
    try:
        yield
    except Exception as error:
        raise _translated(error, kind, idempotent) from error


def _translated(error: Exception, kind: Kind, idempotent: bool) -> StorageError:
    metrics.DRIVER_ERRORS.labels(type(error).__name__).inc()
    return translate(error, kind, idempotent)


def _page(future: ResponseFuture) -> Page:
    result = future.result()
    page = Page(list(result.current_rows), result.paging_state)
    # The driver keeps a future, with its rows, for as long as it might have had to wait for it: all pages of a second.
    result.current_rows.clear()
    return page


def _page_or_error(future: ResponseFuture) -> Page | StorageError:
    try:
        return receive(future)
    except StorageError as error:
        return error


def _replicas(session: Session, keyspace: str) -> int | None:
    """Replicas of a keyspace in all data centres, None when not known."""
    strategy = getattr(session.cluster.metadata.keyspaces.get(keyspace), "replication_strategy", None)
    factors = getattr(strategy, "dc_replication_factors_info", None)
    if factors:
        return sum(factor.all_replicas for factor in factors.values())
    factor = getattr(strategy, "replication_factor_info", None)
    return factor.all_replicas if factor else None
