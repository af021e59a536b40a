"""What is measured: the contenders, each in processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Protocol

import httpx

from dev.bench.baselines import driver_loop
from dev.bench.baselines.driver_loop import DriverJob
from dev.bench.database import Database
from dev.bench.load import Child, Job, Outcome
from dev.bench.processes import Server, wait_for
from dev.bench.works import BATCH, Requests, Work
from dev.local_cassandra.node import free_port
from settings import PROJECT

# What a server may take to answer its first request, in seconds.
START = 60.0
CONTENDERS = ("fieldbook", "driver", "fastapi", "flask")


class Contender(Protocol):
    """Something that does the work.

    :ivar name: as in the tables.
    """

    name: str

    def pids(self) -> list[int]: ...

    def do(self, work: Work, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        """Does the work `count` times.

        :param rate: requests a second of an open loop; None for a closed loop.
        :raises BenchError: an answer is not what it should be.
        """

    def close(self) -> None: ...


class HttpContender:
    """A service, and the load generator before it."""

    def __init__(self, name: str, server: Server, port: int, load: Child, imports: bool) -> None:
        self.name = name
        self.port = port
        self._server = server
        self._load = load
        self._imports = imports
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

    def wait(self) -> None:
        """Returns when it answers. :raises BenchError: it does not."""
        wait_for(self._live, START, f"an answer of {self.name}")

    def _live(self) -> bool:
        self._server.check()
        try:
            # Also connected: the first of these makes it so.
            return self.client.get("/users?limit=1").status_code == 200
        except httpx.TransportError:
            return False

    def pids(self) -> list[int]:
        return self._server.pids()

    def do(self, work: Work, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        self._server.check()
        name = work.name
        if name == "import" and not self._imports:
            name, count = "batch", (work.rows or 0) // BATCH
        rows = work.rows if name == "stream" else None
        job = Job(self.port, requests.of(name), work.statuses, count, connections, rate, rows)
        outcome: Outcome = self._load.ask(job)
        return outcome

    def by_batches(self) -> HttpContender:
        """The same service, importing by batches though it could do it in one request."""
        twin = copy(self)
        twin.name, twin._imports = f"{self.name} by batches", False
        return twin

    def close(self) -> None:
        self.client.close()
        self._server.stop()


class DriverContender:
    """The floor; it takes the place of load generator and server in one."""

    name = "driver"

    def __init__(self, found: Database) -> None:
        self._database = found
        self._child = Child(driver_loop.serve, found.environment)
        self._child.answer(START)

    def pids(self) -> list[int]:
        return [self._child.pid]

    def do(self, work: Work, requests: Requests, rate: float | None, count: int, connections: int) -> Outcome:
        name = {"import": "load"}.get(work.name, work.name)
        rows = {"batch": BATCH}.get(work.name, work.rows or 0)
        outcome: Outcome = self._child.ask(DriverJob(name, count, connections, self._database.users, rate, rows))
        return outcome

    def close(self) -> None:
        self._child.close()


def start(
    name: str,
    found: Database,
    load: Child,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    label: str = "",
) -> HttpContender | DriverContender:
    """Starts a contender.

    :param name: one of `CONTENDERS`.
    :param variables: more of Fieldbook's, such as the number of workers.
    :param label: its name in the tables, where that is another.
    :raises BenchError: it does not come up.
    """
    if name == "driver":
        return DriverContender(found)
    if name == "fieldbook":
        return start_fieldbook(found, load, directory, label or name, variables or {})
    port = free_port()
    if name == "fastapi":
        command = ["uvicorn", "dev.bench.baselines.fastapi_app:app", "--loop", "uvloop", "--http", "httptools"]
        command += ["--port", str(port)]
    else:
        command = ["gunicorn", "dev.bench.baselines.flask_app:app", "--worker-class", "gthread", "--threads", "64"]
        command += ["--keep-alive", "75", "--no-control-socket", "--bind", f"127.0.0.1:{port}"]
    environment = {**found.environment, "PYTHONPATH": str(PROJECT)}
    # Not in the project, where gunicorn would take Fieldbook's gunicorn.conf.py.
    server = Server([sys.executable, "-m", *command], directory, environment, directory / f"{name}.log")
    return _ready(HttpContender(label or name, server, port, load, imports=True), server)


def start_fieldbook(
    found: Database,
    load: Child,
    directory: Path,
    label: str,
    variables: Mapping[str, str],
    project: Path = PROJECT,
    python: str = sys.executable,
) -> HttpContender:
    """Starts Fieldbook as it ships, in production, with one worker unless `variables` say otherwise.

    :param project: the checkout that it is taken from.
    :param python: with what that checkout requires.
    :raises BenchError: it does not come up.
    """
    port = free_port()
    environment = {
        **found.environment,
        "APP_ENV": "production",
        "SECRET_KEY": "the secret of the benchmark",
        "WEB_CONCURRENCY": "1",
        "DRAIN_SECONDS": "0",
        "PORT": str(port),
        **variables,
    }
    log = directory / f"{label.replace(' ', '-')}.log"
    server = Server([python, "-m", "gunicorn", "wsgi:app"], project, environment, log)
    return _ready(HttpContender(label, server, port, load, imports=False), server)


def _ready(contender: HttpContender, server: Server) -> HttpContender:
    try:
        contender.wait()
    except BaseException:
        server.stop()
        raise
    return contender
