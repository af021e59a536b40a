"""Background jobs. Every change of a job is a lightweight transaction.

docs/imports.md explains how workers share the jobs.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Literal, NamedTuple
from uuid import UUID, uuid1

from cassandra.cluster import Session

from storage.cql import Page, QueryOptions, Statement, execute, execute_concurrently, stream
from storage.cql.consistency import serial_level
from storage.db_io.versioned import can_be_settled, now
from storage.errors import RowNotFound, StorageError, StorageTimeout

# Seconds from the creation of a job until its row expires.
LIFETIME = 30 * 86400
# The jobs that have not ended, of all owners. No owner has this name.
OPEN = "open"

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("succeeded", "failed", "cancelled")


class Job(NamedTuple):
    """A row of `jobs`. The migration 0008_jobs.cql explains its columns."""

    id: Annotated[UUID, "timeuuid"]
    kind: Annotated[str, "text"]
    resource: Annotated[str, "text"]
    owner: Annotated[str, "text"]
    state: Annotated[State, "text"]
    created_at: Annotated[datetime, "timestamp"]
    started_at: Annotated[datetime | None, "timestamp"] = None
    finished_at: Annotated[datetime | None, "timestamp"] = None
    claim: Annotated[int, "int"] = 0
    attempts: Annotated[int, "int"] = 0
    stalled: Annotated[int, "int"] = 0
    lease_until: Annotated[datetime | None, "timestamp"] = None
    worker: Annotated[str | None, "text"] = None
    chunks: Annotated[int, "int"] = 0
    checkpoint: Annotated[int, "int"] = 0
    rows_total: Annotated[int, "bigint"] = 0
    rows_done: Annotated[int, "bigint"] = 0
    rows_failed: Annotated[int, "bigint"] = 0
    bytes_total: Annotated[int, "bigint"] = 0
    bytes_done: Annotated[int, "bigint"] = 0
    errors: Annotated[str, "text"] = "[]"
    failure: Annotated[str | None, "text"] = None

    @property
    def has_ended(self) -> bool:
        """Whether no worker works on the job any more."""
        return self.state in ENDED

    @property
    def timestamp(self) -> int:
        """The creation time in microseconds: the latest write timestamp of the rows that the job writes."""
        return round(self.created_at.timestamp() * 1000) * 1000


INSERT_JOB = Statement(
    "insert_job",
    "INSERT INTO {keyspace}.jobs ({columns}) VALUES ({values}) IF NOT EXISTS USING TTL ?",
    Job._fields,
    kind="lwt",
    idempotent=False,
)
SELECT_JOB = Statement("select_job", "SELECT {columns} FROM {keyspace}.jobs WHERE id = ?", Job._fields)
# Set all columns, so that all of them expire at the same time.
UPDATE_JOB = Statement(
    "update_job",
    "UPDATE {keyspace}.jobs USING TTL ? SET {assignments} WHERE id = ? IF claim = ? AND checkpoint = ?",
    Job._fields[1:],
    kind="lwt",
    idempotent=False,
)
INSERT_INTO_LIST = Statement(
    "insert_into_job_list",
    "INSERT INTO {keyspace}.job_lists (list, id) VALUES (?, ?) USING TTL ?",
    kind="write",
)
SELECT_LIST = Statement("select_job_list", "SELECT id FROM {keyspace}.job_lists WHERE list = ?")
DELETE_FROM_LIST = Statement(
    "delete_from_job_list", "DELETE FROM {keyspace}.job_lists WHERE list = ? AND id = ?", kind="write"
)


def new_job(kind: str, resource: str, owner: str) -> Job:
    """A job that is not stored yet."""
    return Job(uuid1(), kind, resource, owner, "queued", now())


def create_job(session: Session, job: Job, options: QueryOptions) -> None:
    """Store a new job.

    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """
    # The lists come first: an entry without a job is harmless, but a job without an entry would never be found.
    for name in (job.owner, OPEN):
        execute(session, INSERT_INTO_LIST, (name, job.id, _seconds_left(job)), options)
    try:
        execute(session, INSERT_JOB, (*job, _seconds_left(job)), options)
    except StorageTimeout as error:
        if not _is_stored(session, job, error, options):
            raise


def find_job(session: Session, job_id: UUID, options: QueryOptions, *, serial: bool = False) -> Job:
    """Read a job.

    :param serial: after all changes so far.
    :raises RowNotFound: there is no such job, or it has expired.
    """
    if job_id.version != 1:
        # Cassandra rejects it as a value of the column.
        raise RowNotFound("Job not found")
    if serial:
        options = replace(options, consistency_level=serial_level(session))
    job = _job(execute(session, SELECT_JOB, (job_id,), options))
    if job is None:
        raise RowNotFound("Job not found")
    return job


def change_job(session: Session, before: Job, after: Job, options: QueryOptions) -> bool:
    """Change a job.

    :param before: as it was read, or last written.
    :returns: false if another process has claimed or changed the job since, so that nothing was changed.
    :raises StorageTimeout: with `may_have_applied` if the outcome is not known.
    """
    values = (_seconds_left(before), *after[1:], before.id, before.claim, before.checkpoint)
    try:
        return bool(execute(session, UPDATE_JOB, values, options).rows[0][0])
    except StorageTimeout as error:
        if _is_stored(session, after, error, options):
            return True
        raise


def list_jobs(session: Session, name: str, limit: int, paging_state: bytes | None, options: QueryOptions) -> Page:
    """Read one page of a list of jobs, newest first.

    :param name: an owner, or `OPEN`.
    :returns: at most `limit` jobs; fewer if some have expired.
    :raises PagingStateRefused: the server does not accept the paging state.
    """
    page = execute(session, SELECT_LIST, (name,), options, fetch_size=limit, paging_state=paging_state)
    found = execute_concurrently(session, SELECT_JOB, page.rows, options)
    for each in found:
        if isinstance(each, StorageError):
            raise each
    jobs = [_job(each) for each in found if isinstance(each, Page)]
    return Page([job for job in jobs if job is not None], page.paging_state)


def open_job_ids(session: Session, options: QueryOptions) -> list[UUID]:
    """Read the ids in the list of jobs that have not ended."""
    with stream(session, SELECT_LIST, (OPEN,), options) as pages:
        return [job_id for page in pages for (job_id,) in page]


def close_job(session: Session, job_id: UUID, options: QueryOptions) -> None:
    """Remove a job that has ended from the list of jobs that have not ended."""
    execute(session, DELETE_FROM_LIST, (OPEN, job_id), options)


def reopen_job(session: Session, job_id: UUID, options: QueryOptions) -> None:
    """Add a job to the list of jobs that have not ended."""
    execute(session, INSERT_INTO_LIST, (OPEN, job_id, LIFETIME), options)


def _seconds_left(job: Job) -> int:
    """The TTL of the rows of a job. Cassandra would never delete a row with a TTL of 0."""
    return max(1, LIFETIME - int((now() - job.created_at).total_seconds()))


def _is_stored(session: Session, job: Job, error: StorageTimeout, options: QueryOptions) -> bool:
    """Whether a serial read proves that a transaction with an unknown outcome has stored the job."""
    if can_be_settled(session, error, options):
        with suppress(StorageError):
            return find_job(session, job.id, options, serial=True) == job
    return False


def _job(page: Page) -> Job | None:
    # The columns of a row that is about to expire may expire one after the other.
    if not page.rows or None in (page.rows[0][1], page.rows[0][4]):
        return None
    return Job._make(page.rows[0])
