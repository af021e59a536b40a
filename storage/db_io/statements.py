"""Statements, the cache of the prepared ones, and the two ways to run them: a page, or page after page.

Tables are named with their keyspace, so that a statement means the same whatever `USE` a session has seen.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cassandra.cluster import Session
from cassandra.query import BoundStatement, PreparedStatement

from settings import get_settings
from storage.errors import Kind, StorageTimeout
from storage.execution import Page, QueryOptions, Stream, bind, execute, pages, translating


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
        self._sessions: WeakKeyDictionary[Session, dict[tuple[str, str], Future[PreparedStatement]]]
        self._sessions = WeakKeyDictionary()

    def get(self, session: Session, statement: Statement, options: QueryOptions) -> PreparedStatement:
        """The prepared statement.

        :raises StorageError: a timeout when the deadline comes first; the preparation goes on for the next caller.
        """
        key = (session.keyspace or get_settings().cassandra_keyspace, statement.cql)
        with self._lock:
            known = self._sessions.setdefault(session, {})
            future = known.get(key)
            if future is None:
                future = known[key] = Future()
                # A thread of its own, because the driver's prepare() takes no timeout.
                context = copy_context()  # for the request's id in its log lines
                threading.Thread(target=context.run, args=(self._prepare, session, key, future), daemon=True).start()
        if future.done() and future.exception() is None:
            return future.result()
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
) -> Page:
    """Executes a statement and waits.

    :param fetch_size: rows at the most, of a read; None for all up to the driver's 5,000.
    :param paging_state: of the page before.
    :returns: rows; of a lightweight transaction one, whose first column is `[applied]`.
    :raises StorageError: a subclass that says what happened.
    """
    ready = bound(session, statement, values, options)
    if fetch_size is not None:
        ready.fetch_size = fetch_size
    return execute(session, ready, options, name=statement.name, kind=statement.kind, paging_state=paging_state)


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
    ready = bound(session, statement, values, options)
    return Stream(pages(session, ready, options, name=statement.name, limit=limit, fetch_size=fetch_size))
