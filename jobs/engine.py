"""The engine of background jobs: claims a job, works on it in slices, and ends it.

A job consists of steps, for example the chunks of an import. A step may be repeated: repeating it changes nothing. A
worker claims a job by a lightweight transaction, which gives it a claim number. It stores its progress under that
number. If another worker has claimed the job meanwhile, the number has changed, nothing is stored, and the worker
stops. docs/imports.md describes the states.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID, uuid4

from observability import metrics
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.jobs import Job, change_job, close_job, find_job, reopen_job
from storage.db_io.versioned import now
from storage.errors import RowNotFound, StorageTimeout, StorageUnavailable

log = logging.getLogger(__name__)

# Attempts without progress after which a job fails.
MAX_STALLED = 5
# Seconds for which a worker works on a job after one message. The rest of the job needs the next message.
SLICE = 60.0
# Seconds between two checkpoints; a quarter of the lease if that is less.
_CHECKPOINT = 2.0
# Seconds of backoff: after a failed step within a slice, and after a failed attempt.
_STEP_BACKOFF = (0.2, 5.0)
_ATTEMPT_BACKOFF = (2.0, 300.0)

# The result of a slice. ended: the job has ended. continue: the job needs another slice at once. later: it needs one
# after a backoff. lost: another process has claimed or ended the job.
Outcome = Literal["ended", "continue", "later", "lost"]


class StepFailed(Exception):
    """A step can't succeed, however often it is repeated. The message says why, for the client."""


class UnknownHere(Exception):
    """This version of the service does not know what the job needs. During a release, another worker may have a version
    that does. The message says what, for the client.
    """


class JobEnded(Exception):
    """The state of the job does not allow the change. The message says why, for the client."""


@dataclass(frozen=True)
class Progress:
    """What a step has done.

    :ivar rows: rows that it has written.
    :ivar position: bytes of the file that are done after it.
    """

    rows: int
    position: int


class Kind(Protocol):
    """A kind of job."""

    def step(self, session: Session, job: Job, options: QueryOptions) -> Progress:
        """Do the step `job.checkpoint`. It must have the same effect if it is repeated.

        :raises StepFailed: the job fails.
        :raises UnknownHere: another worker should try.
        :raises StorageError: the step is repeated.
        """

    def clean_up(self, session: Session, job: Job, options: QueryOptions) -> None:
        """Delete what the job no longer needs. Called after its end, perhaps more than once."""


def _worker_name() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"


@dataclass(frozen=True)
class Engine:
    """Works on jobs.

    :ivar kinds: the kinds of jobs by name.
    :ivar lease: seconds after a worker's last checkpoint until another worker may claim its job.
    :ivar timeout: seconds for one query.
    :ivar should_stop: whether the process is about to end, so that a slice should end early.
    :ivar on_step: called with the job after each step.
    """

    kinds: Mapping[str, Kind]
    lease: float
    timeout: float
    should_stop: Callable[[], bool] = field(default=lambda: False)
    on_step: Callable[[Job], None] = field(default=lambda job: None)

    def work(self, session: Session, job_id: UUID, seconds: float = SLICE) -> Outcome:
        """Claim a job and work on it for at most `seconds`.

        :raises StorageError: the state of the job can't be read or written. Its lease expires.
        """
        options = self.options()
        try:
            found = find_job(session, job_id, options, serial=True)
        except RowNotFound:
            close_job(session, job_id, options)
            return "ended"
        job = found if found.has_ended else self._claim(session, found)
        if job is None:
            return "lost"
        if job.has_ended:
            self.clean_up(session, job)
            return "ended"
        try:
            return _Slice(self, session, job, time.monotonic() + seconds).run()
        except _Lost:
            log.info("job %s: claimed or ended by another process", job_id)
            return "lost"

    def _claim(self, session: Session, found: Job) -> Job | None:
        """Claim a job that no worker has.

        :returns: the job, which has failed if too many attempts made no progress; None if a worker has it.
        """
        if found.lease_until is not None and found.lease_until > now():
            return None
        claimed = found._replace(
            claim=found.claim + 1,
            worker=_worker_name(),
            state="running",
            started_at=found.started_at or now(),
            lease_until=self.lease_end(),
        )
        if found.state == "queued" or found.lease_until is not None:
            claimed = claimed._replace(attempts=found.attempts + 1)
        if found.state == "running" and found.lease_until is not None:
            # The lease has expired: the worker was killed, or paused for longer than the lease.
            claimed = claimed._replace(stalled=found.stalled + 1)
            metrics.JOB_RETRIES.labels(found.kind).inc()
            log.warning("job %s: worker %s is gone, attempt %d", found.id, found.worker, claimed.attempts)
        if claimed.stalled >= MAX_STALLED:
            reason = f"Workers ended {MAX_STALLED} times without progress."
            # The attempts that were made, without this one, which ends before its first step.
            claimed = _ended(claimed._replace(attempts=found.attempts), "failed", found.failure or reason)
        if not change_job(session, found, claimed, self.options()):
            return None
        if claimed.has_ended:
            _note_end(claimed)
        return claimed

    def clean_up(self, session: Session, job: Job) -> None:
        """Delete what an ended job no longer needs. If this fails, the sweep tries again."""
        options = self.options()
        # A failed job keeps its chunks for a retry, until they expire.
        if job.state != "failed" and (kind := self.kinds.get(job.kind)) is not None:
            kind.clean_up(session, job, options)
        close_job(session, job.id, options)
        if job.state == "failed":
            with suppress(RowNotFound):
                if not find_job(session, job.id, options, serial=True).has_ended:
                    # It was retried before close_job().
                    reopen_job(session, job.id, options)

    def lease_end(self) -> datetime:
        """The time until which a worker that stores its progress now has the job."""
        return now() + timedelta(seconds=self.lease)

    def options(self, seconds: float | None = None) -> QueryOptions:
        """The options of a query, or of all queries within `seconds`."""
        return QueryOptions(deadline=time.monotonic() + seconds if seconds else None, timeout=self.timeout)


@dataclass
class _Slice:
    """The work on a job after a claim.

    :ivar saved: the job as it was last stored.
    :ivar latest: the monotonic time at which the slice ends.
    """

    engine: Engine
    session: Session
    saved: Job
    latest: float

    def run(self) -> Outcome:
        """Do steps until the job or the slice ends.

        :raises _Lost: another process has claimed or ended the job.
        :raises StorageError: the progress can't be stored.
        """
        engine, job = self.engine, self.saved
        kind = engine.kinds.get(job.kind)
        if kind is None:
            return self._give_back(job, f"This version of the service has no jobs of the kind {job.kind}.")
        interval = min(_CHECKPOINT, engine.lease / 4)
        next_checkpoint = time.monotonic() + interval
        backoff = _STEP_BACKOFF[0]
        while job.checkpoint < job.chunks:
            if engine.should_stop() or time.monotonic() >= self.latest:
                self._save(job._replace(lease_until=None))
                return "continue"
            try:
                progress = kind.step(self.session, job, engine.options(engine.lease / 2))
            except (StorageUnavailable, StorageTimeout) as error:
                if time.monotonic() + backoff >= self.latest:
                    return self._give_back(job, str(error))
                log.warning("job %s: step %d failed, next try in %.1f s: %s", job.id, job.checkpoint, backoff, error)
                time.sleep(backoff * random.uniform(0.5, 1))
                # Since the last checkpoint, 3/4 of the lease may have passed: a checkpoint interval and the step.
                backoff = min(2 * backoff, _STEP_BACKOFF[1], engine.lease / 8)
                job = self._save(job._replace(lease_until=engine.lease_end()))
                continue
            except StepFailed as error:
                return self._end(_ended(job, "failed", str(error)))
            except UnknownHere as error:
                return self._give_back(job, str(error))
            except Exception as error:
                log.exception("job %s: step %d failed", job.id, job.checkpoint)
                return self._give_back(job, f"An unexpected error occurred ({type(error).__name__}).")
            backoff = _STEP_BACKOFF[0]
            metrics.JOB_ROWS.labels(job.kind).inc(progress.rows)
            job = job._replace(
                checkpoint=job.checkpoint + 1,
                rows_done=job.rows_done + progress.rows,
                bytes_done=progress.position,
                stalled=0,
                failure=None,
            )
            engine.on_step(job)
            if time.monotonic() >= next_checkpoint:
                job = self._save(job._replace(lease_until=engine.lease_end()))
                next_checkpoint = time.monotonic() + interval
        return self._end(_ended(job, "succeeded", None))

    def _give_back(self, job: Job, reason: str) -> Outcome:
        """End an attempt that has failed: another worker may claim the job after a backoff."""
        metrics.JOB_RETRIES.labels(job.kind).inc()
        job = job._replace(stalled=job.stalled + 1, failure=reason)
        if job.stalled >= MAX_STALLED:
            return self._end(_ended(job, "failed", reason))
        seconds = min(_ATTEMPT_BACKOFF[0] * 2**job.stalled, _ATTEMPT_BACKOFF[1]) * random.uniform(0.5, 1)
        self._save(job._replace(state="queued", lease_until=now() + timedelta(seconds=seconds)))
        return "later"

    def _end(self, job: Job) -> Outcome:
        self._save(job)
        _note_end(job)
        self.engine.clean_up(self.session, job)
        return "ended"

    def _save(self, job: Job) -> Job:
        """Store the progress under the number of the claim. Until the slice or the lease ends, try again."""
        options = self.engine.options()
        backoff, tries = _STEP_BACKOFF[0], 0
        while True:
            try:
                # An earlier try with an unknown outcome may have stored it.
                is_stored = tries > 0 and find_job(self.session, job.id, options, serial=True) == job
                if not is_stored and not change_job(self.session, self.saved, job, options):
                    raise _Lost
            except RowNotFound:
                raise _Lost from None
            except (StorageUnavailable, StorageTimeout) as error:
                tries += 1
                # After the lease has expired, another worker may claim the job, so this worker stops trying.
                has_expired = self.saved.lease_until is None or self.saved.lease_until < now()
                # The second try is made in any case: after a slice, it saves the next worker the wait for the lease.
                if has_expired or (tries > 1 and (self.engine.should_stop() or time.monotonic() >= self.latest)):
                    raise
                log.warning("job %s: the progress could not be stored: %s", job.id, error)
                time.sleep(backoff * random.uniform(0.5, 1))
                backoff = min(2 * backoff, _STEP_BACKOFF[1])
            else:
                self.saved = job
                return job


class _Lost(Exception):
    """Another process has claimed or ended the job."""


def _ended(job: Job, state: Literal["succeeded", "failed", "cancelled"], failure: str | None) -> Job:
    return job._replace(state=state, finished_at=now(), lease_until=None, failure=failure)


def _note_end(job: Job) -> None:
    metrics.JOBS_ENDED.labels(job.kind, job.state).inc()
    if job.state == "failed":
        log.warning("job %s: %s failed, %d rows: %s", job.id, job.kind, job.rows_done, job.failure)
    else:
        log.info("job %s: %s %s, %d rows", job.id, job.kind, job.state, job.rows_done)


def cancel(session: Session, job_id: UUID, options: QueryOptions) -> Job:
    """Cancel a job. Rows that it has written stay.

    :returns: the job as it is now; a worker has to clean up.
    :raises RowNotFound: there is no such job.
    :raises JobEnded: the job has ended.
    """
    while True:
        job = find_job(session, job_id, options, serial=True)
        if job.has_ended:
            raise JobEnded(f"The job has ended: its state is {job.state}.")
        # The new claim number stops the worker.
        cancelled = _ended(job._replace(claim=job.claim + 1), "cancelled", None)
        if change_job(session, job, cancelled, options):
            _note_end(cancelled)
            return cancelled
        time.sleep(min(0.05, options.remaining()))


def retry(session: Session, job_id: UUID, options: QueryOptions) -> Job:
    """Queue a failed job again. It continues after its last checkpoint.

    :raises RowNotFound: there is no such job.
    :raises JobEnded: the job has not failed.
    """
    job = find_job(session, job_id, options, serial=True)
    if job.state != "failed":
        raise JobEnded(f"Only a failed job can be retried: the state of this job is {job.state}.")
    queued = job._replace(
        claim=job.claim + 1, state="queued", stalled=0, lease_until=None, finished_at=None, failure=None
    )
    reopen_job(session, job_id, options)
    if not change_job(session, job, queued, options):
        raise JobEnded("Another request has changed the job at the same time.")
    # Again, because the worker that ended the job may have removed it from the list in between.
    reopen_job(session, job_id, options)
    return queued
