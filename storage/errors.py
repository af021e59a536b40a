"""What storage raises. `web/errors.py` turns each into an HTTP response.

The driver's exception is the cause (`__cause__`) of each error that comes from Cassandra.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base class. Raised as itself for an error that nobody expected."""


class StorageUnavailable(StorageError):
    """Cassandra can't process the request now.

    :ivar safe_to_retry: nothing was sent, or sending it again has the same effect.
    """

    def __init__(self, message: str, safe_to_retry: bool = True) -> None:
        super().__init__(message)
        self.safe_to_retry = safe_to_retry


class StorageTimeout(StorageError):
    """Cassandra did not answer in time, or its answer leaves the outcome unknown.

    :ivar may_have_applied: the statement was a write, and it may have been applied or may still be.
    """

    def __init__(self, message: str, may_have_applied: bool = False) -> None:
        super().__init__(message)
        self.may_have_applied = may_have_applied


class ConsistencyRefused(StorageError):
    """The server or the keyspace's replication does not support the requested consistency level."""


class BatchTooLarge(StorageError):
    """The batch exceeds the server's `batch_size_fail_threshold`."""


class PagingStateRefused(StorageError):
    """The server does not accept the paging state, which another schema or server version made."""


class RowNotFound(StorageError):
    """There is no row with this key."""


class VersionConflict(StorageError):
    """The row is not, or no longer, at a version that the caller named."""


class KeyBusy(StorageError):
    """The first request with this idempotency key is still being processed."""


class KeyReused(StorageError):
    """This idempotency key was used with another request body."""
