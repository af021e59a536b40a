"""The application of a job worker for tests: imports into the testbed, and a kind of job that writes its steps."""

from __future__ import annotations

import os
import time
from pathlib import Path

from environment import get_settings
from server import metrics_directory

metrics_directory.create()

from jobs.engine import Progress  # noqa: E402
from jobs.imports.kind import kinds_of_jobs  # noqa: E402
from jobs.worker_process import job_worker  # noqa: E402
from storage.cql import QueryOptions  # noqa: E402
from storage.db_connect import Session  # noqa: E402
from storage.db_io.jobs import Job  # noqa: E402
from tests.testbed.app import RESOURCES  # noqa: E402

# Seconds that a step takes.
STEP = 0.05


class Lines:
    """Writes a line for each step to the file of the job: the parent's process id, its own, and the step."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def step(self, session: Session, job: Job, options: QueryOptions) -> Progress:
        time.sleep(STEP)
        with (self._directory / str(job.id)).open("a") as file:
            file.write(f"{os.getppid()} {os.getpid()} {job.checkpoint}\n")
        return Progress(rows=1, position=job.checkpoint + 1)

    def clean_up(self, session: Session, job: Job, options: QueryOptions) -> None:
        (self._directory / f"{job.id}.clean").touch()


app = job_worker(
    get_settings(),
    kinds_of_jobs(RESOURCES) | {"lines": Lines(Path(os.environ.get("TEST_DIRECTORY", os.devnull)))},
)
