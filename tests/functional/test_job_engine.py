"""The engine of background jobs, on a real Cassandra. The tests do its steps, so they choose what happens in each."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID

import pytest
from cassandra.cluster import Session

from jobs import engine
from jobs.engine import MAX_STALLED, Engine, JobEnded, Outcome, StepFailed, cancel, retry
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.db_io.jobs import Job, close_job
from storage.db_io.versioned import now
from storage.errors import StorageError, StorageTimeout, StorageUnavailable
from tests.job_steps import EngineJobs, Steps, failing, hopeless
from tests.support import TcpProxy, wait_for


class Killed(BaseException):
    """Ends a worker as `kill -9` does: nothing handles it, so the lease stays as it is."""


@pytest.fixture
def jobs(session: Session) -> EngineJobs:
    return EngineJobs(session)


@pytest.fixture
def checkpoint_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CHECKPOINT", 0.0)


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker claim a job immediately after a failed attempt."""
    monkeypatch.setattr(engine, "_ATTEMPT_BACKOFF", (0.0, 0.0))


# --- claims ----------------------------------------------------------------------------------------------------


def test_sixteen_workers_do_each_step_once_and_one_works_at_a_time(jobs: EngineJobs) -> None:
    """Each worker gives the job back after four steps, so the workers compete for it six times."""
    job = jobs.create(steps=24)
    working, overlaps, errors, local = threading.Lock(), [], [], threading.local()

    def step(job: Job) -> None:
        if not working.acquire(blocking=False):
            overlaps.append(job.checkpoint)
            return
        local.steps += 1
        # A step takes a while: it reads the job.
        jobs.find(job)
        working.release()

    jobs.steps.before = step
    worker = Engine({"steps": jobs.steps}, 30, timeout=10, should_stop=lambda: local.steps == 4)

    def work_to_the_end() -> bool:
        local.steps = 0
        try:
            return worker.work(jobs.session, job.id) == "ended"
        except StorageError as error:
            # Cassandra gives up a transaction that has competed with others for too long.
            errors.append(error)
            return False

    with ThreadPoolExecutor(16) as pool:
        ends = [pool.submit(wait_for, work_to_the_end, 60, "the end of the job") for _ in range(16)]
        assert all(end.result() for end in ends)
    assert not overlaps
    assert jobs.steps.done == list(range(24))
    ended = jobs.find(job)
    assert (ended.state, ended.checkpoint, ended.rows_done, ended.bytes_done) == ("succeeded", 24, 48, 240)
    assert errors or (ended.attempts, ended.claim, ended.lease_until) == (1, 6, None)
    assert job.id in jobs.steps.cleaned
    assert not jobs.is_open(job)


def unexpected(job: Job) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("second_ends", [False, True])
@pytest.mark.parametrize(
    ("steps", "then"), [(3, lambda job: None), (1, lambda job: None), (3, hopeless), (3, unexpected)]
)
def test_worker_that_lost_its_claim_changes_nothing(
    jobs: EngineJobs, steps: int, then: Callable[[Job], None], second_ends: bool
) -> None:
    """The lease expires during a step. The late worker then has a checkpoint, an end, or an error to store."""
    job = jobs.create(steps)
    first_works, first_may_continue = threading.Event(), threading.Event()
    second_works, second_may_continue = threading.Event(), threading.Event()

    def late(job: Job) -> None:
        first_works.set()
        assert first_may_continue.wait(30)
        then(job)

    def blocked(job: Job) -> None:
        second_works.set()
        assert second_may_continue.wait(30)

    first, second = Steps(late), Steps(blocked)
    with ThreadPoolExecutor(2) as pool:
        late_work = pool.submit(jobs.work, job, steps=first, lease=0.2)
        assert first_works.wait(30)
        work = pool.submit(jobs.work_after_lease, job, steps=second)
        assert second_works.wait(30)
        if second_ends:
            second_may_continue.set()
            assert work.result() == "ended"
        claimed = jobs.find(job)
        first_may_continue.set()
        assert late_work.result() == "lost"
        assert jobs.find(job) == claimed
        second_may_continue.set()
        assert work.result() == "ended"
    ended = jobs.find(job)
    assert (ended.state, ended.rows_done, ended.claim, ended.attempts) == ("succeeded", 2 * steps, 2, 2)
    assert second.done == list(range(steps))
    assert not first.cleaned


def test_worker_that_must_stop_gives_its_lease_back(jobs: EngineJobs) -> None:
    job = jobs.create(steps=5)
    stopping = Engine({"steps": jobs.steps}, 30, timeout=10, should_stop=lambda: len(jobs.steps.done) == 3)
    assert stopping.work(jobs.session, job.id) == "continue"
    handed_over = jobs.find(job)
    assert (handed_over.state, handed_over.checkpoint, handed_over.lease_until) == ("running", 3, None)
    assert jobs.work(job) == "ended"
    assert jobs.steps.done == [0, 1, 2, 3, 4]
    ended = jobs.find(job)
    assert (ended.state, ended.attempts, ended.stalled) == ("succeeded", 1, 0)


def test_worker_that_must_stop_does_not_repeat_a_failing_step(jobs: EngineJobs) -> None:
    job = jobs.create()
    tries: list[int] = []

    def fail(job: Job) -> None:
        tries.append(job.checkpoint)
        raise StorageUnavailable("Some replicas are down.")

    stopping = Engine({"steps": Steps(fail)}, 30, timeout=10, should_stop=lambda: len(tries) == 2)
    assert stopping.work(jobs.session, job.id) == "continue"
    assert (tries, jobs.find(job).lease_until) == ([0, 0], None)
    assert jobs.work(job) == "ended"


# --- failures --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError(), "An unexpected error occurred (ZeroDivisionError)."),
        (StorageUnavailable("Some replicas are down."), "Some replicas are down."),
        (StorageTimeout("Cassandra did not answer."), "Cassandra did not answer."),
    ],
)
def test_job_fails_after_five_attempts_without_progress(jobs: EngineJobs, error: Exception, message: str) -> None:
    job = jobs.create()
    jobs.steps.before = failing(None, *[error] * 100)
    # There is no time for another try within the attempt.
    outcomes = [jobs.work(job, seconds=0.1) for _ in range(MAX_STALLED)]
    assert outcomes == ["later"] * 4 + ["ended"]
    failed = jobs.find(job)
    assert (failed.state, failed.failure, failed.attempts, failed.stalled) == ("failed", message, 5, 5)
    assert (failed.checkpoint, failed.lease_until) == (1, None)
    assert failed.finished_at is not None
    # A failed job keeps its chunks for a retry.
    assert not jobs.steps.cleaned
    assert not jobs.is_open(job)
    assert jobs.work(job) == "ended"
    assert jobs.find(job) == failed


@pytest.mark.usefixtures("no_backoff")
def test_progress_resets_the_number_of_attempts(jobs: EngineJobs) -> None:
    job = jobs.create(steps=2)
    error = ZeroDivisionError()
    jobs.steps.before = failing(*[error] * 4, None, *[error] * 4)
    assert [jobs.work(job) for _ in range(9)] == ["later"] * 8 + ["ended"]
    ended = jobs.find(job)
    assert (ended.state, ended.failure, ended.attempts, ended.stalled) == ("succeeded", None, 9, 0)


def test_job_whose_workers_are_killed_fails_after_five_attempts(jobs: EngineJobs) -> None:
    """The reason does not name an earlier error, after which the job made progress."""
    job = jobs.create()
    jobs.steps.before = failing(ZeroDivisionError())
    assert jobs.work(job) == "later"
    jobs.let_backoff_expire(job)
    jobs.steps.before = failing(None, *[Killed()] * MAX_STALLED)
    stopping = Engine({"steps": jobs.steps}, 30, timeout=10, should_stop=lambda: jobs.steps.done == [0])
    assert stopping.work(jobs.session, job.id) == "continue"
    for _ in range(MAX_STALLED):
        with pytest.raises(Killed):
            jobs.work_after_lease(job, lease=0.05)
    assert jobs.work_after_lease(job) == "ended"
    failed = jobs.find(job)
    assert (failed.state, failed.failure) == ("failed", "Workers ended 5 times without progress.")
    # The first attempt failed, the second one handed the job over to the first worker that was killed.
    assert (failed.attempts, failed.checkpoint, jobs.steps.done) == (6, 1, [0])
    assert not jobs.is_open(job)


def test_job_can_not_be_claimed_before_the_backoff_of_a_failed_attempt_has_passed(jobs: EngineJobs) -> None:
    """The backoff grows with each attempt: at least 2, 4, 8 and 16 s."""
    job = jobs.create()
    for stalled in range(1, MAX_STALLED):
        jobs.steps.before = unexpected
        before = now()
        assert jobs.work(job) == "later"
        waiting = jobs.find(job)
        assert (waiting.state, waiting.stalled) == ("queued", stalled)
        assert waiting.lease_until is not None
        assert waiting.lease_until - before >= timedelta(seconds=2**stalled)
        jobs.steps.before = failing()
        if waiting.lease_until > now():
            assert jobs.work(job) == "lost" or now() >= waiting.lease_until
        jobs.let_backoff_expire(job)
    assert jobs.work(job) == "ended"
    assert jobs.steps.done == [0, 1, 2, 3, 4]


def test_worker_keeps_its_claim_while_it_repeats_a_failing_step(jobs: EngineJobs) -> None:
    """It extends the lease, and pauses between the tries for less. Two seconds are the shortest lease."""
    job = jobs.create(steps=1)
    jobs.steps.before = failing(*[StorageUnavailable("Some replicas are down.")] * 20)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(jobs.work, job, lease=2)
        outcomes: set[Outcome] = set()
        wait_for(lambda: jobs.find(job).state != "queued", description="the claim")
        wait_for(lambda: work.done() or outcomes.add(jobs.work(job, steps=Steps())), 60, "the end of the job")
        assert work.result() == "ended"
    assert outcomes <= {"lost", "ended"}
    ended = jobs.find(job)
    assert (ended.state, ended.claim, ended.attempts, ended.stalled) == ("succeeded", 1, 1, 0)


@pytest.mark.usefixtures("checkpoint_after_each_step")
def test_worker_stores_its_checkpoint_when_cassandra_can_be_reached_again(
    jobs: EngineJobs, settings: Settings, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease has not expired, so it repeats the checkpoint and goes on."""
    behind_proxy = {"cassandra_port": proxy.port, "cassandra_reconnect_min": 0.1, "cassandra_reconnect_max": 0.2}
    own = db_connect.open_session(settings.model_copy(update=behind_proxy), settings.cassandra_keyspace)
    job = jobs.create(steps=5)
    jobs.steps.before = lambda job: proxy.disconnect() if job.checkpoint == 2 else None
    try:
        with caplog.at_level(logging.WARNING, "jobs.engine"), ThreadPoolExecutor(1) as pool:
            work = pool.submit(Engine({"steps": jobs.steps}, 60, timeout=10).work, own, job.id)
            wait_for(lambda: caplog.text.count("could not be stored") >= 2 or work.done(), description="two tries")
            proxy.reconnect()
            assert work.result() == "ended"
    finally:
        own.cluster.shutdown()
    ended = jobs.find(job)
    assert (ended.state, ended.attempts, ended.claim, jobs.steps.done) == ("succeeded", 1, 1, [0, 1, 2, 3, 4])


# --- cancellation and retry ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("checkpoint_after_each_step")
@pytest.mark.parametrize("last", [3, 9])
def test_cancellation_stops_a_running_job_after_its_step_for_good(jobs: EngineJobs, last: int) -> None:
    """The job has ten steps, so one of the cancellations comes during its last step."""
    job = jobs.create(steps=10)
    options = QueryOptions()
    jobs.steps.before = lambda job: job.checkpoint == last and cancel(jobs.session, job.id, options)
    assert jobs.work(job) == "lost"
    assert jobs.steps.done == list(range(last + 1))
    cancelled = jobs.find(job)
    assert (cancelled.state, cancelled.checkpoint, cancelled.lease_until) == ("cancelled", last, None)
    assert cancelled.finished_at is not None
    assert jobs.work(job) == "ended"
    assert jobs.steps.cleaned == [job.id]
    assert not jobs.is_open(job)
    with pytest.raises(JobEnded, match="its state is cancelled"):
        cancel(jobs.session, job.id, options)
    with pytest.raises(JobEnded, match="the state of this job is cancelled"):
        retry(jobs.session, job.id, options)
    assert jobs.find(job) == cancelled
    assert jobs.steps.done == list(range(last + 1))


def test_retry_of_a_failed_job_continues_at_its_checkpoint(jobs: EngineJobs) -> None:
    job = jobs.create(steps=5)
    jobs.steps.before = failing(None, None, None, StepFailed("The rows have expired."))
    assert jobs.work(job) == "ended"
    failed = jobs.find(job)
    assert (failed.state, failed.failure, failed.checkpoint) == ("failed", "The rows have expired.", 3)
    queued = retry(jobs.session, job.id, QueryOptions())
    assert jobs.find(job) == queued
    assert (queued.state, queued.failure, queued.finished_at, queued.checkpoint) == ("queued", None, None, 3)
    assert jobs.is_open(job)
    assert jobs.work(job) == "ended"
    assert jobs.steps.done == [0, 1, 2, 3, 4]
    ended = jobs.find(job)
    assert (ended.state, ended.rows_done, ended.bytes_done, ended.attempts) == ("succeeded", 10, 50, 2)
    assert jobs.steps.cleaned == [job.id]
    with pytest.raises(JobEnded, match="the state of this job is succeeded"):
        retry(jobs.session, job.id, QueryOptions())


def test_one_of_several_retries_at_the_same_time_succeeds(jobs: EngineJobs) -> None:
    job = jobs.create()
    jobs.steps.before = hopeless
    jobs.work(job)
    failed = jobs.find(job)

    def succeeds() -> bool:
        try:
            retry(jobs.session, job.id, QueryOptions())
        except JobEnded:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(succeeds) for _ in range(4)]
        assert sorted(result.result() for result in results) == [False, False, False, True]
    assert jobs.find(job).claim == failed.claim + 1
    assert jobs.is_open(job)


def test_job_of_an_unknown_kind_is_left_to_another_worker(jobs: EngineJobs) -> None:
    """During a release, the new version has it."""
    job = jobs.create()
    engine = Engine({}, lease=30, timeout=10)
    assert engine.work(jobs.session, job.id) == "later"
    given_back = jobs.find(job)
    assert (given_back.state, given_back.stalled) == ("queued", 1)
    assert given_back.failure == "This version of the service has no jobs of the kind steps."
    assert jobs.work_after_lease(job) == "ended"
    assert jobs.find(job).state == "succeeded"


def test_job_that_is_retried_during_its_cleanup_stays_in_the_list(
    jobs: EngineJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.create()

    def close_after_retry(session: Session, job_id: UUID, options: QueryOptions) -> None:
        retry(session, job_id, options)
        close_job(session, job_id, options)

    monkeypatch.setattr(engine, "close_job", close_after_retry)
    jobs.steps.before = hopeless
    assert jobs.work(job) == "ended"
    assert jobs.find(job).state == "queued"
    assert jobs.is_open(job)
