"""A whole table in the order of its tokens, by token ranges: two are read while the one before goes out.

A paging state is known only when its page has come, so paging keeps one replica busy at a time. Token ranges can be
asked for side by side. They are cut so that each has at most a page: by the density of what was read so far, for tokens
are spread evenly (they are hashes).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator

from cassandra.cluster import ResponseFuture, Session
from cassandra.query import BoundStatement

from storage.cql.execution import QueryOptions, Row, Stream, execute, pages, receive, send
from storage.cql.statements import Statement, bound, stream_of

# Murmur3Partitioner's. No key has the least one.
_LEAST, _GREATEST = -(2**63), 2**63 - 1

# Ranges that are asked for before the page that is going out is dealt with.
_AHEAD = 2


def is_worth_scanning(session: Session, limit: int, fetch_size: int) -> bool:
    """Whether there may be pages enough, and large enough that their number of rows is about what was expected.

    And whether tokens are what this module takes them for: they are unless somebody chose otherwise, long ago.
    """
    murmur3 = str(session.cluster.metadata.partitioner).endswith("Murmur3Partitioner")
    return murmur3 and limit > 2 * fetch_size and fetch_size >= 100


def stream_scan(
    session: Session,
    statement: Statement,
    key: str,
    token: Callable[[Row], int],
    options: QueryOptions,
    limit: int,
    fetch_size: int,
) -> Stream:
    """Pages of at most `limit` rows in all.

    :param statement: a SELECT of the whole table, without values.
    :param key: the partition key's columns, as they stand in `token(…)`.
    :param token: of a row, which may be one text: JSON.
    :raises StorageError: from `next()`, also after pages were given out.
    """

    def found(whole: Statement) -> Generator[list[Row]]:
        condition = f"WHERE token({key}) > ? AND token({key}) <= ?"
        part = whole._replace(name=f"{whole.name}_by_token", cql=f"{whole.cql} {condition}")
        return _scan(session, whole, part, token, options, limit, fetch_size)

    return stream_of(session, statement, found, options)


def _scan(
    session: Session,
    whole: Statement,
    part: Statement,
    token: Callable[[Row], int],
    options: QueryOptions,
    limit: int,
    fetch_size: int,
) -> Generator[list[Row]]:
    every = bound(session, whole, (), options)
    every.fetch_size = fetch_size
    first = execute(session, every, options, name=whole.name)
    if first.paging_state is None or len(first.rows) >= limit:
        if first.rows[:limit]:
            yield first.rows[:limit]
        return
    if not first.rows:
        # Tombstones: nothing to judge the density by.
        yield from pages(session, every, options, name=whole.name, limit=limit, fetch_size=fetch_size)
        return
    # The page may end between two keys of one token: what has the last token comes again with the first range.
    rows = first.rows
    last = token(rows[-1])
    while rows and token(rows[-1]) == last:
        rows.pop()
    given = 0
    for page in _by_range(session, part, options, fetch_size, rows, last - 1, limit):
        yield page[: limit - given]
        given += len(page)
        if given >= limit:
            return


def _by_range(
    session: Session,
    part: Statement,
    options: QueryOptions,
    fetch_size: int,
    rows: list[Row],
    lower: int,
    limit: int,
) -> Generator[list[Row]]:
    """Pages from `rows` on, which have the tokens up to `lower`; a range or two beyond `limit` rows."""
    waiting: deque[tuple[int, BoundStatement, ResponseFuture]] = deque()
    asked = read = lower
    found = len(rows)
    # So much less than a page, that three standard deviations more are one.
    expected = fetch_size - 3 * math.sqrt(fetch_size)
    while True:
        span = max(1, int(expected * (read - _LEAST) / max(1, found)))
        while asked < _GREATEST and len(waiting) < _AHEAD and found + len(waiting) * expected < limit:
            upper = min(asked + span, _GREATEST)
            statement = bound(session, part, (asked, upper), options)
            statement.fetch_size = fetch_size
            waiting.append((upper, statement, send(session, statement, options, name=part.name)))
            asked = upper
        if rows:
            yield rows
        if not waiting:
            return
        read, statement, future = waiting.popleft()
        page = receive(future)
        found += len(page.rows)
        while page.paging_state is not None:
            # The range has more than was to be expected.
            future = send(session, statement, options, name=part.name, paging_state=page.paging_state)
            if page.rows:
                yield page.rows
            page = receive(future)
            found += len(page.rows)
        rows = page.rows
