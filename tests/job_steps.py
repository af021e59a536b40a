"""Jobs whose steps the test does, for tests of the engine and of the stored jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

from cassandra.cluster import Session

from jobs.engine import Engine, Outcome, Progress, StepFailed
from storage.cql import QueryOptions
from storage.db_io.jobs import Job, change_job, create_job, find_job, new_job, open_job_ids
from storage.db_io.versioned import now
from tests.support import wait_for


@dataclass
class Steps:
    """A kind of job without side effects.

    :ivar before: called before each step with the job. It may raise the exception of the step.
    :ivar done: numbers of the steps that were done.
    :ivar cleaned: ids of the jobs that were cleaned up.
    """

    before: Callable[[Job], object] = lambda job: None
    done: list[int] = field(default_factory=list)
    cleaned: list[UUID] = field(default_factory=list)

    def step(self, session: Session, job: Job, options: QueryOptions) -> Progress:
        self.before(job)
        self.done.append(job.checkpoint)
        return Progress(rows=2, position=10 * (job.checkpoint + 1))

    def clean_up(self, session: Session, job: Job, options: QueryOptions) -> None:
        self.cleaned.append(job.id)


class EngineJobs:
    """Creates and reads jobs of one owner, and works on them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.owner = uuid4().hex
        self.steps = Steps()

    def create(self, steps: int = 5, *, age: float = 0.0) -> Job:
        """Store a new job.

        :param age: seconds since its creation.
        """
        job = new_job("steps", "none", self.owner)
        job = job._replace(chunks=steps, created_at=job.created_at - timedelta(seconds=age))
        create_job(self.session, job, QueryOptions())
        return job

    def work(self, job: Job, *, steps: Steps | None = None, lease: float = 30.0, seconds: float = 60.0) -> Outcome:
        """Do the work of one message."""
        return Engine({"steps": steps or self.steps}, lease, timeout=10).work(self.session, job.id, seconds)

    def work_after_lease(self, job: Job, *, lease: float = 30.0, steps: Steps | None = None) -> Outcome:
        """Wait until the lease of the previous worker or the backoff has expired, then work."""
        outcome = wait_for(
            lambda: (outcome := self.work(job, lease=lease, steps=steps)) != "lost" and outcome, description="a claim"
        )
        assert outcome in ("ended", "continue", "later")
        return outcome

    def find(self, job: Job) -> Job:
        return find_job(self.session, job.id, QueryOptions(), serial=True)

    def is_open(self, job: Job) -> bool:
        """Return whether the sweep finds the job."""
        return job.id in open_job_ids(self.session, QueryOptions())

    def lifetimes(self, job: Job) -> set[int]:
        """Return the different TTLs of the columns of a job that are not null."""
        columns = ", ".join(f"TTL({column})" for column in Job._fields[1:])
        return set(self.session.execute(f"SELECT {columns} FROM jobs WHERE id = %s", (job.id,)).one()) - {None}

    def let_backoff_expire(self, job: Job) -> None:
        """Change the job as if the time until which nobody may claim it had passed."""
        found = self.find(job)
        past = now() - timedelta(seconds=1)
        assert change_job(self.session, found, found._replace(lease_until=past), QueryOptions())


def failing(*errors: BaseException | None) -> Callable[[Job], None]:
    """Return a function that raises the next error with each call, and none after the last one."""
    remaining = iter(errors)

    def fail(job: Job) -> None:
        error = next(remaining, None)
        if error is not None:
            raise error

    return fail


def hopeless(job: Job) -> None:
    raise StepFailed("The rows have expired.")
