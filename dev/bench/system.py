"""The systems under test, each in processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import httpx

from dev.bench.baselines import driver_loop
from dev.bench.baselines.driver_loop import DriverJob
from dev.bench.database import Database
from dev.bench.load import ChildProcess, Job, Outcome
from dev.bench.processes import Server, wait_for
from dev.bench.resources import TESTBED, Resources, resources_of
from dev.bench.workloads import BATCH, Requests, Workload
from dev.local_cassandra.node import free_port
from settings import PROJECT

# Seconds within which a system must respond to its first request.
START_TIMEOUT = 60.0
SYSTEMS = ("fieldbook", "driver", "fastapi", "flask")


class System(Protocol):
    """A system that runs workloads.

    :ivar name: the name in the tables.
    """

    name: str

    def pids(self) -> list[int]: ...

    def run(self, workload: Workload, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        """Run the workload with `count` requests.

        :param rate: requests per second in an open loop; None for a closed loop.
        :raises BenchError: a response is wrong.
        """

    def close(self) -> None: ...


class HttpSystem:
    """A service to which the load generator sends requests.

    :param imports: whether imports use `POST /observers/import`; otherwise they run as batches.
    :param resources: the names of the service's resources.
    """

    def __init__(
        self, name: str, server: Server, port: int, load: ChildProcess, imports: bool, resources: Resources = TESTBED
    ) -> None:
        self.name = name
        self.port = port
        self._server = server
        self._load = load
        self._imports = imports
        self._resources = resources
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def wait_until_ready(self) -> None:
        """Wait for the first response of the service. :raises BenchError: the timeout expired."""
        wait_for(self._is_ready, START_TIMEOUT, f"the first response of {self.name}")

    def _is_ready(self) -> bool:
        self._server.check()
        try:
            # This route needs Cassandra: when it succeeds, the service is connected.
            return self.client.get(f"/{self._resources.observers}?limit=1").status_code == 200
        except httpx.TransportError:
            return False

    def pids(self) -> list[int]:
        return self._server.pids()

    def run(self, workload: Workload, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        self._server.check()
        name = workload.name
        if name == "import" and not self._imports:
            name, count = "batch", workload.units // BATCH
            workload = replace(workload, statuses=(201,))
        rows = workload.rows if name == "stream" else None
        job = Job(self.port, requests.of(name, self._resources), workload.statuses, count, connections, rate, rows)
        outcome: Outcome = self._load.call(job)
        return outcome

    def with_batched_imports(self) -> HttpSystem:
        """Return the same service, whose imports run as batches."""
        batched = copy(self)
        batched.name, batched._imports = f"{self.name} by batches", False
        return batched

    def close(self) -> None:
        self.client.close()
        self._server.stop()


class DriverSystem:
    """The bare driver. One process is both load generator and system under test."""

    name = "driver"

    def __init__(self, database: Database) -> None:
        self._database = database
        self._child = ChildProcess(driver_loop.serve, database.environment)
        self._child.receive(START_TIMEOUT)

    def pids(self) -> list[int]:
        return [self._child.pid]

    def run(self, workload: Workload, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        name = {"import": "import_rows"}.get(workload.name, workload.name)
        rows = {"batch": BATCH}.get(workload.name, workload.rows or 0)
        outcome: Outcome = self._child.call(DriverJob(name, count, connections, self._database.observers, rate, rows))
        return outcome

    def close(self) -> None:
        self._child.close()


def start(
    name: str,
    database: Database,
    load: ChildProcess,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    label: str = "",
) -> HttpSystem | DriverSystem:
    """Start a system.

    :param name: one of `SYSTEMS`.
    :param variables: more environment variables for Fieldbook, such as the number of workers.
    :param label: the name in the tables; the default is `name`.
    :raises BenchError: the system does not start.
    """
    if name == "driver":
        return DriverSystem(database)
    if name == "fieldbook":
        return start_fieldbook(database, load, directory, label or name, variables or {})
    port = free_port()
    if name == "fastapi":
        command = ["uvicorn", "dev.bench.baselines.fastapi_app:app", "--loop", "uvloop", "--http", "httptools"]
        command += ["--port", str(port)]
    else:
        command = ["gunicorn", "dev.bench.baselines.flask_app:app", "--worker-class", "gthread", "--threads", "64"]
        command += ["--keep-alive", "75", "--no-control-socket", "--bind", f"127.0.0.1:{port}"]
    environment = {**database.environment, "PYTHONPATH": str(PROJECT)}
    # Do not run in the project directory: gunicorn would load Fieldbook's gunicorn.conf.py from there.
    server = Server([sys.executable, "-m", *command], directory, environment, directory / f"{name}.log")
    return _ready(HttpSystem(label or name, server, port, load, imports=True), server)


def start_fieldbook(
    database: Database,
    load: ChildProcess,
    directory: Path,
    label: str,
    variables: Mapping[str, str],
    project: Path = PROJECT,
    python: str = sys.executable,
) -> HttpSystem:
    """Start Fieldbook in production mode, with one worker unless `variables` has WEB_CONCURRENCY.

    :param label: the name in the tables.
    :param project: the checkout from which the service runs.
    :param python: path of a Python with the packages that the checkout requires.
    :raises BenchError: the service does not start.
    """
    resources = resources_of(project)
    port = free_port()
    environment = {
        **database.environment,
        # Replace the caller's PYTHONPATH: another checkout on it could supply a module that this checkout lacks.
        "PYTHONPATH": str(project),
        "APP_ENV": "production",
        "SECRET_KEY": "the secret of the benchmark",
        # The baselines have neither sign-in nor rate limits.
        "AUTH": "off",
        "RATE_LIMIT": "off",
        "WEB_CONCURRENCY": "1",
        "DRAIN_SECONDS": "0",
        "PORT": str(port),
        **variables,
    }
    log = directory / f"{label.replace(' ', '-')}.log"
    server = Server([python, "-m", "gunicorn", resources.app], project, environment, log)
    return _ready(HttpSystem(label, server, port, load, imports=True, resources=resources), server)


def _ready(system: HttpSystem, server: Server) -> HttpSystem:
    try:
        system.wait_until_ready()
    except BaseException:
        server.stop()
        raise
    return system
