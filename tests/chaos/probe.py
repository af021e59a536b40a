"""Polls `/health` of each gunicorn worker.

Every worker has its own driver with its own view of the nodes.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support import Service

INTERVAL = 0.1


@dataclass(frozen=True)
class HealthSample:
    """The responses of all workers at one time.

    :ivar at: `time.monotonic()` after the last response.
    :ivar workers: for each process id the numbers of nodes up and down, or None if the worker did not answer.
    """

    at: float
    workers: dict[int, tuple[int, int] | None]

    def all_nodes_up(self, nodes: int = 3) -> bool:
        return len(self.workers) == 2 and all(counts == (nodes, 0) for counts in self.workers.values())

    def all_report_a_node_down(self) -> bool:
        return len(self.workers) == 2 and all(counts is not None and counts[1] > 0 for counts in self.workers.values())


class Probe:
    """A thread that keeps one connection to each worker and polls it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._stop = threading.Event()
        self.samples: list[HealthSample] = []
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def samples_since(self, moment: float) -> list[HealthSample]:
        """Return the samples that were taken at `moment` or later."""
        return [sample for sample in list(self.samples) if sample.at >= moment]

    def detected_at(self, since: float) -> float | None:
        """Return the first time at which all workers reported a node down, or None."""
        return next((sample.at for sample in self.samples_since(since) if sample.all_report_a_node_down()), None)

    def healthy_since(self, since: float) -> float | None:
        """Return since when all workers have reported all nodes up; None if they do not report it now."""
        healthy_at = None
        for sample in self.samples_since(since):
            if not sample.all_nodes_up():
                healthy_at = None
            elif healthy_at is None:
                healthy_at = sample.at
        return healthy_at

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            workers = self._service.workers()
            for ended in set(self._connections) - set(workers):
                self._connections.pop(ended).close()
            self._connect(workers)
            counts = {pid: self._poll(pid) for pid in workers}
            # Take the time after the last response: before it, not every worker may have detected the change.
            self.samples.append(HealthSample(time.monotonic(), counts))
        for connection in self._connections.values():
            connection.close()

    def _poll(self, pid: int) -> tuple[int, int] | None:
        connection = self._connections.get(pid)
        if connection is None:
            return None
        try:
            return _node_counts(connection)
        except (OSError, ValueError, http.client.HTTPException):
            self._connections.pop(pid).close()
            return None

    def _connect(self, workers: list[int]) -> None:
        """Open connections until each worker has accepted one, at most 20 in a round.

        The kernel decides which worker accepts a connection. The next round tries again for the missing workers.
        """
        surplus = []
        for _ in range(20):
            missing = set(workers) - set(self._connections)
            if not missing:
                break
            connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=5)
            with suppress(OSError, ValueError, http.client.HTTPException):
                # A new connection may still be in the kernel's accept queue. A response proves that a worker has it.
                connection.request("GET", "/health/live")
                connection.getresponse().read()
                # A worker that is shutting down closes the connection after its response.
                owner = _owner(connection.sock, missing) if connection.sock is not None else None
                if owner is not None:
                    self._connections[owner] = connection
                    continue
            surplus.append(connection)
        for connection in surplus:
            connection.close()


def _node_counts(connection: http.client.HTTPConnection) -> tuple[int, int]:
    connection.request("GET", "/health")
    nodes = json.loads(connection.getresponse().read())["nodes"]
    return nodes["up"], nodes["down"]


def _owner(client_side: socket.socket, pids: set[int]) -> int | None:
    """Return the process that owns the server side of a connection, found by the inode of its socket."""
    client_port, server_port = client_side.getsockname()[1], client_side.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        ports = int(columns[1].split(":")[1], 16), int(columns[2].split(":")[1], 16)
        if ports == (server_port, client_port):
            inode = f"socket:[{columns[9]}]"
            for pid in pids:
                with suppress(OSError):
                    if any(os.readlink(link) == inode for link in _descriptors(pid)):
                        return pid
    return None


def _descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())
