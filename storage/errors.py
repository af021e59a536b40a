"""What storage raises: one hierarchy, with the driver's exception attached as the cause."""

from __future__ import annotations

import re

from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    Timeout,
    Unavailable,
    WriteFailure,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionException
from cassandra.protocol import ErrorMessage, IsBootstrappingErrorMessage, OverloadedErrorMessage


class StorageError(Exception):
    """Base of all that follows; raised as itself for what nobody expected."""


class StorageUnavailable(StorageError):
    """Cassandra can't take the request now.

    :ivar safe_to_retry: nothing was sent, or sending it again changes nothing.
    """

    def __init__(self, message: str, safe_to_retry: bool = True) -> None:
        super().__init__(message)
        self.safe_to_retry = safe_to_retry


class StorageTimeout(StorageError):
    """No answer in time, or an answer that leaves the outcome open.

    :ivar may_have_applied: it was a write, and it may have been (or may yet be) applied.
    """

    def __init__(self, message: str, may_have_applied: bool = False) -> None:
        super().__init__(message)
        self.may_have_applied = may_have_applied


class ConsistencyRefused(StorageError):
    """The server, or the keyspace's replication, can't do the consistency level that was asked for."""


class BatchTooLarge(StorageError):
    """The batch is over the server's `batch_size_fail_threshold`."""


class PagingStateRefused(StorageError):
    """The server doesn't take the paging state (it comes from another table layout or server version)."""


class UserNotFound(StorageError):
    """There is no user with this id."""


class VersionConflict(StorageError):
    """The user is not, or no longer, at a version that the caller named."""


# Source: native_protocol_v5.spec, section 8. The driver has no class for it.
CAS_WRITE_UNKNOWN = 0x1700


def translate(error: Exception, *, write: bool, replicas: int | None = None) -> StorageError:
    """The storage error for what the driver raised.

    :param write: the statement changes data.
    :param replicas: how many replicas the keyspace has, when known; a level that needs more never works.
    """
    if isinstance(error, OperationTimedOut):
        return StorageTimeout("Cassandra did not answer before the deadline.", may_have_applied=write)
    if isinstance(error, Timeout):
        return StorageTimeout(
            f"Not enough replicas answered in time (consistency {_level(error.consistency)}).", may_have_applied=write
        )
    if isinstance(error, WriteFailure):
        return StorageTimeout("Some replicas failed to write.", may_have_applied=True)
    if isinstance(error, Unavailable):
        required, level = error.required_replicas or 0, _level(error.consistency)
        if replicas is not None and required > replicas:
            return ConsistencyRefused(f"{level} needs {required} replicas; this keyspace has {replicas}.")
        return StorageUnavailable(
            f"{level} needs {required} replicas; {error.alive_replicas} are up.", safe_to_retry=True
        )
    if isinstance(error, ErrorMessage) and error.code == CAS_WRITE_UNKNOWN:
        return StorageTimeout("The outcome of the lightweight transaction is not known.", may_have_applied=True)
    if isinstance(error, (OverloadedErrorMessage, IsBootstrappingErrorMessage)):
        return StorageUnavailable("Cassandra is overloaded or still starting.", safe_to_retry=True)
    if isinstance(error, NoHostAvailable):
        # After a retry on the next node, what the first one said is inside.
        for cause in error.errors.values():
            if isinstance(cause, (Unavailable, OverloadedErrorMessage, IsBootstrappingErrorMessage)):
                return translate(cause, write=write, replicas=replicas)
        # A statement that is not idempotent is never sent to a second node (see execution.py): for it, this
        # exception means that no node could be sent anything.
        return StorageUnavailable("No Cassandra node can be reached.", safe_to_retry=True)
    if isinstance(error, ConnectionException):
        if write:
            return StorageTimeout("The connection was lost after the write was sent.", may_have_applied=True)
        return StorageUnavailable("The connection to Cassandra was lost.", safe_to_retry=True)
    if isinstance(error, InvalidRequest):
        return _refused(str(error))
    return StorageError(f"{type(error).__name__}: {error}")


def _refused(message: str) -> StorageError:
    # Cassandra has one error code for all invalid requests: only its words tell them apart.
    if re.search(r"consistency\s?level|not compatible with replication strategy", message, re.IGNORECASE):
        words = re.search(r'message="(.*)"', message)
        return ConsistencyRefused(words.group(1) if words else message)
    if "Batch too large" in message:
        return BatchTooLarge("The batch is larger than this Cassandra accepts in one piece; send fewer users.")
    if "paging state" in message.lower():
        return PagingStateRefused("Cassandra does not take this page_state any more.")
    return StorageError(message)


def _level(value: int | None) -> str:
    return str(ConsistencyLevel.value_to_name.get(value, "the consistency level"))
