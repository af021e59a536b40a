"""Statements, the cache of the prepared ones, and the two ways to run them: a page, or page after page.

Tables are named with their keyspace, so that a statement means the same whatever `USE` a session has seen.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing
from contextvars import copy_context
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson
from cassandra.cluster import Session
from cassandra.cqltypes import DateType
from cassandra.query import BoundStatement, PreparedStatement

from settings import get_settings
from storage.cql.execution import Page, QueryOptions, Row, Stream, bind, execute, pages, translating
from storage.errors import Kind, StorageTimeout
from web.json import rfc3339

_RFC3339 = r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"'


class Statement(NamedTuple):
    """CQL, and what the driver and the error translation must know of it.

    :ivar name: for the metrics: what it does, in lower case.
    :ivar cql: with `{keyspace}` where the keyspace's name goes.
    :ivar idempotent: the caller's wish is fulfilled once, however often this is sent.
    """

    name: str
    cql: str
    kind: Kind = "read"
    idempotent: bool = True


class PreparedCache:
    """Prepares each statement once a process, for each session and keyspace, whatever the number of threads.

    What a server forgets, by eviction or restart, the driver prepares again when it is told so.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: WeakKeyDictionary[
            Session, dict[tuple[str, str], PreparedStatement | Future[PreparedStatement]]
        ] = WeakKeyDictionary()

    def get(self, session: Session, statement: Statement, options: QueryOptions) -> PreparedStatement:
        """The prepared statement.

        :raises StorageError: a timeout when the deadline comes first; the preparation goes on for the next caller.
        """
        key = (session.keyspace or get_settings().cassandra_keyspace, statement.cql)
        prepared = self._sessions.get(session, {}).get(key)
        if isinstance(prepared, PreparedStatement):
            return prepared
        with self._lock:
            known = self._sessions.setdefault(session, {})
            future = known.get(key)
            if isinstance(future, PreparedStatement):
                return future
            if future is None:
                future = known[key] = Future()
                # A thread of its own, because the driver's prepare() takes no timeout.
                context = copy_context()  # for the request's id in its log lines
                threading.Thread(target=context.run, args=(self._prepare, session, key, future), daemon=True).start()
        started = time.monotonic()
        try:
            if not wait([future], timeout=options.remaining()).done:
                raise StorageTimeout("Cassandra did not answer before the deadline.")
            with translating():
                return future.result()
        finally:
            options.database.seconds += time.monotonic() - started

    def _prepare(self, session: Session, key: tuple[str, str], future: Future[PreparedStatement]) -> None:
        keyspace, cql = key
        try:
            prepared = session.prepare(cql.replace("{keyspace}", keyspace))
        except BaseException as error:
            with self._lock:
                # The next caller tries again.
                self._sessions[session].pop(key, None)
            future.set_exception(error)
        else:
            with self._lock:
                self._sessions[session][key] = prepared
            future.set_result(prepared)


prepared_cache = PreparedCache()
# A thread that held the lock at a fork does not exist in the child.
os.register_at_fork(after_in_child=prepared_cache.__init__)  # type: ignore[misc]


def bound(session: Session, statement: Statement, values: Sequence[Any], options: QueryOptions) -> BoundStatement:
    """The prepared statement with its values, ready to be sent.

    :param values: one for each `?` of the statement, in order.
    """
    prepared = prepared_cache.get(session, statement, options)
    return bind(session, prepared, values, options, kind=statement.kind, idempotent=statement.idempotent)


def run(
    session: Session,
    statement: Statement,
    values: Sequence[Any],
    options: QueryOptions,
    fetch_size: int | None = None,
    paging_state: bytes | None = None,
    texts: bool = False,
) -> Page:
    """Executes a statement and waits.

    :param fetch_size: rows at the most, of a read; None for all up to the driver's 5,000.
    :param paging_state: of the page before.
    :param texts: of a read: each row as JSON, which the server writes.
    :returns: rows; of a lightweight transaction one, whose first column is `[applied]`.
    :raises StorageError: a subclass that says what happened.
    """
    timestamps: tuple[str, ...] = ()
    if texts:
        statement, timestamps = _as_json(session, statement, options)
    ready = bound(session, statement, values, options)
    if fetch_size is not None:
        ready.fetch_size = fetch_size
    page = execute(session, ready, options, name=statement.name, kind=statement.kind, paging_state=paging_state)
    return page._replace(rows=texts_of(timestamps, page.rows)) if texts else page


def stream(
    session: Session,
    statement: Statement,
    values: Sequence[Any],
    options: QueryOptions,
    limit: int | None = None,
    fetch_size: int = 1000,
) -> Stream:
    """Pages of all rows, or of `limit`, each of `fetch_size` rows at the most.

    :raises StorageError: from `next()`, also after pages were given out.
    """

    def found(statement: Statement) -> Generator[list[Row]]:
        ready = bound(session, statement, values, options)
        yield from pages(session, ready, options, name=statement.name, limit=limit, fetch_size=fetch_size)

    return stream_of(session, statement, found, options)


def stream_of(
    session: Session,
    statement: Statement,
    found: Callable[[Statement], Generator[list[Row]]],
    options: QueryOptions,
) -> Stream:
    """A stream of pages that a generator finds by the statement, or by the same SELECT with each row as JSON."""

    def texts() -> Generator[list[str]]:
        select, timestamps = _as_json(session, statement, options)
        with closing(found(select)) as of_texts:
            for page in of_texts:
                yield texts_of(timestamps, page)

    return Stream(found(statement), texts())


def _as_json(session: Session, statement: Statement, options: QueryOptions) -> tuple[Statement, tuple[str, ...]]:
    """The same SELECT, each row as one text: JSON that the server writes; and which columns are timestamps."""
    columns = prepared_cache.get(session, statement, options).result_metadata
    timestamps = tuple(column[2] for column in columns if issubclass(column[3], DateType))
    return _select_json(statement, timestamps), timestamps


@cache
def _select_json(statement: Statement, timestamps: tuple[str, ...]) -> Statement:
    # Cassandra writes a timestamp with a space in the middle, but casts it to text as RFC 3339 has it.
    columns, rest = statement.cql.removeprefix("SELECT ").split(" FROM ", 1)
    plain = re.fullmatch(r"\w+(, \w+)*", columns) is not None
    assert plain or not timestamps, f"{statement.name} selects a timestamp and more than names of columns"
    for name in timestamps:
        columns = re.sub(rf"\b{name}\b", f"CAST({name} AS text) AS {name}", columns)
    return statement._replace(cql=f"SELECT JSON {columns} FROM {rest}")


def texts_of(timestamps: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """What a SELECT JSON has found, with its timestamps as everywhere else."""
    texts = [row[0] for row in rows]
    if not texts or all(re.search(rf'"{name}": {_RFC3339}', texts[0]) for name in timestamps):
        return texts
    # A server that casts in another way, or no timestamp in the first row to tell by.
    return [_rewritten(timestamps, text) for text in texts]


def _rewritten(timestamps: Sequence[str], text: str) -> str:
    document = orjson.loads(text)
    for name in timestamps:
        if document[name] is not None:
            document[name] = rfc3339(datetime.fromisoformat(document[name]))
    return orjson.dumps(document).decode()
