"""The cluster: nodes, version and name."""

from __future__ import annotations

from typing import NamedTuple

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute
from storage.cql.quorum import has_quorum

SELECT_RELEASE_VERSION = Statement("select_release_version", "SELECT release_version FROM system.local")


class ClusterStatus(NamedTuple):
    """The nodes that the driver sees.

    :ivar up: number of nodes that are up.
    :ivar down: number of nodes that are down.
    :ivar quorum: whether the default consistency level can be met for every row.
    """

    up: int
    down: int
    quorum: bool


def retrieve_release_version(session: Session, options: QueryOptions) -> str:
    """Read the Cassandra version of the node that answers.

    :raises StorageError: no node answered in time.
    """
    return execute(session, SELECT_RELEASE_VERSION, (), options).rows[0][0]


def status(session: Session) -> ClusterStatus:
    """The nodes that the driver sees, without a query.

    `is_up` is None for a node of another data center whose state the driver does not know: it counts as neither.
    """
    states = [host.is_up for host in session.cluster.metadata.all_hosts()]
    return ClusterStatus(states.count(True), states.count(False), has_quorum(session))


def paging_scope(session: Session) -> str:
    """Cluster, keyspace and protocol version, as text: a paging state is valid only for these.

    With others, Cassandra refuses the paging state or reads it as a different one.
    """
    cluster = session.cluster
    return f"{cluster.metadata.cluster_name} {session.keyspace} v{cluster.protocol_version}"
