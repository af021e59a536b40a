"""The cluster itself."""

from __future__ import annotations

from typing import NamedTuple

from cassandra.cluster import Session

from storage.cql.execution import QueryOptions
from storage.cql.statements import Statement, run

SELECT_RELEASE = Statement("select_release", "SELECT release_version FROM system.local")


class ClusterStatus(NamedTuple):
    """Nodes that the driver sees up and down."""

    up: int
    down: int


def retrieve_cluster_status(session: Session, options: QueryOptions) -> ClusterStatus:
    """Asks a node, to know that it answers, and counts the nodes. Writes nothing.

    :raises StorageError: when no node answers in time.
    """
    retrieve_release_version(session, options)
    return count_nodes(session)


def retrieve_release_version(session: Session, options: QueryOptions) -> str:
    """Cassandra's version, as the node that answers says it."""
    return run(session, SELECT_RELEASE, (), options).rows[0][0]


def paging_scope(session: Session) -> str:
    """Names what a paging state depends on besides its query: elsewhere it is refused, or means something else."""
    cluster = session.cluster
    return f"{cluster.metadata.cluster_name} {session.keyspace} v{cluster.protocol_version}"


def count_nodes(session: Session) -> ClusterStatus:
    """Nodes as the driver knows them, without asking anybody."""
    hosts = session.cluster.metadata.all_hosts()
    up = sum(1 for host in hosts if host.is_up)
    return ClusterStatus(up, len(hosts) - up)
