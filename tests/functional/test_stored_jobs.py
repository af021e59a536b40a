"""The rows of jobs and of their lists in a real Cassandra: when they expire, and pages of lists."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from cassandra.cluster import Session

from jobs.engine import Engine, cancel, retry
from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.db_io import jobs as stored
from storage.db_io.jobs import LIFETIME, OPEN, Job, change_job, create_job, find_job, list_jobs, new_job, open_job_ids
from storage.errors import RowNotFound, StorageTimeout
from tests.job_steps import EngineJobs, failing, hopeless
from tests.support import TcpProxy, wait_for

HOUR = 3600


@pytest.fixture
def jobs(session: Session) -> EngineJobs:
    return EngineJobs(session)


# --- expiry ----------------------------------------------------------------------------------------------------


def handed_over(jobs: EngineJobs, job: Job) -> None:
    stopping = Engine({"steps": jobs.steps}, 30, timeout=10, should_stop=lambda: bool(jobs.steps.done))
    assert stopping.work(jobs.session, job.id) == "continue"


def waiting(jobs: EngineJobs, job: Job) -> None:
    jobs.steps.before = failing(ZeroDivisionError())
    assert jobs.work(job) == "later"


def succeeded(jobs: EngineJobs, job: Job) -> None:
    assert jobs.work(job) == "ended"


def failed(jobs: EngineJobs, job: Job) -> None:
    jobs.steps.before = hopeless
    assert jobs.work(job) == "ended"


def retried(jobs: EngineJobs, job: Job) -> None:
    failed(jobs, job)
    retry(jobs.session, job.id, QueryOptions())


def cancelled(jobs: EngineJobs, job: Job) -> None:
    cancel(jobs.session, job.id, QueryOptions())


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda jobs, job: None, "queued"),
        (handed_over, "running"),
        (waiting, "queued"),
        (succeeded, "succeeded"),
        (failed, "failed"),
        (retried, "queued"),
        (cancelled, "cancelled"),
    ],
)
def test_all_columns_of_a_job_expire_thirty_days_after_its_creation(
    jobs: EngineJobs, change: Callable[[EngineJobs, Job], None], state: str
) -> None:
    """An upload may take an hour: the job is created at its beginning, and stored at its end."""
    job = jobs.create(age=HOUR)
    change(jobs, job)
    (lifetime,) = jobs.lifetimes(job)
    assert LIFETIME - HOUR - 120 < lifetime <= LIFETIME - HOUR
    assert jobs.find(job).state == state


def test_columns_of_a_job_expire_at_the_same_time_while_a_worker_has_it(jobs: EngineJobs) -> None:
    job = jobs.create(age=HOUR)
    lifetimes: list[set[int]] = []
    jobs.steps.before = lambda job: lifetimes.append(jobs.lifetimes(job))
    assert jobs.work(job) == "ended"
    assert [len(each) for each in lifetimes] == [1] * 5


@pytest.mark.parametrize("change", [lambda jobs, job: None, succeeded, retried])
def test_expired_jobs_leave_no_rows(
    jobs: EngineJobs, monkeypatch: pytest.MonkeyPatch, change: Callable[[EngineJobs, Job], None]
) -> None:
    """Neither of the job nor of its entries in lists."""
    monkeypatch.setattr(stored, "LIFETIME", 6)
    job = jobs.create()
    change(jobs, job)

    def rows() -> list[object]:
        found = list(jobs.session.execute("SELECT id FROM jobs WHERE id = %s", (job.id,)))
        for name in (jobs.owner, OPEN):
            found += jobs.session.execute("SELECT id FROM job_lists WHERE list = %s AND id = %s", (name, job.id))
        return found

    assert rows()
    wait_for(lambda: not rows(), description="the expiry of all rows")


def test_job_with_expired_columns_is_not_found(jobs: EngineJobs) -> None:
    """The columns of a row may expire one after the other."""
    job = jobs.create()
    jobs.session.execute("DELETE state FROM jobs WHERE id = %s", (job.id,))
    with pytest.raises(RowNotFound):
        jobs.find(job)
    assert list_jobs(jobs.session, jobs.owner, 10, None, QueryOptions()).rows == []


# --- lists -----------------------------------------------------------------------------------------------------


def pages(jobs: EngineJobs, limit: int) -> list[list[UUID]]:
    """Return the ids of the owner's jobs, by page."""
    found, paging_state = [], None
    while True:
        page = list_jobs(jobs.session, jobs.owner, limit, paging_state, QueryOptions())
        found.append([job.id for job in page.rows])
        paging_state = page.paging_state
        if paging_state is None:
            return found


def test_list_of_an_owner_has_its_own_jobs_newest_first(session: Session) -> None:
    one, other = EngineJobs(session), EngineJobs(session)
    own, others = [], []
    for number in range(5):
        own.append(one.create())
        if number % 2:
            others.append(other.create())
    one.work(own[4])
    cancel(session, own[3].id, QueryOptions())
    ids = [job.id for job in reversed(own)]
    assert pages(one, 2) == [ids[:2], ids[2:4], ids[4:]]
    assert pages(one, 10) == [ids]
    assert pages(other, 10) == [[job.id for job in reversed(others)]]
    assert pages(EngineJobs(session), 10) == [[]]


def test_page_without_its_expired_jobs_is_followed_by_the_next_one(jobs: EngineJobs) -> None:
    ids = [jobs.create().id for _ in range(5)][::-1]
    for expired in (ids[0], ids[1], ids[3]):
        jobs.session.execute("DELETE FROM jobs WHERE id = %s", (expired,))
    assert pages(jobs, 2) == [[], [ids[2]], [ids[4]]]


def test_sweep_reads_all_pages_of_the_list_of_open_jobs(jobs: EngineJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    created = {jobs.create().id for _ in range(5)}
    monkeypatch.setattr(jobs.session, "default_fetch_size", 2)
    found = open_job_ids(jobs.session, QueryOptions())
    assert created <= set(found)
    assert len(found) == len(set(found))


# --- unknown outcomes ------------------------------------------------------------------------------------------


@pytest.fixture
def behind_proxy(settings: Settings, proxy: TcpProxy) -> Iterator[Session]:
    """A session whose connections go through the proxy. It has prepared the statements of jobs."""
    own = db_connect.open_session(
        settings.model_copy(update={"cassandra_port": proxy.port}), settings.cassandra_keyspace
    )
    job = new_job("steps", "none", "prepared")
    create_job(own, job, QueryOptions())
    assert change_job(own, job, job._replace(claim=1), QueryOptions())
    find_job(own, job.id, QueryOptions())
    yield own
    proxy.resume()
    own.cluster.shutdown()


def test_change_whose_response_is_late_is_confirmed(jobs: EngineJobs, behind_proxy: Session, proxy: TcpProxy) -> None:
    """Cassandra changes the job, but answers after the timeout. A serial read then shows the change."""
    job = jobs.create()
    changed = job._replace(claim=1, state="running")
    proxy.pause(1.5)
    assert change_job(behind_proxy, job, changed, QueryOptions(timeout=1.0))
    assert jobs.find(job) == changed


def test_creation_whose_response_is_late_is_confirmed(
    jobs: EngineJobs, behind_proxy: Session, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = new_job("steps", "none", jobs.owner)
    # The entries of the lists are not late, because their timeout would be an error.
    execute = stored.execute

    def late(session: Session, statement: object, *arguments: object, **keywords: object) -> object:
        if statement is stored.INSERT_JOB:
            proxy.pause(1.5)
        return execute(session, statement, *arguments, **keywords)

    monkeypatch.setattr(stored, "execute", late)
    create_job(behind_proxy, job, QueryOptions(timeout=1.0))
    assert jobs.find(job) == job


def test_change_with_an_unknown_outcome_is_an_error(jobs: EngineJobs, behind_proxy: Session, proxy: TcpProxy) -> None:
    job = jobs.create()
    proxy.pause()
    with pytest.raises(StorageTimeout) as caught:
        change_job(behind_proxy, job, job._replace(claim=1), QueryOptions(deadline=time.monotonic() + 0.5))
    assert caught.value.may_have_applied
