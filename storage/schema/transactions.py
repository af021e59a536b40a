"""What the migration runner executes: lightweight transactions and schema changes."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

from cassandra import (
    ConsistencyLevel,
    InvalidRequest,
    OperationTimedOut,
    Unavailable,
    WriteFailure,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable, Session
from cassandra.connection import ConnectionException
from cassandra.policies import FallthroughRetryPolicy
from cassandra.protocol import ConfigurationException
from cassandra.query import SimpleStatement

from storage.schema import SchemaError

# Seconds to wait until all nodes that are up agree on the schema, and for one statement.
AGREEMENT_TIMEOUT = 60.0

# Seconds to repeat a transaction whose outcome is unknown.
_RETRY_FOR = 20.0
_RETRY_INTERVAL = 0.5
OUTCOME_UNKNOWN = (OperationTimedOut, NoHostAvailable, Unavailable, WriteTimeout, WriteFailure, ConnectionException)


def transaction(session: Session, cql: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
    """Execute a lightweight transaction across all data centers, and repeat it if its outcome is unknown.

    So it must be one that may be executed twice.

    :returns: None if it was applied, else the current values of the columns in its condition.
    :raises SchemaError: the outcome is still unknown after 20 seconds.
    """
    statement = SimpleStatement(
        cql, consistency_level=ConsistencyLevel.QUORUM, serial_consistency_level=ConsistencyLevel.SERIAL
    )
    latest = time.monotonic() + _RETRY_FOR
    while True:
        try:
            applied, *current = session.execute(statement, values).one()
            return None if applied else tuple(current)
        except OUTCOME_UNKNOWN as error:
            if time.monotonic() > latest:
                raise SchemaError(f"Cassandra does not execute a lightweight transaction: {error}") from error
            time.sleep(_RETRY_INTERVAL)


def create_table(session: Session, name: str, columns: str) -> None:
    """Create a table of the runner, unless it exists.

    Two coordinators that create a table at the same time would give it two ids, and its rows would be lost. So the id
    is fixed: it is derived from the keyspace and the name.
    """
    await_agreement(session)
    if has_table(session, name):
        return
    create = f"CREATE TABLE IF NOT EXISTS {name} ({columns})"
    try:
        execute_ddl(session, f"{create} WITH ID = {table_id(session.keyspace, name)}")
    except (InvalidRequest, ConfigurationException):
        # A server that lets nobody choose the id has one place that creates tables, such as Astra DB.
        execute_ddl(session, create)
    await_agreement(session)


def table_id(keyspace: str, name: str) -> uuid.UUID:
    """The id of a table of the runner. Ids are unique in a cluster, so each keyspace has its own."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{keyspace}.{name}")


def execute_ddl(session: Session, cql: str) -> None:
    """Execute a schema change once. After a lost connection the driver does not send it to another node."""
    session.execute(SimpleStatement(cql, retry_policy=FallthroughRetryPolicy()), timeout=AGREEMENT_TIMEOUT)


def has_table(session: Session, name: str) -> bool:
    """Whether the session's keyspace has a table."""
    select = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s"
    return session.execute(select, (session.keyspace, name)).one() is not None


def await_agreement(session: Session) -> None:
    """Wait until all nodes that are up agree on the schema.

    :raises SchemaError: they do not within 60 seconds.
    """
    if not session.cluster.control_connection.wait_for_schema_agreement(wait_time=AGREEMENT_TIMEOUT):
        raise SchemaError("The nodes do not agree on the schema. Check that all are up (nodetool describecluster).")
