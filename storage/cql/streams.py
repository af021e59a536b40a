"""Streams: all rows of a SELECT, page by page.

The next page is requested before the caller processes the current one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, Self

from cassandra.cluster import Session
from cassandra.query import BoundStatement

from storage.cql.execution import bind, execute_bound, receive, send
from storage.cql.options import QueryOptions
from storage.cql.row_encoding import row_format
from storage.cql.statement import Statement


class Stream(Iterator[list[Any]]):
    """Pages of rows, fetched on demand. Use it as a context manager: closing it stops fetching.

    A page is never empty. Its rows are tuples; strings for a statement with `json_rows`.

    :ivar columns: names of the columns of the rows.
    :ivar closed: the stream was closed and fetches no more pages.
    """

    def __init__(self, pages: Generator[list[Any]], columns: Sequence[str]) -> None:
        self._pages = pages
        self.columns = columns
        self.closed = False

    def __next__(self) -> list[Any]:
        """The next page.

        :raises StorageError: the page can't be fetched, possibly after earlier pages were.
        """
        return next(self._pages)

    def close(self) -> None:
        """Stop fetching. Pages that were already requested still arrive: at most one, or two of a token scan."""
        self.closed = True
        self._pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stream(
    session: Session,
    statement: Statement,
    values: Sequence[Any],
    options: QueryOptions,
    *,
    limit: int | None = None,
    fetch_size: int = 1000,
) -> Stream:
    """Stream the rows of a SELECT. Nothing is sent before the first `next()`.

    :param values: one for each `?` of the statement, in order.
    :param limit: total number of rows; None for no limit.
    :param fetch_size: maximum number of rows of a page.
    """
    return Stream(_pages(session, statement, values, options, limit, fetch_size), statement.columns)


def _pages(
    session: Session,
    statement: Statement,
    values: Sequence[Any],
    options: QueryOptions,
    limit: int | None,
    fetch_size: int,
) -> Generator[list[Any]]:
    form = row_format(session, statement, options)
    bound = bind(session, form.statement, values, options)
    with closing(pages_of(session, bound, options, statement.name, limit, fetch_size)) as pages:
        for page in pages:
            yield form.decode(page)


def pages_of(
    session: Session, bound: BoundStatement, options: QueryOptions, name: str, limit: int | None, fetch_size: int
) -> Generator[list[Any]]:
    """Pages of a bound SELECT. At most two pages are in memory.

    Closing the generator stops fetching. At most one page, which was already requested, still arrives.

    :param name: label of the query metrics.
    :param limit: total number of rows; None for no limit.
    :raises StorageError: from `next()`, possibly after pages were yielded.
    """
    left = limit
    if left == 0:
        return
    bound.fetch_size = fetch_size if left is None else min(fetch_size, left)
    page = execute_bound(session, bound, options, name, "read")
    while True:
        rows = page.rows if left is None else page.rows[:left]
        if left is not None:
            left -= len(rows)
        future = None
        if page.paging_state is not None and left != 0:
            bound.fetch_size = fetch_size if left is None else min(fetch_size, left)
            future = send(session, bound, options, name, page.paging_state)
        if rows:
            # A page can be empty although more follow: a filter or tombstones removed all of its rows.
            yield rows
        if future is None:
            return
        page = receive(future)
