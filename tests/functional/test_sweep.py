"""The sweep of job workers, on a real Cassandra. tests/functional/test_job_worker.py runs it in workers."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import pytest
from cassandra.cluster import Session
from cassandra.util import uuid_from_time

from jobs.engine import Engine
from jobs.sweep import send_messages
from observability import metrics
from storage.cql import QueryOptions
from storage.db_io.jobs import Job, change_job, create_job, new_job, open_job_ids, reopen_job
from storage.db_io.versioned import now

HOUR = 3600.0


class Sweep:
    """Runs the sweep, and keeps the ids for which it has sent messages."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def run(self, lease: float, *, broker: bool = True) -> set[UUID]:
        """Sweep once.

        :param broker: whether messages can be sent.
        :returns: the jobs that it has tried to send a message for.
        """
        tried: list[UUID] = []

        def send(job_id: UUID) -> bool:
            tried.append(job_id)
            return broker

        send_messages(self.session, Engine({}, lease, timeout=10), QueryOptions, send)
        assert len(tried) == len(set(tried))
        return set(tried)

    def job(self, **columns: object) -> Job:
        """Store a job of the kind "test" with these columns."""
        job = new_job("test", "none", "tests")
        create_job(self.session, job, QueryOptions())
        changed = job._replace(**columns)
        assert change_job(self.session, job, changed, QueryOptions())
        return changed

    def open_ids(self) -> set[UUID]:
        return set(open_job_ids(self.session, QueryOptions()))


@pytest.fixture
def sweep(own_session: Session) -> Sweep:
    for table in ("jobs", "job_lists"):
        own_session.execute(f"TRUNCATE {table}", timeout=60)
    return Sweep(own_session)


def test_sweep_sends_messages_for_jobs_that_a_worker_may_claim(sweep: Sweep) -> None:
    fresh = sweep.job()
    interrupted = sweep.job(state="running", started_at=now())
    expired = sweep.job(state="running", started_at=now(), lease_until=now() - timedelta(seconds=1))
    sweep.job(state="running", started_at=now(), lease_until=now() + timedelta(hours=1))
    sweep.job(lease_until=now() + timedelta(hours=1))
    # The message of the creation may be on its way for as long as a lease.
    assert sweep.run(lease=HOUR) == {interrupted.id, expired.id}
    assert sweep.run(lease=0) == {fresh.id, interrupted.id, expired.id}


def test_sweep_without_a_broker_tries_one_message(sweep: Sweep) -> None:
    """Each further message would take two seconds."""
    first, second = sweep.job(), sweep.job()
    assert sweep.run(lease=0, broker=False) == {first.id}
    assert sweep.run(lease=0) == {first.id, second.id}


def test_sweep_removes_jobs_that_have_ended_from_its_list(sweep: Sweep) -> None:
    ended = sweep.job(state="failed", finished_at=now())
    waiting = sweep.job()
    assert sweep.run(lease=HOUR) == set()
    assert ended.id not in sweep.open_ids()
    assert sweep.open_ids() == {waiting.id}


def test_sweep_keeps_the_entry_of_a_job_that_is_being_created(sweep: Sweep) -> None:
    """The entry is written before the job. One without a job is removed after an hour."""
    recent, old = (uuid_from_time(now() - timedelta(minutes=minutes)) for minutes in (50, 70))
    for job_id in (recent, old):
        reopen_job(sweep.session, job_id, QueryOptions())
    assert sweep.run(lease=0) == set()
    assert sweep.open_ids() == {recent}


def test_sweep_sets_gauges(sweep: Sweep) -> None:
    sweep.job()
    sweep.job(created_at=now() - timedelta(minutes=1))
    sweep.job(state="running", started_at=now())
    sweep.run(lease=HOUR)
    assert value(metrics.JOBS_OPEN.labels("test", "queued")) == 2
    assert value(metrics.JOBS_OPEN.labels("test", "running")) == 1
    assert 60 <= value(metrics.OLDEST_QUEUED.labels("test")) < HOUR
    assert value(metrics.LAST_SWEEP) == pytest.approx(now().timestamp(), abs=60)


def value(gauge: metrics.Gauge) -> float:
    (family,) = gauge.collect()
    return family.samples[0].value
