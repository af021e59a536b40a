"""Asks `/health` of each gunicorn worker by itself: each has a driver of its own, with an opinion of its own."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support import Service

INTERVAL = 0.1


@dataclass(frozen=True)
class Sight:
    """What all workers said at about one time; None is one that did not say."""

    at: float
    workers: dict[int, tuple[int, int] | None]

    def all_up(self, nodes: int = 3) -> bool:
        return len(self.workers) == 2 and all(seen == (nodes, 0) for seen in self.workers.values())

    def all_see_one_down(self) -> bool:
        return len(self.workers) == 2 and all(seen is not None and seen[1] > 0 for seen in self.workers.values())


class Probe:
    """A thread that holds a connection to each worker and polls it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._stop = threading.Event()
        self.sights: list[Sight] = []
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    def since(self, moment: float) -> list[Sight]:
        """What was seen from then on."""
        return [sight for sight in list(self.sights) if sight.at >= moment]

    def marked_down(self, since: float) -> float | None:
        """When all workers had noticed that a node is down."""
        return next((sight.at for sight in self.since(since) if sight.all_see_one_down()), None)

    def well(self, since: float) -> float | None:
        """The moment from which on all workers have seen all nodes up; None when they don't now."""
        found = None
        for sight in self.since(since):
            if not sight.all_up():
                found = None
            elif found is None:
                found = sight.at
        return found

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            workers = self._service.workers()
            for gone in set(self._connections) - set(workers):
                self._connections.pop(gone).close()
            self._reach(workers)
            seen = {pid: self._ask(pid) for pid in workers}
            # The time after the last answer: before it, somebody may not have known yet.
            self.sights.append(Sight(time.monotonic(), seen))
        for connection in self._connections.values():
            connection.close()

    def _ask(self, pid: int) -> tuple[int, int] | None:
        connection = self._connections.get(pid)
        if connection is None:
            return None
        try:
            return _nodes(connection)
        except (OSError, ValueError, http.client.HTTPException):
            self._connections.pop(pid).close()
            return None

    def _reach(self, workers: list[int]) -> None:
        """Opens connections until each worker has accepted one, which the kernel decides; goes on next time if not."""
        surplus = []
        for _ in range(20):
            missing = set(workers) - set(self._connections)
            if not missing:
                break
            connection = http.client.HTTPConnection("127.0.0.1", self._service.port, timeout=5)
            with suppress(OSError, ValueError, http.client.HTTPException):
                # The kernel's queue has it until somebody accepts it, which an answer proves.
                connection.request("GET", "/health/live")
                connection.getresponse().read()
                owner = _owner(connection, missing)
                if owner is not None:
                    self._connections[owner] = connection
                    continue
            surplus.append(connection)
        for connection in surplus:
            connection.close()


def _nodes(connection: http.client.HTTPConnection) -> tuple[int, int]:
    connection.request("GET", "/health")
    nodes = json.loads(connection.getresponse().read())["nodes"]
    return nodes["up"], nodes["down"]


def _owner(connection: http.client.HTTPConnection, pids: set[int]) -> int | None:
    """Which process holds the other end of a connection, by the inode of its socket."""
    here, there = connection.sock.getsockname()[1], connection.sock.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if (int(columns[1].split(":")[1], 16), int(columns[2].split(":")[1], 16)) == (there, here):
            socket = f"socket:[{columns[9]}]"
            for pid in pids:
                with suppress(OSError):
                    if any(os.readlink(link) == socket for link in _descriptors(pid)):
                        return pid
    return None


def _descriptors(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/fd").iterdir())
