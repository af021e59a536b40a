"""What storage raises: one hierarchy, with the driver's exception attached as the cause."""

from __future__ import annotations

import re
from typing import Literal

from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    ReadFailure,
    Timeout,
    Unavailable,
    WriteFailure,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import (
    ErrorMessage,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ProtocolException,
    ServerError,
)


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


class KeyBusy(StorageError):
    """The first request with this idempotency key is still at work."""


class KeyReused(StorageError):
    """This idempotency key was used for something else."""


# Source: native_protocol_v5.spec, section 8. The driver has no class for it.
CAS_WRITE_UNKNOWN = 0x1700

# What a statement does; `lwt` is a lightweight transaction.
Kind = Literal["read", "write", "lwt"]

_SERIAL = (ConsistencyLevel.SERIAL, ConsistencyLevel.LOCAL_SERIAL)


def translate(error: Exception, kind: Kind = "read", idempotent: bool = True) -> StorageError:
    """The storage error for what the driver raised.

    :param kind: of the statement.
    :param idempotent: the driver was allowed to send it to another node after a failure.
    """
    write = kind != "read"
    match error:
        case OperationTimedOut():
            return StorageTimeout("Cassandra did not answer before the deadline.", may_have_applied=write)
        case Timeout():
            level = _level(error.consistency)
            return StorageTimeout(
                f"Not enough replicas answered in time (consistency {level}).", may_have_applied=write
            )
        case ReadFailure() if not write:
            # One that has not heard of a new column yet refuses a read that asks for it, and is told soon.
            return StorageUnavailable("Some replicas failed to read.")
        case ReadFailure():
            return StorageTimeout("Some replicas failed in the middle of the transaction.", may_have_applied=True)
        case WriteFailure():
            return StorageTimeout("Some replicas failed to write.", may_have_applied=True)
        case Unavailable():
            level = _level(error.consistency)
            if kind == "lwt" and error.consistency not in _SERIAL:
                # The level of the commit is looked at when the proposal has been accepted: whoever writes
                # the row next finishes the transaction.
                return StorageTimeout(f"Too few replicas are up to commit at {level}.", may_have_applied=True)
            return StorageUnavailable(
                f"{level} needs {error.required_replicas} replicas; {error.alive_replicas} are up."
            )
        case OverloadedErrorMessage() | ServerError() if kind == "lwt":
            return StorageTimeout("Cassandra failed in the middle of the transaction.", may_have_applied=True)
        case OverloadedErrorMessage() | IsBootstrappingErrorMessage():
            # An overloaded coordinator may have sent the write to some replicas before it gave up.
            return StorageUnavailable("Cassandra is overloaded or still starting.", safe_to_retry=idempotent)
        case ErrorMessage(code=code) if code == CAS_WRITE_UNKNOWN:
            return StorageTimeout("The outcome of the lightweight transaction is not known.", may_have_applied=True)
        case NoHostAvailable():
            return _no_host(error, kind, idempotent)
        case ConnectionException():
            if write:
                return StorageTimeout("The connection was lost after the write was sent.", may_have_applied=True)
            return StorageUnavailable("The connection to Cassandra was lost.")
        case InvalidRequest() | ProtocolException():
            return _refused(str(error))
    return StorageError(f"{type(error).__name__}: {error}")


def _no_host(error: NoHostAvailable, kind: Kind, idempotent: bool) -> StorageError:
    """Every node was tried: what each said is inside, and one of them may have been sent the statement."""
    for cause in error.errors.values():
        if isinstance(cause, (Unavailable, ErrorMessage)):
            return translate(cause, kind, idempotent)
        # A statement that is not idempotent goes to another node only if nothing was sent to this one.
        if kind != "read" and idempotent and not _unsent(cause):
            return translate(cause, kind, idempotent)
    return StorageUnavailable("No Cassandra node can be reached.")


def _unsent(cause: object) -> bool:
    # The driver has no classes for a pool that is not there.
    return isinstance(cause, (NoConnectionsAvailable, ConnectionBusy)) or bool(
        re.search("marked down or removed|is shutdown", str(cause))
    )


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
