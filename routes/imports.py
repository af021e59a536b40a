"""The import of a resource: rows from a file of any size. `routes.blueprint` adds it to each resource.

docs/imports.md describes imports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from flask import g, request

from jobs.documents import document
from jobs.imports.upload import TooManyRows, discard, store_upload
from routes.resource import Resource
from schemas.base import InvalidInput
from schemas.jobs import Imported, ImportQuery, JobDocument
from server.streamed_body import StreamedBody
from storage.db_io.jobs import create_job, find_job
from storage.db_io.versioned import VersionedTable
from storage.errors import StorageError
from web.background_jobs import current_engine, no_workers, not_completed, send
from web.dependencies import current_settings
from web.import_body import open_import
from web.openapi import responses
from web.responses import ResponseValue, location
from web.route_options import route_options

# An import of more rows becomes a background job.
MAX_ROWS = 10_000
# Seconds for which a request works on an import. Then a job worker continues.
_LONGEST = 20.0


IMPORT_OPTIONS: dict[str, Any] = {
    "responses": {**responses(200, Imported), **responses(202, JobDocument, headers=("Location",))},
    "summary": "Import rows",
}


def import_view(resource: Resource) -> Callable[..., ResponseValue]:
    """The view of `POST <resource>/import`."""

    # `import` can be a genus, so `/plant/import` is also a path of rows. It is no UUID, so `/users/import` is not.
    has_ids = isinstance(resource.table, VersionedTable)

    @route_options(scope="operator", upload=True, shares_path=not has_ids)
    def import_rows(query: ImportQuery) -> ResponseValue:
        """Import rows from NDJSON or CSV, up to 10,000 at once and more as a background job.

        The file is the body or the only part of a multipart form, and may be compressed with gzip (`Content-Encoding`).
        No row is written before all lines are checked.
        """
        settings = current_settings()
        has_workers = settings.broker_url is not None
        if query.background and not has_workers:
            raise no_workers()
        if g.options.consistency_level is not None:
            raise InvalidInput.at("header", "X-Consistency-Level", "An import uses the default consistency level")
        file = open_import(request, StreamedBody(request.environ).read, settings.max_import_bytes)
        try:
            upload = store_upload(
                g.session,
                resource,
                file.format,
                _until_deadline(file.chunks),
                g.caller.name,
                g.options,
                max_line=settings.max_body_bytes,
                max_rows=None if has_workers else MAX_ROWS,
            )
        except TooManyRows:
            raise no_workers() from None
        if query.strict and upload.failed:
            discard(g.session, upload.job, g.options)
            raise _invalid_lines(upload.failed, upload.errors)
        job = upload.job
        create_job(g.session, job, g.options)
        if not query.background and job.rows_total <= MAX_ROWS:
            # After an error, the job is continued.
            with suppress(StorageError):
                current_engine().work(g.session, job.id, _seconds_left())
                job = find_job(g.session, job.id, g.options, serial=True)
            if job.state == "succeeded":
                return {
                    "read": upload.read,
                    "written": job.rows_done,
                    "failed": upload.failed,
                    "errors": upload.errors,
                }, 200
            if not has_workers and not job.has_ended:
                raise not_completed(job)
        send(job)
        return document(job), 202, location("jobs.get_job", id=job.id)

    import_rows.__name__ = f"import_{resource.name}"
    return import_rows


def _until_deadline(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The bytes of the file. A small body may decompress to a large file, so each chunk is checked.

    :raises StorageTimeout: the client has sent a deadline, which has passed.
    """
    for chunk in chunks:
        g.options.remaining()
        yield chunk


def _seconds_left() -> float:
    """Seconds for which this request works on its import."""
    return _LONGEST if g.options.deadline is None else min(_LONGEST, g.options.remaining())


def _invalid_lines(count: int, errors: list[dict[str, Any]]) -> InvalidInput:
    found = [
        {"loc": ["body", each["line"], *each["loc"]], "msg": each["msg"], "type": "value_error"} for each in errors
    ]
    return InvalidInput(found, count)
