"""Consistency levels: the session's defaults, and the level that a client asks for."""

from __future__ import annotations

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Session
from cassandra.query import BoundStatement
from cassandra.query import Statement as DriverStatement

from storage.cql.driver import replication_factors
from storage.cql.statement import Kind
from storage.errors import ConsistencyRefused

# Name of the execution profile of serial operations. It has no speculative execution.
SERIAL_PROFILE = "serial"

# Consistency levels that need a fixed number of replicas.
REPLICAS_NEEDED = {"ONE": 1, "TWO": 2, "THREE": 3}


def default_level(session: Session) -> str:
    """The name of the level that a statement has when the client asks for none."""
    profile = session.get_execution_profile(EXEC_PROFILE_DEFAULT)
    return str(ConsistencyLevel.value_to_name[profile.consistency_level])


def serial_level(session: Session) -> str:
    """The level of lightweight transactions and serial reads: `SERIAL` or `LOCAL_SERIAL`.

    A serial read sees all lightweight transactions that have completed.
    """
    profile = session.get_execution_profile(EXEC_PROFILE_DEFAULT)
    return str(ConsistencyLevel.value_to_name[profile.serial_consistency_level])


def execution_profile(statement: DriverStatement, kind: Kind) -> object:
    """The key of the execution profile of a statement: `SERIAL_PROFILE`, or that of the default profile.

    Lightweight transactions and serial reads are serial operations. A second execution of one would compete with the
    first in Paxos, and slow both down. The load of a slow cluster would then grow.
    """
    is_serial = kind == "lwt" or ConsistencyLevel.is_serial(statement.consistency_level)
    return SERIAL_PROFILE if is_serial else EXEC_PROFILE_DEFAULT


def set_level(session: Session, bound: BoundStatement, level: str, kind: Kind) -> None:
    """Set the consistency level of a bound statement; of a transaction, the commit level.

    An invalid level is rejected here, because the server rejects the commit level of a lightweight transaction only
    after the transaction can no longer be undone.

    :param level: a name such as `QUORUM`.
    :raises ConsistencyRefused: the level can't be reached.
    """
    if level == "ANY" and kind == "read":
        raise ConsistencyRefused("ANY is a consistency level for writes.")
    replicas = sum(replication_factors(session, bound.keyspace or session.keyspace).values())
    if 0 < replicas < REPLICAS_NEEDED.get(level, 0):
        raise ConsistencyRefused(f"{level} needs {REPLICAS_NEEDED[level]} replicas; this keyspace has {replicas}.")
    bound.consistency_level = ConsistencyLevel.name_to_value[level]
