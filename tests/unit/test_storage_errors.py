"""Translation of driver exceptions to the exceptions of storage.errors.

A write that may have been applied must never be reported as rejected.
"""

from __future__ import annotations

from typing import Any

import pytest
from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    ReadFailure,
    ReadTimeout,
    Unavailable,
    WriteFailure,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ConnectionShutdown
from cassandra.protocol import ErrorMessage, OverloadedErrorMessage, ProtocolException, ServerError

from storage.cql.statement import Kind
from storage.cql.translation import translate
from storage.errors import (
    BatchTooLarge,
    ConsistencyRefused,
    PagingStateRefused,
    StorageError,
    StorageTimeout,
    StorageUnavailable,
)


def unavailable(level: int) -> Unavailable:
    return Unavailable("", consistency=level, required_replicas=2, alive_replicas=1)


LOST = ConnectionShutdown("Connection to 127.0.0.1 was closed")
DOWN = ConnectionException("Host has been marked down or removed")


# The exception, the kind of statement, whether it is idempotent, the expected class, and may_have_applied.
CASES: list[tuple[Exception, Kind, bool, type[StorageError], bool | None]] = [
    (OperationTimedOut(), "read", True, StorageTimeout, False),
    (OperationTimedOut(), "write", True, StorageTimeout, True),
    (ReadTimeout("", consistency=ConsistencyLevel.ONE), "read", True, StorageTimeout, False),
    (WriteTimeout("", consistency=ConsistencyLevel.ONE, write_type=0), "write", True, StorageTimeout, True),
    (WriteFailure("", consistency=ConsistencyLevel.ONE), "write", True, StorageTimeout, True),
    (ReadFailure("", consistency=ConsistencyLevel.ONE), "read", True, StorageUnavailable, None),
    (ReadFailure("", consistency=ConsistencyLevel.ONE), "lwt", False, StorageTimeout, True),
    (ErrorMessage(0x1700, "CAS write result unknown", None), "lwt", False, StorageTimeout, True),
    (unavailable(ConsistencyLevel.TWO), "read", True, StorageUnavailable, None),
    (unavailable(ConsistencyLevel.TWO), "write", True, StorageUnavailable, None),
    # Too few replicas before the transaction's proposal: nothing is applied. Too few for its commit: it may be applied.
    (unavailable(ConsistencyLevel.LOCAL_SERIAL), "lwt", False, StorageUnavailable, None),
    (unavailable(ConsistencyLevel.ALL), "lwt", False, StorageTimeout, True),
    (OverloadedErrorMessage(0x1001, "", None), "write", True, StorageUnavailable, None),
    (OverloadedErrorMessage(0x1001, "", None), "write", False, StorageUnavailable, None),
    (LOST, "write", False, StorageTimeout, True),
    (LOST, "read", True, StorageUnavailable, None),
    (NoHostAvailable("", {"a": LOST}), "read", True, StorageUnavailable, None),
    (NoHostAvailable("", {"a": LOST}), "write", True, StorageTimeout, True),
    (NoHostAvailable("", {"a": DOWN, "b": LOST}), "lwt", True, StorageTimeout, True),
    (NoHostAvailable("", {"a": DOWN, "b": ConnectionBusy()}), "write", True, StorageUnavailable, None),
    (NoHostAvailable("", {}), "write", True, StorageUnavailable, None),
    # The driver tries another node only after a node to which it has sent nothing, unless the statement is idempotent.
    (NoHostAvailable("", {"a": LOST}), "lwt", False, StorageUnavailable, None),
    (NoHostAvailable("", {"a": unavailable(ConsistencyLevel.ONE)}), "read", True, StorageUnavailable, None),
    (NoHostAvailable("", {"a": ServerError(0, "", None)}), "read", True, StorageError, None),
    (InvalidRequest('message="Batch too large"'), "write", False, BatchTooLarge, None),
    (InvalidRequest('message="EACH_QUORUM ConsistencyLevel is only…"'), "read", True, ConsistencyRefused, None),
    (ProtocolException(0xA, "Invalid value for the paging state", None), "read", True, PagingStateRefused, None),
    (ServerError(0, "", None), "lwt", False, StorageTimeout, True),
    (ServerError(0, "", None), "read", True, StorageError, None),
    (OverloadedErrorMessage(0x1001, "", None), "lwt", False, StorageTimeout, True),
    (InvalidRequest('message="unconfigured table"'), "read", True, StorageError, None),
    (RuntimeError("a bug"), "read", True, StorageError, None),
]


def case_id(error: Exception, kind: Kind, idempotent: bool, *expected: Any) -> str:
    return f"{type(error).__name__} on {'an idempotent' if idempotent else 'a non-idempotent'} {kind}"


@pytest.mark.parametrize(
    ("error", "kind", "idempotent", "expected", "applied"), CASES, ids=[case_id(*case) for case in CASES]
)
def test_driver_exception_is_translated(
    error: Exception, kind: Kind, idempotent: bool, expected: type, applied: bool | None
) -> None:
    """Check the class, and whether the write may have been applied."""
    translated = translate(error, kind, idempotent)
    if isinstance(translated, StorageUnavailable):
        assert translated.safe_to_retry == (idempotent or not isinstance(error, OverloadedErrorMessage))
    assert type(translated) is expected
    assert getattr(translated, "may_have_applied", None) == applied
