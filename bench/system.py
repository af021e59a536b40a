"""What is measured: nodes of the run's own, a keyspace of its own, and the contenders before it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import Protocol

import httpx
from cassandra.cluster import Cluster, Session

from bench import data
from bench.contenders import driver_loop
from bench.contenders.driver_loop import DriverJob
from bench.load import Child, Job, Outcome
from bench.processes import Server, cpu_seconds, wait_for
from bench.works import BATCH, Requests, Work
from local_cassandra.node import STATE, Node, free_port
from settings import PROJECT, Settings
from storage import db_initialize

# What a server may take to answer its first request, in seconds.
START = 60.0
CONTENDERS = ("fieldbook", "driver", "fastapi", "flask")


class Database:
    """A node that answers, and the run's keyspace in it.

    :ivar users: how many are stored by number (`data.user_id`); the work itself stores more.
    """

    def __init__(self, nodes: list[Node], session: Session, replicas: int) -> None:
        self.nodes = nodes
        self.session = session
        self.keyspace = f"bench_{os.getpid()}"
        self.users = 0
        self.version: str = session.execute("SELECT release_version FROM system.local").one()[0]
        self.environment = {
            "CASSANDRA_HOSTS": ",".join(node.address for node in nodes),
            "CASSANDRA_PORT": str(nodes[0].native_port),
            "CASSANDRA_KEYSPACE": self.keyspace,
            "CASSANDRA_REPLICATION_FACTOR": str(replicas),
        }
        settings = Settings(_env_file=None, **{name.lower(): value for name, value in self.environment.items()})
        db_initialize.initialize(settings, samples=False, say=lambda line: None)
        data.load_animals(session, self.keyspace)

    def grow(self, users: int) -> None:
        """Stores users until there are so many."""
        hosts = [node.address for node in self.nodes]
        if users > self.users:
            data.load_users(hosts, self.nodes[0].native_port, self.keyspace, self.users, users)
            self.users = users

    def cpu_seconds(self) -> float:
        return cpu_seconds([node.running() or 0 for node in self.nodes])

    def settle(self, share: float = 0.1, timeout: float = 20.0) -> None:
        """Returns when the nodes have little left to do, flushes and compactions of what came before, or in time.

        :param share: of a core.
        :param timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            before = self.cpu_seconds()
            time.sleep(0.3)
            if self.cpu_seconds() - before < 0.3 * share:
                return


@contextmanager
def database(directory: Path, nodes: int = 1) -> Iterator[Database]:
    """Nodes of the run's own on free ports, ended with the block.

    :raises NodeError: when one does not come up.
    """
    with ExitStack() as stack:
        ring = [Node(directory=directory / "node", native_port=free_port(), storage_port=free_port())]
        for node in ring:
            stack.callback(node.stop)
            node.start()
            node.wait_until_ready()
        cluster = Cluster([ring[0].address], port=ring[0].native_port, protocol_version=5)
        stack.callback(cluster.shutdown)
        found = Database(ring, cluster.connect(), replicas=len(ring))
        stack.callback(found.session.execute, f"DROP KEYSPACE {found.keyspace}", timeout=60)
        yield found


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
        wait_for(self._live, START, f"an answer of {name}")

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
        job = Job(self.port, requests.of(name), (work.status,), count, connections, rate, rows)
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
        users = min(2000, self._database.users)
        outcome: Outcome = self._child.ask(DriverJob(name, count, connections, users, rate, rows))
        return outcome

    def close(self) -> None:
        self._child.close()


def start(
    name: str, found: Database, load: Child, directory: Path, variables: Mapping[str, str], project: Path = PROJECT
) -> HttpContender | DriverContender:
    """Starts a contender.

    :param variables: more of the service's, such as the number of workers.
    :param project: the checkout that Fieldbook is taken from.
    :raises BenchError: it does not come up.
    """
    if name == "driver":
        return DriverContender(found)
    port = free_port()
    environment = {**found.environment, "PYTHONUNBUFFERED": "1", **variables}
    python = [sys.executable, "-m"]
    if name == "fastapi":
        arguments = ["--loop", "uvloop", "--http", "httptools", "--port", str(port)]
        command = [*python, "uvicorn", "bench.contenders.fastapi_app:app", *arguments]
        environment["PYTHONPATH"] = str(PROJECT)
    elif name == "flask":
        arguments = ["--worker-class", "gthread", "--threads", "64", "--keep-alive", "75", "--no-control-socket"]
        command = [*python, "gunicorn", "bench.contenders.flask_app:app", *arguments, "--bind", f"127.0.0.1:{port}"]
        environment["PYTHONPATH"] = str(PROJECT)
    else:
        command = [*python, "gunicorn", "wsgi:app"]
        environment |= _production(port) | dict(variables)
    # The project's gunicorn.conf.py is Fieldbook's and not for the others, which gunicorn would give it from there.
    place = directory if name in ("fastapi", "flask") else project
    server = Server(command, place, environment, directory / f"{name}.log")
    try:
        return HttpContender(name, server, port, load, imports=name in ("fastapi", "flask"))
    except BaseException:
        server.stop()
        raise


def _production(port: int) -> dict[str, str]:
    """Fieldbook's variables, as it ships: its defaults, in production, with one worker."""
    return {
        "APP_ENV": "production",
        "SECRET_KEY": "the secret of the benchmark",
        "WEB_CONCURRENCY": "1",
        "DRAIN_SECONDS": "0",
        "PORT": str(port),
    }


@contextmanager
def run_directory() -> Iterator[Path]:
    """A directory for logs and data, removed if all goes well."""
    directory = STATE / f"bench-{os.getpid()}"
    directory.mkdir(parents=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
