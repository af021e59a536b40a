"""The system under test: the service on three nodes, and the bounds that follow from its settings."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dev.local_cassandra.node import STATE, Node
from dev.local_cassandra.ring import ADDRESSES, Ring
from settings import Settings
from storage import db_initialize
from tests.support import Service, service, wait_for
from tests.testbed.database import create_tables

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
    speculative_delay: float = 1.0

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
            "CASSANDRA_SPECULATIVE_DELAY": str(self.speculative_delay),
        }


def service_environment(ring: Ring, keyspace: str, replicas: int, timing: Timing) -> dict[str, str]:
    """Return the environment variables of the service."""
    return {
        "CASSANDRA_HOSTS": ",".join(ADDRESSES),
        "CASSANDRA_PORT": str(ring.port),
        "CASSANDRA_KEYSPACE": keyspace,
        "CASSANDRA_REPLICATION_FACTOR": str(replicas),
        "SECRET_KEY": "the secret of the fault suite",
        "WEB_CONCURRENCY": "2",
        **timing.environment(),
    }


@contextmanager
def running_service(ring: Ring, keyspace: str, replicas: int, timing: Timing, directory: Path) -> Iterator[Service]:
    """Run the service under gunicorn with two workers, on a new keyspace without sample rows."""
    environment = service_environment(ring, keyspace, replicas, timing)
    settings = Settings(_env_file=None, **{name.lower(): value for name, value in environment.items()})
    db_initialize.initialize(settings, samples=False, say=lambda line: None)
    with ring.session() as session:
        create_tables(session, keyspace)
    with service_on_keyspace(environment, keyspace, directory) as running:
        yield running


@contextmanager
def service_on_keyspace(environment: dict[str, str], name: str, directory: Path) -> Iterator[Service]:
    """Run the service under gunicorn with two workers, on an existing keyspace.

    :param name: distinguishes the log and the pid file from those of other services.
    """
    pid_file = directory / f"gunicorn-{name}.pid"
    with (
        ExitStack() as stack,
        service(environment, directory / f"service-{name}.log", "--pid", str(pid_file)) as running,
    ):
        stack.callback(pid_file.unlink, missing_ok=True)
        wait_for(lambda: len(running.workers()) == 2, description="two workers")
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
