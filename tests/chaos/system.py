"""The system under test: a ring of three nodes, the service, and the bounds that follow from its settings."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.policies import ConstantReconnectionPolicy, RoundRobinPolicy, WhiteListRoundRobinPolicy

from dev.local_cassandra.__main__ import wait_until_nodes_see_each_other
from dev.local_cassandra.node import STATE, Node, free_port, port_is_free
from settings import Settings
from storage import db_initialize
from tests.support import Service, service, wait_for

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
# The driver multiplies each reconnection delay by a random factor between 0.85 and 1.15.
MAX_JITTER = 1.15


@dataclass(frozen=True)
class Timing:
    """Settings of the service, and the bounds that follow from them, in seconds."""

    heartbeat_interval: float
    heartbeat_timeout: float
    reconnect_min: float
    reconnect_max: float
    connect_timeout: float

    @property
    def detection(self) -> float:
        """The longest time until the service marks a silent node down.

        The driver sends no heartbeat on a connection that received data since the last round. The next round begins
        after the interval, or later, when the current round has received or given up its last response.
        """
        longest = max(self.heartbeat_interval, self.heartbeat_timeout)
        return self.heartbeat_interval + longest + self.heartbeat_timeout

    @property
    def recovery(self) -> float:
        """The longest recovery time after a fault.

        It adds up the detection of the last dead connection, the longest reconnection delay, and the timeout of the
        connection attempt.
        """
        return self.detection + MAX_JITTER * self.reconnect_max + self.connect_timeout

    def environment(self) -> dict[str, str]:
        return {
            "CASSANDRA_HEARTBEAT_INTERVAL": str(self.heartbeat_interval),
            "CASSANDRA_HEARTBEAT_TIMEOUT": str(self.heartbeat_timeout),
            "CASSANDRA_RECONNECT_MIN": str(self.reconnect_min),
            "CASSANDRA_RECONNECT_MAX": str(self.reconnect_max),
            "CASSANDRA_CONNECT_TIMEOUT": str(self.connect_timeout),
        }


class Ring:
    """Three Cassandra nodes, started one after the other and killed at the end."""

    def __init__(self, directory: Path) -> None:
        self.port, storage_port = _common_port(), _common_port()
        self.nodes = [
            Node(
                directory=directory / f"node{number}",
                address=address,
                native_port=self.port,
                storage_port=storage_port,
                seed=ADDRESSES[0],
                settings={"cluster_name": "fieldbook faults"},
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
        """Kill a node with SIGKILL. It loses the data that it has not passed to the operating system."""
        pid = node.running()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        node.stop()

    def send(self, number: signal.Signals, *nodes: Node) -> None:
        """Send a signal to those of the nodes that are running."""
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

    def environment(self, keyspace: str, replicas: int, timing: Timing) -> dict[str, str]:
        """Return the environment variables of the service."""
        return {
            "CASSANDRA_HOSTS": ",".join(ADDRESSES),
            "CASSANDRA_PORT": str(self.port),
            "CASSANDRA_KEYSPACE": keyspace,
            "CASSANDRA_REPLICATION_FACTOR": str(replicas),
            "SECRET_KEY": "the secret of the fault suite",
            "WEB_CONCURRENCY": "2",
            **timing.environment(),
        }


@contextmanager
def running_service(ring: Ring, keyspace: str, replicas: int, timing: Timing, directory: Path) -> Iterator[Service]:
    """Run the service under gunicorn with two workers, on a new keyspace without sample rows."""
    environment = ring.environment(keyspace, replicas, timing)
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    db_initialize.initialize(settings, samples=False, say=lambda line: None)
    pid_file = directory / f"gunicorn-{keyspace}.pid"
    with (
        ExitStack() as stack,
        service(environment, directory / f"service-{keyspace}.log", "--pid", str(pid_file)) as running,
    ):
        stack.callback(pid_file.unlink, missing_ok=True)
        wait_for(lambda: len(running.workers()) == 2, what="two workers")
        yield running


def clean_up_killed_runs() -> None:
    """End the processes and remove the files of earlier runs of this suite that were killed."""
    for directory in STATE.glob("chaos-*"):
        owner = int(directory.name.partition("-")[2])
        if Path(f"/proc/{owner}").exists():
            continue
        for file in directory.glob("gunicorn-*.pid"):
            with suppress(ValueError, OSError):
                pid = int(file.read_text())
                if f"--pid\0{file}\0" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGTERM)
        for node in [Node(directory=file.parent) for file in directory.glob("node*/pid")]:
            pid = node.running()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            node.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _common_port() -> int:
    """Return a port that is free on all three addresses."""
    return int(
        wait_for(lambda: next((p for p in [free_port()] if all(port_is_free(a, p) for a in ADDRESSES)), None), 10)
    )
