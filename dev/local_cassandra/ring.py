"""A ring of three Cassandra nodes on one machine, for the fault suite and the benchmark."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.policies import ConstantReconnectionPolicy, RoundRobinPolicy, WhiteListRoundRobinPolicy

from dev.local_cassandra.jars import NodeError
from dev.local_cassandra.node import Node, free_port, port_is_free

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class Ring:
    """Three Cassandra nodes, started one after the other and killed at the end."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, Any] = MappingProxyType({}),
        java_options: tuple[str, ...] = (),
    ) -> None:
        """Create the nodes without starting them.

        :param directory: holds a directory for each node.
        :param settings: additional entries of cassandra.yaml.
        :param java_options: additional options of the Java virtual machine.
        """
        self.port, storage_port = _common_port(), _common_port()
        self.nodes = [
            Node(
                directory=directory / f"node{number}",
                address=address,
                native_port=self.port,
                storage_port=storage_port,
                seed=ADDRESSES[0],
                settings={"cluster_name": "fieldbook faults", **settings},
                java_options=java_options,
            )
            for number, address in enumerate(ADDRESSES, 1)
        ]

    def start(self) -> None:
        """Start the nodes.

        :raises NodeError: if a node does not start.
        """
        for node in self.nodes:
            node.start()
            node.wait_until_ready()
        wait_until_nodes_see_each_other(self.nodes)

    def kill(self, node: Node) -> None:
        """Kill a node with SIGKILL.

        It loses no acknowledged write, unless its settings include `FAST_COMMIT_LOG`.
        """
        pid = node.running()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        node.stop()

    def send_signal(self, number: signal.Signals, *nodes: Node) -> None:
        """Send a signal to each of the nodes that is running."""
        for pid in filter(None, [node.running() for node in nodes]):
            os.kill(pid, number)

    def close(self) -> None:
        for node in self.nodes:
            self.kill(node)

    @contextmanager
    def session(self, *nodes: Node, level: str = "ALL") -> Iterator[Session]:
        """Open a session that bypasses the service.

        :param nodes: use only these nodes as coordinators; all nodes if none is given.
        :param level: consistency level of the session.
        """
        addresses = [node.address for node in nodes or self.nodes]
        policy = WhiteListRoundRobinPolicy(addresses) if nodes else RoundRobinPolicy()
        profile = ExecutionProfile(
            load_balancing_policy=policy, consistency_level=ConsistencyLevel.name_to_value[level], request_timeout=20
        )
        cluster = Cluster(
            addresses,
            port=self.port,
            protocol_version=5,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=ConstantReconnectionPolicy(0.5, max_attempts=None),
        )
        try:
            yield cluster.connect()
        finally:
            cluster.shutdown()


def wait_until_nodes_see_each_other(nodes: list[Node], timeout: float = 60.0) -> None:
    """Return when each node sees all other nodes.

    A keyspace that is created earlier gets too few replicas.

    :param timeout: seconds.
    :raises NodeError: when a node does not see the others within the timeout.
    """
    deadline = time.monotonic() + timeout
    for node in nodes:
        cluster = Cluster([node.address], port=node.native_port, protocol_version=5)
        try:
            session = cluster.connect()
            while session.execute("SELECT COUNT(*) FROM system.peers").one()[0] < len(nodes) - 1:
                if time.monotonic() > deadline:
                    raise NodeError(f"{node.address} does not see the other nodes. Its log: {node.log}")
                time.sleep(0.2)
        finally:
            cluster.shutdown()


def _common_port(timeout: float = 10.0) -> int:
    """Return a port that is free on all three addresses.

    :param timeout: seconds.
    :raises NodeError: no such port was found within the timeout.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        port = free_port()
        if all(port_is_free(address, port) for address in ADDRESSES):
            return port
        time.sleep(0.02)
    raise NodeError(f"found no port that is free on {', '.join(ADDRESSES)}")
