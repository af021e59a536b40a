"""`python -m dev.bench imports`: the memory of the service and of a job worker during a large import."""

from __future__ import annotations

import json
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx

from dev.bench.database import running_nodes
from dev.bench.load import load_generator
from dev.bench.processes import BenchError, Server, cpu_seconds, memory, wait_for
from dev.bench.system import start_fieldbook
from dev.local_cassandra.node import free_port
from settings import PROJECT

# Bytes of the file.
FULL, SHORT = 1_000_000_000, 10_000_000
# Seconds between two measurements of the memory, and for the whole import.
_INTERVAL = 0.2
_TIMEOUT = 5400.0


class _Peak:
    """Measures the memory of processes until it is stopped.

    :ivar growth: bytes of the peak above the memory at the beginning.
    """

    def __init__(self, server: Callable[[], list[int]]) -> None:
        self._pids = server
        self._first = memory(server(), "VmRSS")
        self.growth = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(_INTERVAL):
            self.growth = max(self.growth, memory(self._pids(), "VmRSS") - self._first)

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self.growth


def _file(size: int) -> Iterator[bytes]:
    """Yield NDJSON of finds, until `size` bytes."""
    number = sent = 0
    while sent < size:
        rows = [
            json.dumps({"genus": f"Genus {(number + i) // 200}", "species": f"s{number + i}", "sightings": i}) + "\n"
            for i in range(1000)
        ]
        part = "".join(rows).encode()
        number, sent = number + 1000, sent + len(part)
        yield part


def run(arguments: Namespace, directory: Path, say: Callable[[str], None]) -> None:
    """Import a small file first, so that everything is loaded, then a large one.

    :raises BenchError: an import fails.
    """
    size = SHORT if arguments.short else FULL
    with ExitStack() as stack:
        say("Starting Cassandra ...")
        database = stack.enter_context(stack.enter_context(running_nodes(directory)).keyspace())
        load = load_generator()
        stack.callback(load.close)
        # In development, messages are files, so no broker is needed.
        variables = {"APP_ENV": "development", "JOB_LEASE": "10", "JOB_CONCURRENCY": "1"}
        service = start_fieldbook(database, load, directory, "fieldbook", variables)
        stack.callback(service.close)
        command = [sys.executable, "-m", "celery", "--app", "tests.testbed.worker", "--quiet", "worker", "--beat"]
        environment = {**database.environment, **variables, "PYTHONPATH": str(PROJECT), "PORT": str(free_port())}
        worker = Server(command, PROJECT, environment, directory / "worker.log")
        stack.callback(worker.stop)
        client = stack.enter_context(httpx.Client(base_url=service.client.base_url, timeout=httpx.Timeout(600)))
        _import(client, SHORT)
        peaks = {"service": _Peak(service.pids), "job worker": _Peak(worker.pids)}
        before = cpu_seconds(service.pids()), cpu_seconds(worker.pids())
        job, uploaded, seconds = _import(client, size)
        rows = job["rows_done"]
        say(f"{rows:,} rows, {job['bytes_total']:,} bytes: uploaded in {uploaded:.0f} s, written after {seconds:.0f} s")
        for (name, peak), pids, cpu in zip(peaks.items(), (service.pids(), worker.pids()), before, strict=True):
            used = (cpu_seconds(pids) - cpu) / rows * 1e6
            say(f"{name}: memory growth {peak.stop() / 2**20:.1f} MiB, CPU {used:.1f} µs per row")


def _import(client: httpx.Client, size: int) -> tuple[dict[str, int], float, float]:
    """Import a file in the background. Return the job, and the seconds until it was sent and until it has ended."""
    began = time.monotonic()
    headers = {"Content-Type": "application/x-ndjson"}
    response = client.post("/find/import?background=1", content=_file(size), headers=headers)
    if response.status_code != 202:
        raise BenchError(f"the import failed: {response.status_code} {response.text}")
    uploaded = time.monotonic() - began
    path = response.headers["Location"]

    def ended() -> dict[str, int] | None:
        job = client.get(path).json()
        if job["state"] in ("failed", "cancelled"):
            raise BenchError(f"the import failed: {job}")
        return job if job["state"] == "succeeded" else None

    job = wait_for(ended, _TIMEOUT, "the end of the import")
    return job, uploaded, time.monotonic() - began
