"""Translation of the driver's exceptions into storage errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

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
from cassandra.connection import ConnectionException
from cassandra.protocol import (
    ErrorMessage,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ProtocolException,
    ServerError,
)

from observability import metrics
from storage.cql.driver import was_not_sent
from storage.cql.statement import Kind
from storage.errors import (
    BatchTooLarge,
    ConsistencyRefused,
    PagingStateRefused,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
)

# Source: native_protocol_v5.spec, section 8. The driver has no class for this error code.
CAS_WRITE_UNKNOWN = 0x1700

_SERIAL = (ConsistencyLevel.SERIAL, ConsistencyLevel.LOCAL_SERIAL)


@contextmanager
def translating(kind: Kind = "read", idempotent: bool = True) -> Iterator[None]:
    """Count the driver's exceptions in the block, and turn them into storage errors.

    :param kind: kind of the statement.
    :param idempotent: the driver was allowed to send the statement to another node after a failure.
    :raises StorageError: with the driver's exception as its cause.
    """
    try:
        yield
    except Exception as error:
        metrics.DRIVER_ERRORS.labels(type(error).__name__).inc()
        raise translate(error, kind, idempotent) from error


def translate(error: Exception, kind: Kind = "read", idempotent: bool = True) -> StorageError:
    """The storage error for an exception of the driver.

    :param kind: kind of the statement.
    :param idempotent: the driver was allowed to send the statement to another node after a failure.
    """
    is_write = kind != "read"
    match error:
        case OperationTimedOut():
            return StorageTimeout("Cassandra did not answer before the deadline.", may_have_applied=is_write)
        case Timeout():
            level = _level(error.consistency)
            return StorageTimeout(
                f"Not enough replicas answered in time (consistency {level}).", may_have_applied=is_write
            )
        case ReadFailure() if not is_write:
            # A replica fails the read as long as it does not know a new column. It learns the schema within seconds.
            return StorageUnavailable("Some replicas failed to read.")
        case ReadFailure():
            return StorageTimeout("Some replicas failed in the middle of the transaction.", may_have_applied=True)
        case WriteFailure():
            return StorageTimeout("Some replicas failed to write.", may_have_applied=True)
        case Unavailable():
            level = _level(error.consistency)
            if kind == "lwt" and error.consistency not in _SERIAL:
                # Cassandra checks the commit level after the proposal was accepted. The next transaction on the
                # partition completes this one.
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
            if is_write:
                return StorageTimeout("The connection was lost after the write was sent.", may_have_applied=True)
            return StorageUnavailable("The connection to Cassandra was lost.")
        case InvalidRequest() | ProtocolException():
            return _refused(str(error))
    return StorageError(f"{type(error).__name__}: {error}")


def _no_host(error: NoHostAvailable, kind: Kind, idempotent: bool) -> StorageError:
    """The storage error after the driver tried every node.

    The error has one cause per node. Any of the nodes may have received the statement.
    """
    for cause in error.errors.values():
        if isinstance(cause, (Unavailable, ErrorMessage)):
            return translate(cause, kind, idempotent)
        # The driver sends a statement that is not idempotent to another node only if it sent nothing to this one.
        if kind != "read" and idempotent and not was_not_sent(cause):
            return translate(cause, kind, idempotent)
    return StorageUnavailable("No Cassandra node can be reached.")


def _refused(message: str) -> StorageError:
    # Cassandra has one error code for all invalid requests: only the message tells them apart.
    if re.search(r"consistency\s?level|not compatible with replication strategy", message, re.IGNORECASE):
        return ConsistencyRefused(_quoted(message))
    if "Batch too large" in message:
        return BatchTooLarge("The batch is larger than Cassandra's limit; send fewer rows.")
    if "paging state" in message.lower():
        return PagingStateRefused("Cassandra no longer accepts this page_state.")
    return StorageError(message)


def invalid_request_message(error: InvalidRequest) -> str:
    """Cassandra's own words in an exception of the driver."""
    return _quoted(str(error))


def _quoted(message: str) -> str:
    found = re.search(r'message="(.*)"', message)
    return found.group(1) if found else message


def _level(value: int | None) -> str:
    return str(ConsistencyLevel.value_to_name.get(value, "the consistency level"))
