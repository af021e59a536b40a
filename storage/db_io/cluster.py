"""The cluster: nodes, version and name."""

from __future__ import annotations

from typing import NamedTuple

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, execute

SELECT_RELEASE_VERSION = Statement("select_release_version", "SELECT release_version FROM system.local")


class ClusterStatus(NamedTuple):
    """Number of nodes that the driver sees up and down."""

    up: int
    down: int


def retrieve_release_version(session: Session, options: QueryOptions) -> str:
    """Read the Cassandra version of the node that answers.

    :raises StorageError: no node answered in time.
    """
    return execute(session, SELECT_RELEASE_VERSION, (), options).rows[0][0]


def count_nodes(session: Session) -> ClusterStatus:
    """Number of nodes that the driver sees up and down, without a query."""
    hosts = session.cluster.metadata.all_hosts()
    up = sum(1 for host in hosts if host.is_up)
    return ClusterStatus(up, len(hosts) - up)


def paging_scope(session: Session) -> str:
    """Cluster, keyspace and protocol version, as text: a paging state is valid only for these.

    With others, Cassandra refuses the paging state or reads it as a different one.
    """
    cluster = session.cluster
    return f"{cluster.metadata.cluster_name} {session.keyspace} v{cluster.protocol_version}"
