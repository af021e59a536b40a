"""Exceptions that storage raises during a request. `web/errors.py` turns each into an HTTP response.

If an error comes from Cassandra, its cause (`__cause__`) is the exception of the driver.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base class of storage errors. An unexpected error is an instance of this class itself."""


class StorageUnavailable(StorageError):
    """Cassandra can't process the request now.

    :ivar safe_to_retry: the statement was not sent, was rejected before it wrote, or has the same effect if sent again.
    """

    def __init__(self, message: str, safe_to_retry: bool = True) -> None:
        super().__init__(message)
        self.safe_to_retry = safe_to_retry


class StorageTimeout(StorageError):
    """Cassandra did not answer in time, or its answer leaves the outcome unknown.

    :ivar may_have_applied: the statement was a write. Cassandra may have applied it, or may still apply it.
    """

    def __init__(self, message: str, may_have_applied: bool = False) -> None:
        super().__init__(message)
        self.may_have_applied = may_have_applied


class ConsistencyRefused(StorageError):
    """The server or the keyspace does not support the requested consistency level."""


class BatchTooLarge(StorageError):
    """The batch exceeds the server's `batch_size_fail_threshold`."""


class RowsRefused(StorageError):
    """Cassandra does not accept the values of a row, however often they are sent, such as a key above 64 KiB."""


class PagingStateRefused(StorageError):
    """The server does not accept the paging state, for example after a schema change."""


class RowNotFound(StorageError):
    """There is no row with this key."""


class VersionConflict(StorageError):
    """The row is at none of the versions that the caller accepts, or does not exist."""


class KeyBusy(StorageError):
    """The response to the first request with this idempotency key is not available yet, or not on this instance."""


class KeyReused(StorageError):
    """This idempotency key was used with another request body."""
