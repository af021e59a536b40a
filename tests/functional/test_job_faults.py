"""Imports while processes are killed and servers fail. Every job ends, and every row is there exactly once.

`make test-long` runs the long form: 20 kills of each kind.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cassandra.cluster import Session

from jobs.celery_app import files_of_messages
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.db_io.jobs import open_job_ids
from tests.job_workers import JobTests, Worker, job_tests
from tests.redis_server import RedisServer, redis_server
from tests.support import Service, TcpProxy, service, wait_for
from tests.testbed import database

pytestmark = [pytest.mark.alone, pytest.mark.slow, pytest.mark.timeout(1200)]

LONG = bool(os.environ.get("TEST_LONG"))
KILLS = 20 if LONG else 3
# Rows of an import. Each is a job, because an import of more than 10,000 rows is one.
FINDS, OBSERVERS = 30_000 if LONG else 15_000, 11_000
NDJSON = {"Content-Type": "application/x-ndjson"}


class Imports:
    """A service and job workers with a keyspace of their own, and the imports that were sent to them."""

    def __init__(self, running: Service, jobs: JobTests, proxy: TcpProxy) -> None:
        self.service = running
        self.jobs = jobs
        self.proxy = proxy
        self._started: dict[str, tuple[str, int]] = {}

    def worker(self) -> Worker:
        """Start a job worker with beat, whose connections to Cassandra go through the proxy."""
        worker = self.jobs.worker("--beat", CASSANDRA_PORT=str(self.proxy.port))
        worker.wait_until_ready()
        return worker

    def start(self) -> None:
        """Send two imports."""
        mark = uuid.uuid4().hex
        finds = b"".join(
            b'{"genus": "%s", "species": "s%d", "sightings": %d}\n' % (mark.encode(), number, number)
            for number in range(FINDS)
        )
        observers = b"".join(
            b'{"name": "%s", "email": "n%d@example.org", "age": 1}\n' % (mark.encode(), number)
            for number in range(OBSERVERS)
        )
        for path, data, count in (("/find/import", finds, FINDS), ("/observers/import", observers, OBSERVERS)):
            response = self.service.client.post(path, content=data, headers=NDJSON)
            assert response.status_code == 202, response.text
            self._started[response.headers["Location"]] = (mark, count)

    def states(self) -> Counter[str]:
        """Return the number of jobs in each state."""
        return Counter(self.service.client.get(path).json()["state"] for path in self._started)

    def have_ended(self) -> bool:
        """Return whether all jobs have ended."""
        return not self.states().keys() & {"queued", "running"}

    def working(self) -> list[int]:
        """Return the process ids of the children that work on a job."""
        rows = self.jobs.session.execute("SELECT state, worker FROM jobs")
        return [int(row[1].split(":")[1]) for row in rows if row[0] == "running"]

    def check(self) -> None:
        """Wait until all jobs have ended, then check all rows, and that nothing is left."""
        wait_for(self.have_ended, timeout=240, description="the end of all jobs")
        assert set(self.states()) == {"succeeded"}, self.states()
        session = self.jobs.session
        names = Counter(row[0] for row in session.execute("SELECT name FROM observers"))
        emails = Counter(tuple(row) for row in session.execute("SELECT name, email FROM observers"))
        for path, (mark, count) in self._started.items():
            assert self.service.client.get(path).json()["rows_done"] == count
            if count == FINDS:
                rows = {
                    row[0]: row[1]
                    for row in session.execute("SELECT species, sightings FROM finds WHERE genus = %s", (mark,))
                }
                assert rows == {f"s{number}": number for number in range(FINDS)}
            else:
                assert names[mark] == count
                assert {number for (name, _), number in emails.items() if name == mark} == {1}
        wait_for(lambda: not open_job_ids(session, QueryOptions()), description="the end of the cleanup")
        assert session.execute("SELECT COUNT(*) FROM import_chunks").one()[0] == 0


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["files", "redis"])
def broker(request: pytest.FixtureRequest) -> str:
    """The value of CELERY_BROKER_URL."""
    if request.param == "files":
        return ""
    server: RedisServer = request.getfixturevalue("redis")
    return server.url.replace("/0", "/1")


@pytest.fixture
def imports(
    broker: str, environment: dict[str, str], settings: Settings, session: Session, proxy: TcpProxy, tmp_path: Path
) -> Iterator[Imports]:
    with database.new_keyspace(session, settings) as keyspace:
        variables = environment | {
            "CELERY_BROKER_URL": broker,
            "CASSANDRA_KEYSPACE": keyspace,
            "JOB_LEASE": "2",
            "JOB_CONCURRENCY": "1",
            "APP_ENV": "development",
            "WEB_CONCURRENCY": "1",
            "CASSANDRA_RECONNECT_MIN": "0.1",
            "CASSANDRA_RECONNECT_MAX": "0.5",
        }
        own = Settings(**{name.lower(): value for name, value in variables.items() if value})
        own_session = db_connect.open_session(own, keyspace)
        try:
            with (
                service(variables, tmp_path / "service.log") as running,
                job_tests(variables, own, own_session, tmp_path) as jobs,
            ):
                yield Imports(running, jobs, proxy)
                messages = files_of_messages(own) / "messages"
                # Beat may have sent the message of the next sweep.
                assert not messages.exists() or len(list(messages.iterdir())) <= 2
        finally:
            own_session.cluster.shutdown()


@pytest.mark.parametrize("victim", ["child", "parent"])
def test_imports_survive_killed_job_workers(imports: Imports, victim: str) -> None:
    """kill -9 of the worker's parent or child, at random points of imports."""
    worker = imports.worker()
    imports.start()
    for _ in range(KILLS):
        if imports.have_ended():
            imports.start()
        time.sleep(random.uniform(0.1, 4.0))
        if victim == "parent":
            worker.kill()
            worker = imports.worker()
        else:
            for child in imports.working():
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
    imports.check()


@pytest.mark.parametrize("broker", ["redis"], indirect=True)
def test_imports_survive_restarts_of_redis(imports: Imports, redis: RedisServer) -> None:
    """Redis ends and loses all messages, once before and once after the imports are sent."""
    imports.worker()
    redis.kill()
    imports.start()
    redis.start()
    imports.start()
    redis.kill()
    time.sleep(1)
    redis.start()
    imports.check()


@pytest.mark.parametrize("broker", ["files"], indirect=True)
def test_imports_survive_a_paused_cassandra(imports: Imports) -> None:
    """Cassandra answers the worker late, or its connections break."""
    imports.worker()
    imports.start()
    wait_for(lambda: imports.states()["running"], timeout=60, description="a running job")
    imports.proxy.pause(5)
    time.sleep(6)
    imports.proxy.disconnect()
    time.sleep(1)
    imports.proxy.reconnect()
    imports.check()


@pytest.mark.parametrize("broker", ["files"], indirect=True)
def test_kill_of_the_web_process_during_an_upload_leaves_no_job_and_no_row(imports: Imports) -> None:
    """The stored chunks expire, and the next imports work."""
    session = imports.jobs.session
    head = b"POST /find/import HTTP/1.1\r\nHost: x\r\nContent-Type: text/csv\r\nContent-Length: 9000000\r\n\r\n"
    rows = b"genus,species\n" + b"".join(b"Killed,%d\n" % number for number in range(60_000))
    with socket.create_connection(("127.0.0.1", imports.service.port), timeout=20) as client:
        client.sendall(head + rows)
        wait_for(lambda: session.execute("SELECT job_id FROM import_chunks LIMIT 1").one(), description="a chunk")
        (process,) = imports.service.workers()
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: process not in imports.service.workers() and imports.service.healthy(), description="a new worker")
    assert imports.service.client.get("/jobs").json() == []
    assert imports.service.client.get("/find/Killed").json() == []
    for (ttl,) in session.execute("SELECT TTL(data) FROM import_chunks"):
        assert 0 < ttl <= 7 * 86400
    session.execute("TRUNCATE import_chunks")
    imports.worker()
    imports.start()
    imports.check()
