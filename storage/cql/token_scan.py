"""Streams a whole table by token ranges, two of them ahead of the current page.

The paging state of the next page is known only when a page has arrived, so paging keeps one replica busy at a time.
Token ranges can be read concurrently. Each range is sized to contain about one page, from the density of the rows read
so far: tokens are hashes, so rows are spread evenly over them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from cassandra.cluster import ResponseFuture, Session
from cassandra.query import BoundStatement

from storage.cql.driver import uses_murmur3
from storage.cql.execution import bind, execute_bound, receive, send
from storage.cql.options import QueryOptions
from storage.cql.row_encoding import RowFormat, row_format
from storage.cql.statement import Statement
from storage.cql.streams import Stream, pages_of

# The token range of Murmur3Partitioner. No partition key has the least token.
_LEAST, _GREATEST = -(2**63), 2**63 - 1

# Ranges that are requested before the current page is processed.
_AHEAD = 2


def is_worth_scanning(session: Session, limit: int, fetch_size: int) -> bool:
    """Whether a scan by token ranges is possible and can be faster than paging.

    It is possible with Murmur3Partitioner. It can be faster with several large pages: the number of rows in a range is
    then close to the expected number.
    """
    return uses_murmur3(session) and limit > 2 * fetch_size and fetch_size >= 100


def scan(
    session: Session,
    statement: Statement,
    options: QueryOptions,
    *,
    partition_key: str,
    token: Callable[[str], int],
    limit: int,
    fetch_size: int,
) -> Stream:
    """Stream a whole table in token order. Nothing is sent before the first `next()`.

    :param statement: a SELECT with `json_rows` of the whole table, without values.
    :param partition_key: names of the partition key's columns, as in `token(…)`.
    :param token: the token of a row, which is a JSON object.
    :param limit: total number of rows.
    :param fetch_size: maximum number of rows of a page.
    """
    pages = _scan(session, statement, options, partition_key, token, limit, fetch_size)
    return Stream(pages, statement.columns)


def _scan(
    session: Session,
    statement: Statement,
    options: QueryOptions,
    partition_key: str,
    token: Callable[[str], int],
    limit: int,
    fetch_size: int,
) -> Generator[list[str]]:
    form = row_format(session, statement, options)
    select_all = form.statement
    bound = bind(session, select_all, (), options)
    bound.fetch_size = fetch_size
    first = execute_bound(session, bound, options, select_all.name, "read")
    if first.paging_state is None or len(first.rows) >= limit:
        if first.rows[:limit]:
            yield form.decode(first.rows[:limit])
        return
    if not first.rows:
        # The page holds only tombstones, so the density of the rows is not known.
        for page in pages_of(session, bound, options, select_all.name, limit, fetch_size):
            yield form.decode(page)
        return
    # The page may end between two partition keys with the same token. Rows with the last token are dropped here, and
    # the first range, which begins with this token, reads them again.
    rows = first.rows
    last = token(form.decode(rows[-1:])[0])
    while rows and token(form.decode(rows[-1:])[0]) == last:
        rows.pop()
    condition = f" WHERE token({partition_key}) > ? AND token({partition_key}) <= ?"
    select_range = select_all._replace(name=f"{select_all.name}_by_token", cql=select_all.cql + condition)
    yielded = 0
    for page in _by_range(session, select_range, form, options, fetch_size, rows, last - 1, limit):
        yield page[: limit - yielded]
        yielded += len(page)
        if yielded >= limit:
            return


def _by_range(
    session: Session,
    select_range: Statement,
    form: RowFormat,
    options: QueryOptions,
    fetch_size: int,
    rows: list[Any],
    lower: int,
    limit: int,
) -> Generator[list[str]]:
    """Yield the first page from `rows`, then pages of the rows above the token `lower`.

    Reads at most two ranges more than `limit` needs.

    :param select_range: the SELECT of one range.
    :param rows: all rows up to the token `lower`, as the SELECT returned them.
    """
    in_flight: deque[tuple[int, BoundStatement, ResponseFuture]] = deque()
    # Upper ends of the ranges that are requested, and of those that are read.
    requested_to = read_to = lower
    found = len(rows)
    # Three standard deviations below the page size, so that a range rarely needs a second page.
    expected = fetch_size - 3 * math.sqrt(fetch_size)
    while True:
        span = max(1, int(expected * (read_to - _LEAST) / max(1, found)))
        while requested_to < _GREATEST and len(in_flight) < _AHEAD and found + len(in_flight) * expected < limit:
            upper = min(requested_to + span, _GREATEST)
            bound = bind(session, select_range, (requested_to, upper), options)
            bound.fetch_size = fetch_size
            in_flight.append((upper, bound, send(session, bound, options, select_range.name)))
            requested_to = upper
        if rows:
            # Decoded only now, so that Cassandra reads the next ranges at the same time.
            yield form.decode(rows)
        if not in_flight:
            return
        read_to, bound, future = in_flight.popleft()
        page = receive(future)
        found += len(page.rows)
        while page.paging_state is not None:
            # The range holds more rows than expected.
            future = send(session, bound, options, select_range.name, page.paging_state)
            if page.rows:
                yield form.decode(page.rows)
            page = receive(future)
            found += len(page.rows)
        rows = page.rows
