"""The lock that lets one runner at a time change the schema of a keyspace.

The owner renews its lease with lightweight transactions. If it dies, the lease expires, and another runner continues.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cassandra.cluster import Session

from storage.schema import SchemaError
from storage.schema.transactions import create_table, query, transaction

log = logging.getLogger(__name__)

TABLE = "schema_lock"
# Seconds. A runner that was killed blocks the others for this long.
LEASE = 30
# Seconds. The owner may need minutes: to build an index on a large table, or until the nodes agree on the schema.
_LONGEST_WAIT = 600.0
_POLL_INTERVAL = 0.3

_COLUMNS = "name text PRIMARY KEY, owner uuid, instance text"
_ACQUIRE = f"UPDATE {TABLE} USING TTL %s SET owner = %s, instance = %s WHERE name = 'schema' IF owner = null"
_RENEW = f"UPDATE {TABLE} USING TTL %s SET owner = %s, instance = %s WHERE name = 'schema' IF owner = %s"
_RELEASE = f"DELETE FROM {TABLE} WHERE name = 'schema' IF owner = %s"
_SELECT = f"SELECT instance FROM {TABLE} WHERE name = 'schema'"


class LeaseLost(SchemaError):
    """Another runner may own the lock now."""


class Lock:
    """A lease of the lock.

    :ivar owner: identifies this runner.
    :ivar instance: host name and process id, for messages and the history.
    """

    def __init__(self, session: Session, lease: float = LEASE) -> None:
        """Create the lease without acquiring the lock.

        :param lease: whole seconds after which the lock is free if it is not renewed.
        """
        self.owner = uuid.uuid4()
        self.instance = f"{socket.gethostname()}:{os.getpid()}"
        self._session, self._lease = session, lease
        self._ended = threading.Event()
        # The lease lasts at least until this time of time.monotonic().
        self._expires = 0.0
        # A statement may be in progress on the server, so the lock must not be free at once.
        self.keep_until_it_expires = False

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock during the block. Wait for it first; renew it in a thread.

        :param say: called with one line if another runner has the lock.
        :raises SchemaError: another runner has the lock for 10 minutes.
        """
        create_table(self._session, TABLE, _COLUMNS)
        self._acquire(say)
        renewing = threading.Thread(target=self._renew_regularly, name="schema-lock", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            self._ended.set()
            renewing.join()
            if not self.keep_until_it_expires:
                self._release()

    def verify(self) -> None:
        """Renew the lease.

        :raises LeaseLost: the lock has another owner or none, or was not renewed in time.
        """
        began = time.monotonic()
        row = transaction(self._session, _RENEW, (self._lease, self.owner, self.instance, self.owner))
        if row is not None:
            raise LeaseLost(
                "This runner no longer has the lock on the schema, so it changes nothing more. Run the command again."
            )
        self._expires = max(self._expires, began + self._lease)
        # This process may have been stopped since Cassandra executed the transaction.
        if time.monotonic() >= self._expires:
            raise LeaseLost("This runner was stopped for longer than its lease on the schema. Run the command again.")

    def _acquire(self, say: Callable[[str], None]) -> None:
        waiting, latest = False, time.monotonic() + _LONGEST_WAIT
        while True:
            began = time.monotonic()
            row = transaction(self._session, _ACQUIRE, (self._lease, self.owner, self.instance))
            # The owner is this runner if an attempt succeeded whose response was lost.
            if row is None or row[0] == self.owner:
                self._expires = began + self._lease
                return
            if not waiting:
                say(f"waiting for {self._holder()}, which is changing the schema")
                waiting = True
            if time.monotonic() > latest:
                raise SchemaError(f"{self._holder()} has the lock on the schema for {_LONGEST_WAIT:.0f} s.")
            time.sleep(_POLL_INTERVAL)

    def _renew_regularly(self) -> None:
        """Keep the lease during a statement that takes long. :meth:`verify` notices if that fails."""
        while not self._ended.wait(self._lease / 3):
            try:
                self.verify()
            except Exception as error:
                log.warning("The lease on the schema was not renewed: %s", error)

    def _release(self) -> None:
        try:
            transaction(self._session, _RELEASE, (self.owner,))
        except Exception as error:
            log.warning("The lock on the schema was not released, it expires after %d s: %s", self._lease, error)

    def _holder(self) -> str:
        row = query(self._session, _SELECT).one()
        return str(row[0]) if row and row[0] else "another runner"
