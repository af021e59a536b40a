"""`flask --app api import RESOURCE FILE`: import a file without HTTP."""

from __future__ import annotations

import gzip
import json
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from uuid import UUID

import click

from commands.database import CommandError, database
from commands.driver import require_supported_driver
from commands.jobs import find
from jobs.documents import document
from jobs.engine import Engine
from jobs.imports.kind import kinds_of_jobs
from jobs.imports.records import FileError, FileFormat, format_of_name
from jobs.imports.upload import Upload, discard, store_upload
from jobs.messages import send_work
from routes import RESOURCES
from settings import Settings
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_initialize import server
from storage.db_io.jobs import Job, create_job

# Bytes that are read at a time.
_CHUNK = 64 * 1024
# The owner of the jobs in the list of jobs.
_OWNER = "command line"


class _Stop:
    """Becomes true with the first SIGINT or SIGTERM; the second one has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        self._handlers = {number: signal.signal(number, self._set) for number in (signal.SIGINT, signal.SIGTERM)}

    def _set(self, number: int, frame: object) -> None:
        self.requested = True
        for each, handler in self._handlers.items():
            signal.signal(each, handler)


@click.command("import")
@click.argument("resource", type=click.Choice([each.name for each in RESOURCES if "import" in each.operations]))
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--format", "file_format", type=click.Choice(["csv", "ndjson"]), help="By default that of the suffix.")
@click.option("--strict", is_flag=True, help="Write nothing unless every line is valid.")
@click.option("--background", is_flag=True, help="Only check and store the rows; a job worker writes them.")
@click.option("--resume", "job_id", type=click.UUID, metavar="JOB", help="Continue an import that was interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def command(
    resource: str,
    file: BinaryIO | None,
    file_format: FileFormat | None,
    strict: bool,
    background: bool,
    job_id: UUID | None,
    as_json: bool,
) -> None:
    """Import the rows of FILE (NDJSON or CSV; .gz too; - for standard input) into RESOURCE.

    All lines are checked before the first row is written. An interrupted import can be continued with --resume, or by a
    job worker.

    \b
    Exit status: 0 all rows are written; 1 the command failed, or lines are not valid; 2 wrong usage or settings.
    """
    require_supported_driver()
    if (file is None) == (job_id is None):
        raise click.UsageError("Give either FILE or --resume JOB.")
    with database() as (session, settings, options):
        # With other settings than the service, the command would write to another cluster.
        click.echo(f"Importing {resource} into {settings.cassandra_keyspace} at {server(settings)}", err=True)
        if job_id is not None:
            job = find(session, job_id, options)
            if job.resource != resource:
                raise CommandError(f"The job {job_id} is an import of {job.resource}, not of {resource}.")
        else:
            upload = _store(session, settings, resource, cast(BinaryIO, file), file_format, options)
            job = upload.job
            if strict and upload.failed:
                discard(session, job, options)
                _print_errors(upload.errors, as_json)
                raise CommandError(f"{upload.failed} of {upload.read} lines are not valid. Nothing was written.")
            create_job(session, job, options)
        if background:
            if not send_work(settings, job.id):
                click.echo("No message could be sent to the job workers: the next sweep finds the job.", err=True)
        else:
            job = _run(session, settings, job, options)
    _report(job, as_json)


def _store(
    session: Session,
    settings: Settings,
    name: str,
    file: BinaryIO,
    file_format: FileFormat | None,
    options: QueryOptions,
) -> Upload:
    """Check the file and store its valid rows in chunks."""
    resource = next(each for each in RESOURCES if each.name == name)
    path = getattr(file, "name", "").lower()
    is_compressed = path.endswith(".gz")
    file_format = file_format or format_of_name(path.removesuffix(".gz"))
    if file_format is None:
        raise click.UsageError("The format does not follow from the name of the file: give --format csv or ndjson.")
    source = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if is_compressed else file
    with _progress("Checking", _size(file)) as update:

        def chunks() -> Iterator[bytes]:
            while data := source.read(_CHUNK):
                yield data
                update(file.tell() if file.seekable() else 0)

        try:
            return store_upload(
                session, resource, file_format, chunks(), _OWNER, options, max_line=settings.max_body_bytes
            )
        except FileError as error:
            raise CommandError(f"Line {error.line}: {error.msg} Nothing was written.") from None
        except (OSError, EOFError, zlib.error) as error:
            raise CommandError(f"The file can't be read: {error}. Nothing was written.") from None


def _run(session: Session, settings: Settings, job: Job, options: QueryOptions) -> Job:
    """Work on the job until it has ended."""
    stop = _Stop()
    outcome = None
    with _progress("Writing", job.rows_total) as update:
        engine = Engine(
            kinds_of_jobs(RESOURCES),
            settings.job_lease,
            settings.request_timeout,
            should_stop=lambda: stop.requested,
            on_step=lambda job: update(job.rows_done),
        )
        while not job.has_ended:
            outcome = engine.work(session, job.id)
            job = find(session, job.id, options)
            if stop.requested or outcome in ("lost", "later"):
                break
    if outcome == "lost" and not job.has_ended:
        raise CommandError(
            f"A worker has the job {job.id}, or had it less than {settings.job_lease:g} s ago (JOB_LEASE). See "
            f"flask --app api jobs show {job.id}, or run this command again later."
        )
    if not job.has_ended:
        raise CommandError(
            f"The import has stopped: {job.rows_done} of {job.rows_total} rows are written. A job worker continues it, "
            f"or: flask --app api import {job.resource} --resume {job.id}"
        )
    return job


def _size(file: BinaryIO) -> int:
    """The size of a file in bytes; 0 if it is not known."""
    if not file.seekable():
        return 0
    size = file.seek(0, 2)
    file.seek(0)
    return size


@contextmanager
def _progress(label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal. Yield a function that takes how much of `length` is done."""
    if not sys.stderr.isatty() or not length:
        yield lambda done: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)


def _report(job: Job, as_json: bool) -> None:
    found = document(job)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _print_errors(found["errors"], as_json)
        click.echo(f"{job.id}  {job.state}: {job.rows_done} rows written, {job.rows_failed} lines not valid")
    if job.failure:
        click.echo(job.failure, err=True)
    if job.rows_failed or job.state in ("failed", "cancelled"):
        sys.exit(1)


def _print_errors(errors: list[dict[str, Any]], as_json: bool) -> None:
    if not as_json:
        for error in errors:
            click.echo(f"line {error['line']}: {'.'.join(map(str, error['loc']))} {error['msg']}", err=True)
