"""The Cassandra nodes and the keyspaces of a benchmark run."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cassandra.cluster import Cluster, Session

from dev.bench import data
from dev.bench.processes import cpu_seconds
from dev.bench.resources import TESTBED, Resources, create_tables
from dev.local_cassandra.node import FAST_COMMIT_LOG, Node, free_port
from dev.local_cassandra.ring import Ring
from settings import Settings
from storage import db_initialize


class Database:
    """Running nodes, and a keyspace of this run with a replica on each node.

    :ivar observers: number of observers with the ids of `data.observer_id`. The workloads store
        more, with random ids.
    :ivar environment: the environment variables with which a service uses this keyspace.
    """

    def __init__(self, nodes: list[Node], session: Session, keyspace: str, resources: Collection[Resources]) -> None:
        self.nodes = nodes
        self.keyspace = keyspace
        self.observers = 0
        self._resources = resources
        self.version: str = session.execute("SELECT release_version FROM system.local").one()[0]
        self.environment = {
            "CASSANDRA_HOSTS": ",".join(node.address for node in nodes),
            "CASSANDRA_PORT": str(nodes[0].native_port),
            "CASSANDRA_KEYSPACE": self.keyspace,
            "CASSANDRA_REPLICATION_FACTOR": str(len(nodes)),
        }
        settings = Settings(_env_file=None, **{name.lower(): value for name, value in self.environment.items()})
        db_initialize.initialize(settings, samples=False, say=lambda line: None)
        for each in resources:
            create_tables(session, keyspace, each)
            data.load_finds(session, f"{keyspace}.{each.finds}")

    def ensure_observers(self, observers: int) -> None:
        """Store more observers until `observers` are stored."""
        hosts = [node.address for node in self.nodes]
        if observers > self.observers:
            for each in self._resources:
                table = f"{self.keyspace}.{each.observers}"
                data.load_observers(hosts, self.nodes[0].native_port, table, self.observers, observers)
            self.observers = observers

    def cpu_seconds(self) -> float:
        """Return the CPU time of all nodes so far, in seconds."""
        return cpu_seconds([node.running() or 0 for node in self.nodes])

    def wait_until_idle(self, share: float = 0.1, timeout: float = 20.0) -> None:
        """Wait until the flushes and compactions after earlier writes are done, or until the timeout.

        :param share: a node is idle when it uses less than this share of a core.
        :param timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.3)
            if self.cpu_seconds() - before < 0.3 * share * len(self.nodes):
                return


class Nodes:
    """Running nodes of this run, on free ports."""

    def __init__(self, nodes: list[Node], session: Session) -> None:
        self._nodes = nodes
        self._session = session

    @contextmanager
    def keyspace(self, suffix: str = "", resources: Collection[Resources] = (TESTBED,)) -> Iterator[Database]:
        """Create a keyspace with the service's tables and no observers; drop it at the end of the block.

        :param resources: the names of all services that will use the keyspace.
        """
        name = f"bench_{os.getpid()}{suffix}"
        try:
            yield Database(self._nodes, self._session, name, resources)
        finally:
            self._session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


@contextmanager
def running_nodes(directory: Path, count: int = 1) -> Iterator[Nodes]:
    """Start one node or a ring of three nodes; stop them at the end of the block.

    :param count: 1 or 3.
    :raises NodeError: a node does not start.
    """
    with ExitStack() as stack:
        if count == 1:
            nodes = [
                Node(
                    directory=directory / "node",
                    native_port=free_port(),
                    storage_port=free_port(),
                    settings=FAST_COMMIT_LOG,
                )
            ]
            stack.callback(nodes[0].stop)
            nodes[0].start()
            nodes[0].wait_until_ready()
        else:
            ring = Ring(directory, FAST_COMMIT_LOG)
            stack.callback(ring.close)
            ring.start()
            nodes = ring.nodes
        cluster = Cluster([node.address for node in nodes], port=nodes[0].native_port, protocol_version=5)
        stack.callback(cluster.shutdown)
        yield Nodes(nodes, cluster.connect())
