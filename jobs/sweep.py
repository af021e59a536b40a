"""The sweep: finds jobs that need a worker, and sends messages for them.

No job depends on the delivery of a message: the sweep finds each job whose message is lost, or whose worker is gone.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from uuid import UUID

from jobs.engine import Engine
from observability import metrics
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.jobs import Job, find_job, open_job_ids
from storage.db_io.versioned import now
from storage.errors import RowNotFound

log = logging.getLogger(__name__)

# Messages that a sweep sends at most. Workers receive them in order, so more would not start a job earlier.
_MAX_MESSAGES = 100
# An entry in the list of open jobs is written before its job, so a newer entry without a job is kept.
_MIN_AGE = timedelta(hours=1)
# From 1582-10-15, at which the time of a UUID begins (RFC 9562), to 1970-01-01, in units of 100 ns.
_UUID_EPOCH = 0x01B21DD213814000


def send_messages(
    session: Session, engine: Engine, options: Callable[[], QueryOptions], send: Callable[[UUID], bool]
) -> None:
    """Send a message for each job that a worker may claim, clean up jobs that have ended, and update the gauges.

    :param options: the options of each query.
    :param send: sends the message that a job needs a worker, and returns whether it was sent. The first failure ends
        the messages of this sweep.
    :raises StorageError: the jobs can't be read. The next sweep tries again.
    """
    jobs = []
    for job_id in open_job_ids(session, options()):
        try:
            job = find_job(session, job_id, options())
        except RowNotFound:
            if _created_at(job_id) < now() - _MIN_AGE:
                engine.work(session, job_id)
            continue
        if job.has_ended:
            engine.work(session, job_id)
        else:
            jobs.append(job)
    waiting = sorted((job for job in jobs if _needs_worker(job, engine.lease)), key=lambda job: job.created_at)
    # Without a broker, each message would take two seconds.
    sent = sum(1 for _ in takewhile(lambda job: send(job.id), waiting[:_MAX_MESSAGES]))
    if waiting:
        log.info("Sweep: %d jobs need a worker, %d messages sent", len(waiting), sent)
    _update_gauges(jobs, engine)


def _needs_worker(job: Job, lease: float) -> bool:
    """Whether a worker may claim the job, and no message for it can be expected to be on its way."""
    if job.lease_until is not None:
        return job.lease_until <= now()
    # A message was sent when the job was created. The time of later messages is not known.
    return job.state == "running" or job.created_at <= now() - timedelta(seconds=lease)


def _update_gauges(jobs: list[Job], engine: Engine) -> None:
    counts = Counter((job.kind, job.state) for job in jobs)
    for kind in {*engine.kinds, *(job.kind for job in jobs)}:
        for state in ("queued", "running"):
            metrics.JOBS_OPEN.labels(kind, state).set(counts[kind, state])
        ages = [now() - job.created_at for job in jobs if job.kind == kind and job.started_at is None]
        metrics.OLDEST_QUEUED.labels(kind).set(max(ages, default=timedelta()).total_seconds())
    metrics.LAST_SWEEP.set(time.time())


def _created_at(job_id: UUID) -> datetime:
    return datetime.fromtimestamp((job_id.time - _UUID_EPOCH) / 10_000_000, UTC)
