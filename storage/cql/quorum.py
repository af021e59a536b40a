"""Whether the default consistency level can be met, from the driver's view of the nodes. No query is sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cassandra.cluster import EXEC_PROFILE_DEFAULT, Session
from cassandra.policies import HostDistance
from cassandra.pool import Host

from storage.cql.consistency import REPLICAS_NEEDED, default_level
from storage.cql.driver import replica_sets, replication_factors


def has_quorum(session: Session) -> bool:
    """Whether enough replicas of every token range of the session's keyspace are up for the default level.

    A node that the driver has not seen down counts as up. The driver opens no connections to other data centers, so it
    does not know the state of their nodes until Cassandra reports a change. If the driver does not know the replicas,
    the result is whether no node is down. If the keyspace was dropped, it is false.
    """
    metadata = session.cluster.metadata
    if session.keyspace not in metadata.keyspaces:
        return False
    return can_be_met(
        default_level(session),
        local_datacenter(session),
        tuple(replication_factors(session, session.keyspace).items()),
        replica_sets(session, session.keyspace),
        nodes_down(session),
    )


def local_datacenter(session: Session) -> str | None:
    """The data center whose nodes get the requests; None if none of its nodes is known."""
    policy = session.get_execution_profile(EXEC_PROFILE_DEFAULT).load_balancing_policy
    hosts = session.cluster.metadata.all_hosts()
    return next((host.datacenter for host in hosts if policy.distance(host) == HostDistance.LOCAL), None)


def nodes_down(session: Session) -> frozenset[Host]:
    """The nodes that the driver has seen down."""
    return frozenset(host for host in session.cluster.metadata.all_hosts() if host.is_up is False)


# Cached, because a large cluster has 20,000 sets of replicas, and the arguments change only when a node or the
# replication does. The cache finds `sets` quickly: replica_sets() returns the same object, and Python keeps its hash.
@lru_cache(maxsize=4)
def can_be_met(
    level: str,
    local: str | None,
    factors: tuple[tuple[str | None, int], ...],
    sets: frozenset[frozenset[Any]],
    down: frozenset[Any],
) -> bool:
    """Whether every set of replicas meets a consistency level.

    :param level: a name such as `LOCAL_QUORUM`.
    :param local: the data center of the coordinators.
    :param factors: data centers, each with its number of replicas; the name None stands for all of them together.
    :param sets: sets of nodes, which have a `datacenter`; empty if they are not known.
    :param down: the nodes that are down.
    """
    if not sets:
        return not down
    replicas = dict(factors)
    return all(_is_met(level, local, replicas, Counter(node.datacenter for node in nodes - down)) for nodes in sets)


def tolerates_a_failure(
    level: str, local: str | None, factors: tuple[tuple[str | None, int], ...], sets: frozenset[frozenset[Any]]
) -> bool:
    """Whether the level can still be met for every row after any one node has failed.

    The arguments are those of :func:`can_be_met`.
    """
    replicas = dict(factors)
    # A large cluster has many sets, but few different numbers of replicas by data center.
    layouts = {frozenset(Counter(node.datacenter for node in nodes).items()) for nodes in sets}
    return all(
        _is_met(level, local, replicas, Counter(dict(layout)) - Counter([center]))
        for layout in layouts
        for center, _ in layout
    )


def _is_met(level: str, local: str | None, replicas: Mapping[str | None, int], up: Counter[str | None]) -> bool:
    match level:
        case "LOCAL_ONE":
            return up[local] >= 1
        case "LOCAL_QUORUM":
            # SimpleStrategy places replicas in any data center, so a local quorum is a majority of all replicas.
            return up[local] >= _majority(replicas.get(local, replicas.get(None, 0)))
        case "EACH_QUORUM" if None not in replicas:
            return all(up[center] >= _majority(count) for center, count in replicas.items())
        case "EACH_QUORUM" | "QUORUM":
            return up.total() >= _majority(sum(replicas.values()))
        case "ALL":
            return up.total() >= sum(replicas.values())
        case _:
            return up.total() >= REPLICAS_NEEDED[level]


def _majority(count: int) -> int:
    return count // 2 + 1
