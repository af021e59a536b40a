"""The cache of prepared statements."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from weakref import WeakKeyDictionary

from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from storage.cql.driver import prepare
from storage.cql.options import QueryOptions
from storage.cql.statement import Statement, cql_text
from storage.cql.translation import translating


class PreparedCache:
    """Prepares each statement once per process, session and keyspace.

    Threads that ask for the same statement at the same time wait for one preparation. When a node no longer has a
    prepared statement (eviction, restart), the driver itself prepares it again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: WeakKeyDictionary[
            Session, dict[tuple[Statement, str], PreparedStatement | Future[PreparedStatement]]
        ] = WeakKeyDictionary()

    def get(self, session: Session, statement: Statement, options: QueryOptions) -> PreparedStatement:
        """The prepared statement.

        :raises StorageError: Cassandra refused the statement, or the deadline passed; in the latter case the
            preparation continues for the next caller.
        """
        key = (statement, session.keyspace)
        prepared = self._sessions.get(session, {}).get(key)
        if isinstance(prepared, PreparedStatement):
            return prepared
        with self._lock:
            known = self._sessions.setdefault(session, {})
            future = known.get(key)
            if isinstance(future, PreparedStatement):
                return future
            if future is None:
                future = Future()
                # A thread of its own, because the preparation continues if this caller's deadline passes.
                threading.Thread(target=self._prepare, args=(session, key, future), daemon=True).start()
                # Only now: if no thread can start, the next caller tries again.
                known[key] = future
        options.wait_for(future)
        with translating():
            return future.result()

    def _prepare(self, session: Session, key: tuple[Statement, str], future: Future[PreparedStatement]) -> None:
        try:
            prepared = prepare(session, cql_text(*key))
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
# A thread that held the lock at the time of a fork does not exist in the child.
os.register_at_fork(after_in_child=prepared_cache.__init__)  # type: ignore[misc]
