"""What the migration runner executes: lightweight transactions, queries and schema changes.

All of them wait for a node that is down or slow. The other nodes need about 20 s to mark a dead node as down.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    ReadFailure,
    Timeout,
    Unavailable,
    WriteFailure,
)
from cassandra.cluster import NoHostAvailable, ResultSet, Session
from cassandra.connection import ConnectionException
from cassandra.policies import FallthroughRetryPolicy
from cassandra.protocol import ConfigurationException, ErrorMessage
from cassandra.query import SimpleStatement

from storage.cql.driver import nodes_agree_on_schema
from storage.schema import SchemaError

# Seconds to wait until all nodes that are up agree on the schema, and for one statement.
AGREEMENT_TIMEOUT = 60.0

# Seconds to repeat a statement that failed or whose outcome is unknown.
_RETRY_FOR = 45.0
_RETRY_INTERVAL = 0.3
_TEMPORARY = (
    ConnectionException,
    NoHostAvailable,
    OperationTimedOut,
    ReadFailure,
    Timeout,
    Unavailable,
    WriteFailure,
    # Overload and other errors of the server. One of them has no class of its own in the driver: the outcome of a
    # transaction is unknown (error code 0x1700).
    ErrorMessage,
    # The texts of the statements are constant: this node does not know a keyspace or table yet that was just created.
    InvalidRequest,
)

_Result = TypeVar("_Result")


def transaction(session: Session, cql: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Execute a lightweight transaction across all data centers, and repeat it if its outcome is unknown.

    So it must be one that may be executed twice.

    :returns: None if it was applied, else the current values of the columns in its condition.
    :raises SchemaError: the outcome is still unknown after 45 seconds.
    """
    statement = SimpleStatement(
        cql, consistency_level=ConsistencyLevel.QUORUM, serial_consistency_level=ConsistencyLevel.SERIAL
    )
    applied, *current = _repeated(lambda: session.execute(statement, values).one())
    return None if applied else tuple(current)


def query(session: Session, statement: str | SimpleStatement, values: Sequence[Any] = ()) -> ResultSet:
    """Read rows.

    :raises SchemaError: Cassandra does not answer within 45 seconds.
    """
    return _repeated(lambda: session.execute(statement, values))


def use_keyspace(session: Session, keyspace: str) -> None:
    """Make an existing keyspace that of the session. A node may not know it yet, if a runner has just created it.

    :raises SchemaError: a node does not know the keyspace after 45 seconds.
    """
    _repeated(lambda: session.set_keyspace(keyspace))


def _repeated(action: Callable[[], _Result]) -> _Result:
    latest = time.monotonic() + _RETRY_FOR
    while True:
        try:
            return action()
        except _TEMPORARY as error:
            if time.monotonic() > latest:
                raise SchemaError(f"Cassandra does not answer: {error}") from error
            time.sleep(_RETRY_INTERVAL)


def reason(error: BaseException) -> str:
    """The server's message about a refused statement, in one line and without the error code that the driver adds."""
    message = re.search(r'message="(.*)"', str(error), re.DOTALL)
    return " ".join((message[1] if message else str(error)).split())


def create_table(session: Session, name: str, columns: str) -> None:
    """Create a table of the runner, unless it exists.

    Two coordinators that create a table at the same time would give it two ids, and its rows would be lost. So the id
    is fixed: it is derived from the keyspace and the name.
    """
    if has_table(session, name):
        return
    create = f"CREATE TABLE IF NOT EXISTS {name} ({columns})"
    try:
        execute_ddl(session, f"{create} WITH ID = {table_id(session.keyspace, name)}")
    except (InvalidRequest, ConfigurationException):
        # This server does not let clients choose the id.
        execute_ddl(session, create)


def has_table(session: Session, name: str) -> bool:
    """Whether the session's keyspace has a table."""
    select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s"
    return query(session, select, (session.keyspace, name)).one() is not None


def column_names(session: Session, table: str) -> set[str]:
    """The columns of a table in the session's keyspace; empty if there is no such table."""
    select = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s"
    return {name for (name,) in query(session, select, (session.keyspace, table))}


def table_id(keyspace: str, name: str) -> uuid.UUID:
    """The id of a table of the runner. Ids are unique in a cluster, so each keyspace has its own."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{keyspace}.{name}")


def execute_ddl(session: Session, cql: str) -> None:
    """Execute a schema change once, and wait until all nodes that are up have it.

    After a lost connection the driver does not send it to another node.

    :raises SchemaError: the statement was executed, but the nodes do not agree on the schema within 60 seconds.
    :raises Exception: any exception of the driver.
    """
    # The driver asks the coordinator of the statement: the other nodes may not know yet that there is a change.
    session.cluster.max_schema_agreement_wait = AGREEMENT_TIMEOUT
    statement = SimpleStatement(cql, retry_policy=FallthroughRetryPolicy())
    future = session.execute_async(statement, timeout=2 * AGREEMENT_TIMEOUT)
    future.result()
    _require_agreement(future.is_schema_agreed)


def await_agreement(session: Session) -> None:
    """Wait until all nodes that are up agree on the schema.

    :raises SchemaError: they do not within 60 seconds.
    """
    _require_agreement(nodes_agree_on_schema(session, AGREEMENT_TIMEOUT))


def _require_agreement(is_agreed: bool) -> None:
    if not is_agreed:
        raise SchemaError("The nodes do not agree on the schema. Check that all are up (nodetool describecluster).")
