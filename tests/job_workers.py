"""Job workers of tests: real processes of Celery with the kind of job of tests/testbed/worker.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from dev.local_cassandra.node import free_port
from jobs.celery_app import files_of_messages
from settings import Settings
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.jobs import Job, create_job, find_job, new_job
from tests.support import PROJECT, clean_environment, wait_for


class Worker:
    """A running job worker, with one process for jobs."""

    def __init__(self, environment: dict[str, str], directory: Path, *arguments: str, app: str) -> None:
        self.port = free_port()
        self.log = directory / f"worker-{self.port}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "--app", app, "--quiet", "worker", *arguments],
                cwd=PROJECT,
                env=clean_environment() | environment | {"JOB_METRICS_PORT": str(self.port)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        """Return the log."""
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> httpx.Response:
        """Send a request to the worker's port."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def is_ready(self) -> bool:
        """Return whether the readiness probe succeeds."""
        assert self.process.poll() is None, self.text()
        try:
            return self.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        """Wait until the worker receives messages."""
        wait_for(self.is_ready, 60, "the job worker")

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def terminate(self, timeout: float = 30) -> None:
        """Send SIGTERM, and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)

    def terminate_all(self, timeout: float = 30) -> None:
        """Send SIGTERM to the parent and its children at the same time, and wait for the end."""
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout)

    def kill(self) -> None:
        """Kill the parent."""
        self.process.kill()
        self.process.wait()

    def metric(self, series: str) -> float | None:
        """Return the value of a time series; None if there is none."""
        lines = self.get("/metrics").text.splitlines()
        return next((float(line.removeprefix(f"{series} ")) for line in lines if line.startswith(f"{series} ")), None)


class JobTests:
    """Starts workers, creates jobs, and reads what they have done."""

    def __init__(self, environment: dict[str, str], settings: Settings, session: Session, directory: Path) -> None:
        self.environment = environment
        self.settings = settings
        self.session = session
        self.directory = directory
        self._workers: list[Worker] = []

    def worker(self, *arguments: str, app: str = "tests.testbed.worker", **variables: str) -> Worker:
        """Start a worker."""
        environment = self.environment | {"TEST_DIRECTORY": str(self.directory)} | variables
        worker = Worker(environment, self.directory, *arguments, app=app)
        self._workers.append(worker)
        return worker

    def job(self, steps: int) -> Job:
        """Store a new job."""
        job = new_job("lines", "none", "tests")._replace(chunks=steps)
        create_job(self.session, job, QueryOptions())
        return job

    def find(self, job: Job) -> Job:
        """Read a job."""
        return find_job(self.session, job.id, QueryOptions(), serial=True)

    def steps(self, job: Job) -> list[tuple[int, int, int]]:
        """Return the steps that were done: the process ids of the parent and the child, and the number."""
        path = self.directory / str(job.id)
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(parent), int(child), int(step)) for parent, child, step in map(str.split, lines)]

    def wait_for_steps(self, job: Job, count: int) -> list[tuple[int, int, int]]:
        """Wait until a worker has done this many steps."""
        return wait_for(lambda: (done := self.steps(job))[count - 1 :] and done, 60, f"{count} steps of {job.id}")

    def wait_for_end(self, job: Job) -> Job:
        """Wait until the job has succeeded."""
        ended = wait_for(lambda: (found := self.find(job)).has_ended and found, 90, f"the end of {job.id}")
        assert (ended.state, ended.rows_done) == ("succeeded", job.chunks), ended
        wait_for((self.directory / f"{job.id}.clean").exists, description="the cleanup")
        return ended

    def stop(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker.process.poll() is None:
                try:
                    worker.terminate()
                except subprocess.TimeoutExpired:
                    worker.kill()
                    raise


@contextmanager
def job_tests(environment: dict[str, str], settings: Settings, session: Session, directory: Path) -> Iterator[JobTests]:
    """Yield the helper of a test, and end its workers afterwards."""
    tests = JobTests(environment, settings, session, directory)
    try:
        yield tests
    finally:
        tests.stop()
        shutil.rmtree(files_of_messages(settings), ignore_errors=True)
