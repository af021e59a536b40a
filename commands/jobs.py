"""`flask --app api jobs`: list, show, cancel and retry background jobs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, get_args
from uuid import UUID

import click

from commands.database import CommandError, database
from commands.driver import require_supported_driver
from jobs import engine
from jobs.documents import document
from jobs.messages import send_work
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.jobs import ENDED, OPEN, Job, State, find_job, list_jobs
from storage.errors import RowNotFound

_PAGE = 100

_job_argument = click.argument("job_id", metavar="JOB", type=click.UUID)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")


@click.group("jobs")
def group() -> None:
    """List, show, cancel and retry background jobs.

    \b
    Exit status: 0 success; 1 the command failed; 2 wrong usage or settings.
    """
    require_supported_driver()


@group.command("list")
@click.option("--owner", help="Jobs of this caller, such as anonymous. By default all jobs that have not ended.")
@click.option("--state", type=click.Choice(get_args(State)), help="Only jobs in this state.")
@_json_option
def list_command(owner: str | None, state: str | None, as_json: bool) -> None:
    """Print jobs, newest first. Without --owner, those that have not ended."""
    if owner is None and state in ENDED:
        raise click.UsageError(f"--state {state} needs --owner: only their owners have lists of jobs that have ended.")
    with database() as (session, _, options):
        jobs = [job for job in _jobs(session, owner or OPEN, options) if state in (None, job.state)]
    if as_json:
        click.echo(json.dumps({"jobs": list(map(_document, jobs))}, indent=2))
    else:
        for job in jobs:
            click.echo(_line(job))
        if not jobs and owner is None:
            click.echo("No job is open. Jobs that have ended: --owner anonymous, or another caller.", err=True)


@group.command("show")
@_job_argument
@_json_option
def show(job_id: UUID, as_json: bool) -> None:
    """Print one job with its errors."""
    with database() as (session, _, options):
        _print(find(session, job_id, options), as_json)


@group.command("cancel")
@_job_argument
def cancel(job_id: UUID) -> None:
    """Cancel a job. Rows that it has written stay."""
    _change(job_id, engine.cancel)
    click.echo(f"cancelled {job_id}")


@group.command("retry")
@_job_argument
def retry(job_id: UUID) -> None:
    """Queue a failed job again. It continues after its last checkpoint."""
    _change(job_id, engine.retry)
    click.echo(f"queued {job_id}")


def _change(job_id: UUID, change: Callable[[Session, UUID, QueryOptions], Job]) -> None:
    with database() as (session, settings, options):
        find(session, job_id, options)
        try:
            change(session, job_id, options)
        except engine.JobEnded as error:
            raise CommandError(str(error)) from None
        send_work(settings, job_id)


def _jobs(session: Session, name: str, options: QueryOptions) -> Iterator[Job]:
    paging_state = None
    while True:
        page = list_jobs(session, name, _PAGE, paging_state, options)
        yield from page.rows
        paging_state = page.paging_state
        if paging_state is None:
            return


def find(session: Session, job_id: UUID, options: QueryOptions) -> Job:
    """Read a job after all changes so far.

    :raises CommandError: there is no such job.
    """
    try:
        return find_job(session, job_id, options, serial=True)
    except RowNotFound:
        raise CommandError(f"There is no job {job_id}.") from None


def _document(job: Job) -> dict[str, Any]:
    return document(job) | {"owner": job.owner, "worker": job.worker}


def _print(job: Job, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_document(job), indent=2))
        return
    click.echo(_line(job))
    if job.failure:
        click.echo(f"  {job.failure}")
    for error in document(job)["errors"]:
        click.echo(f"  line {error['line']}: {'.'.join(map(str, error['loc']))} {error['msg']}")


def _line(job: Job) -> str:
    found = document(job)
    return (
        f"{job.id}  {job.kind} {job.resource}  {job.state}  {found['percent']} %  "
        f"{job.rows_done} of {job.rows_total} rows  {found['created_at']}  {job.owner}"
    )
