"""All uses of the driver beyond its documented API. Written for cassandra-driver 3.30.1.

| private API | used for |
|---|---|
| `PreparedStatement.result_metadata` | names and types of the columns that a SELECT returns |
| `cassandra.cqltypes.DateType` | the type of a `timestamp` column in that metadata |
| `ResultSet.current_rows`, emptied in place | rows are freed although the driver keeps the future |
| `ReplicationStrategy.dc_replication_factors_info`, `.replication_factor_info` | number of replicas of a keyspace |
| `Metadata.partitioner`, `Murmur3Token.from_key` | the token of a partition key |
| `ConnectionBusy`, `NoConnectionsAvailable`, texts of pool errors | whether a statement was sent to a node |
| an assignment to `Cluster.protocol_version` | the protocol version that the negotiation begins with |

The service refuses to start with another version of the driver. To use one: check each row above, run `make test`, then
add the version to `DRIVER_VERSIONS` in `storage/__init__.py`.
"""

from __future__ import annotations

import re
from typing import Any

from cassandra import ProtocolVersion
from cassandra.cluster import Cluster, ResultSet, Session
from cassandra.connection import ConnectionBusy
from cassandra.cqltypes import DateType
from cassandra.metadata import Murmur3Token
from cassandra.pool import NoConnectionsAvailable
from cassandra.query import PreparedStatement


def timestamp_columns(prepared: PreparedStatement) -> tuple[str, ...]:
    """Names of the `timestamp` columns that a prepared SELECT returns."""
    return tuple(column[2] for column in prepared.result_metadata if issubclass(column[3], DateType))


def take_rows(result: ResultSet) -> list[Any]:
    """Take the rows of the current page out of the result.

    The driver keeps each future, with its rows, for about a second, until it removes the timer of the future's timeout.
    Without this function, a fast stream would keep all pages of that second in memory.
    """
    rows = list(result.current_rows)
    result.current_rows.clear()
    return rows


def replica_count(session: Session, keyspace: str | None) -> int | None:
    """Number of replicas in all data centers, or None if it is not known."""
    strategy = getattr(session.cluster.metadata.keyspaces.get(keyspace), "replication_strategy", None)
    factors = getattr(strategy, "dc_replication_factors_info", None)
    if factors:
        return sum(factor.all_replicas for factor in factors.values())
    factor = getattr(strategy, "replication_factor_info", None)
    return factor.all_replicas if factor else None


def uses_murmur3(session: Session) -> bool:
    """Whether tokens are those of Murmur3Partitioner, Cassandra's default."""
    return str(session.cluster.metadata.partitioner).endswith("Murmur3Partitioner")


def murmur3_token(partition_key: bytes) -> int:
    """The token of a serialized partition key."""
    return int(Murmur3Token.from_key(partition_key).value)


def was_not_sent(error: object) -> bool:
    """Whether the driver raised this error before it sent the statement to the node."""
    # The driver raises plain exceptions for a pool that is missing or closed.
    return isinstance(error, (NoConnectionsAvailable, ConnectionBusy)) or bool(
        re.search("marked down or removed|is shutdown", str(error))
    )


def begin_with_protocol_v4(cluster: Cluster) -> None:
    """Begin the negotiation of the protocol version with version 4.

    Every supported server has version 4. By default the driver begins with a version of DataStax Enterprise. In
    version 5 it computes a checksum of each frame in Python, which costs a tenth of a read by id. A version that is
    passed to the constructor would be fixed, without negotiation.
    """
    cluster.protocol_version = ProtocolVersion.V4
