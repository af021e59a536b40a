"""Whether a consistency level can be met, for replica sets that the driver computes from its token map."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from cassandra import ConsistencyLevel
from cassandra.connection import DefaultEndPoint
from cassandra.metadata import KeyspaceMetadata, Metadata
from cassandra.policies import HostDistance, SimpleConvictionPolicy
from cassandra.pool import Host

from storage.cql import driver
from storage.cql.quorum import can_be_met, has_quorum

THREE = {"dc1": "3"}
TWO_CENTERS = {"dc1": "3", "dc2": "3"}


def metadata(centers: dict[str, int], replication: dict[str, str], strategy: str = "NetworkTopologyStrategy") -> Any:
    """The driver's metadata of a cluster with 16 tokens a node and three racks in each data center.

    :param centers: data centers, each with its number of nodes.
    """
    cluster = Metadata()
    tokens = {}
    for center, count in centers.items():
        for number in range(count):
            endpoint = DefaultEndPoint(f"{center}-{number}")
            host = Host(endpoint, SimpleConvictionPolicy, datacenter=center, rack=f"rack{number % 3}")
            host.set_up()
            cluster.add_or_return_host(host)
            first = len(tokens)
            tokens[host] = [str((first + each * 101) * 2**50) for each in range(16)]
    cluster.keyspaces["k"] = KeyspaceMetadata("k", True, strategy, replication)
    cluster.rebuild_token_map("Murmur3Partitioner", tokens)
    return cluster


def session(cluster: Any, level: str = "LOCAL_QUORUM") -> Any:
    """A session whose local data center is `dc1`."""
    policy = SimpleNamespace(
        distance=lambda host: HostDistance.LOCAL if host.datacenter == "dc1" else HostDistance.IGNORED
    )
    profile = SimpleNamespace(consistency_level=ConsistencyLevel.name_to_value[level], load_balancing_policy=policy)
    return SimpleNamespace(
        cluster=SimpleNamespace(metadata=cluster), keyspace="k", get_execution_profile=lambda name: profile
    )


def set_down(cluster: Any, *names: str) -> None:
    for host in cluster.all_hosts():
        if host.endpoint.address in names:
            host.set_down()


@pytest.mark.parametrize(
    ("level", "needed"),
    [
        ("ONE", 1),
        ("TWO", 2),
        ("THREE", 3),
        ("QUORUM", 2),
        ("ALL", 3),
        ("LOCAL_ONE", 1),
        ("LOCAL_QUORUM", 2),
        ("EACH_QUORUM", 2),
    ],
)
@pytest.mark.parametrize("strategy", ["NetworkTopologyStrategy", "SimpleStrategy"])
def test_each_level_needs_its_number_of_replicas(level: str, needed: int, strategy: str) -> None:
    """With three nodes and three replicas, a level is met as long as the replicas that it needs are up."""
    replication = THREE if strategy == "NetworkTopologyStrategy" else {"replication_factor": "3"}
    cluster = metadata({"dc1": 3}, replication, strategy)
    for down in range(4):
        set_down(cluster, *(f"dc1-{number}" for number in range(down)))
        assert has_quorum(session(cluster, level)) is (3 - down >= needed), f"{down} nodes down"


def test_one_token_range_below_the_level_means_no_quorum() -> None:
    """In a cluster of six nodes, two nodes of different racks share a range, and two of the same rack share none."""
    cluster = metadata({"dc1": 6}, THREE)
    set_down(cluster, "dc1-0", "dc1-3")
    assert has_quorum(session(cluster)) is True
    set_down(cluster, "dc1-1")
    assert has_quorum(session(cluster)) is False


@pytest.mark.parametrize(
    ("level", "local_down", "remote_down"),
    [
        ("LOCAL_ONE", False, True),
        ("LOCAL_QUORUM", False, True),
        ("EACH_QUORUM", False, False),
        ("QUORUM", False, False),
        ("ALL", False, False),
        ("ONE", True, True),
        ("THREE", True, True),
    ],
)
def test_levels_count_the_replicas_of_their_data_centers(level: str, local_down: bool, remote_down: bool) -> None:
    """With three replicas in each of two data centers, one whole data center is down."""
    for center, expected in (("dc1", local_down), ("dc2", remote_down)):
        cluster = metadata({"dc1": 3, "dc2": 3}, TWO_CENTERS)
        assert has_quorum(session(cluster, level)) is True
        set_down(cluster, *(f"{center}-{number}" for number in range(3)))
        assert has_quorum(session(cluster, level)) is expected, center


def test_nodes_of_unknown_state_count_as_up() -> None:
    """The driver opens no connections to other data centers: until an event arrives, `is_up` of their nodes is None."""
    cluster = metadata({"dc1": 3, "dc2": 3}, TWO_CENTERS)
    for host in cluster.all_hosts():
        if host.datacenter == "dc2":
            host.is_up = None
    assert has_quorum(session(cluster, "EACH_QUORUM")) is True


def test_missing_nodes_count_as_replicas_that_are_down() -> None:
    """The number of replicas comes from the keyspace, as in Cassandra, and not from the nodes that exist."""
    assert has_quorum(session(metadata({"dc1": 2}, {"dc1": "4"}))) is False
    assert has_quorum(session(metadata({"dc1": 3}, {"dc1": "4"}))) is True
    assert has_quorum(session(metadata({"dc1": 3}, {"dc2": "3"}))) is False


def test_without_a_replica_map_the_level_is_met_while_no_node_is_down() -> None:
    """The driver has no token map, or does not know the replication strategy."""
    without_map = metadata({"dc1": 3}, THREE)
    without_map.token_map = None
    for cluster in (without_map, metadata({"dc1": 3}, {}, "EverywhereStrategy")):
        assert has_quorum(session(cluster)) is True
        set_down(cluster, "dc1-0")
        assert has_quorum(session(cluster)) is False


def test_dropped_keyspace_has_no_quorum() -> None:
    cluster = metadata({"dc1": 3}, THREE)
    assert has_quorum(session(cluster)) is True
    cluster._drop_keyspace("k")
    assert has_quorum(session(cluster)) is False


def test_result_follows_changes_of_replication_and_topology() -> None:
    cluster = metadata({"dc1": 3}, THREE)
    set_down(cluster, "dc1-0", "dc1-1")
    assert has_quorum(session(cluster)) is False
    one = KeyspaceMetadata("k", True, "NetworkTopologyStrategy", {"dc1": "1"})
    cluster._update_keyspace(one)
    assert has_quorum(session(cluster, "LOCAL_ONE")) is False
    up = next(host for host in cluster.all_hosts() if host.is_up)
    cluster.rebuild_token_map("Murmur3Partitioner", {up: ["0"]})
    assert has_quorum(session(cluster, "LOCAL_ONE")) is True


def test_replica_sets_are_computed_once() -> None:
    """A cluster of 100 nodes with 256 tokens has 25,600 ranges: they are read only after a change."""
    cluster = metadata({"dc1": 9}, THREE)
    sets = driver.replica_sets(session(cluster), "k")
    assert sets
    assert driver.replica_sets(session(cluster), "k") is sets
    can_be_met.cache_clear()
    for _ in range(10):
        assert has_quorum(session(cluster)) is True
    assert can_be_met.cache_info().misses == 1
