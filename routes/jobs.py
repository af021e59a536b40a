"""Background jobs: progress, cancellation and retry.

An account can use its own jobs only. An operator can use all jobs by their id, but lists only the operator's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

import orjson
from flask import Response, g
from werkzeug.exceptions import Conflict

from jobs import engine
from jobs.documents import document
from routes.blueprint import Blueprint
from schemas.jobs import JobDocument, JobListQuery, JobPath
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.jobs import Job, find_job, list_jobs
from storage.errors import RowNotFound
from web import pagination
from web.background_jobs import send
from web.media_types import JSON
from web.openapi import error_response, responses
from web.responses import ResponseValue, location
from web.route_options import route_options
from web.uuids import parse_uuid

blueprint = Blueprint("jobs", __name__)


@blueprint.get("/jobs", responses=responses(200, JobDocument, many=True, headers=("Link",)))
@route_options(private=True)
def get_jobs(query: JobListQuery) -> Response:
    """One page of the caller's own jobs, newest first. With `state`, a page may have fewer jobs than `limit`."""
    page = list_jobs(g.session, g.caller.name, query.limit, pagination.requested_paging_state(), _options())
    jobs = [document(job) for job in page.rows if query.state in (None, job.state)]
    response = Response(orjson.dumps(jobs), content_type=JSON)
    pagination.add_link(response, page.paging_state)
    return response


@blueprint.get("/jobs/<id>", responses=responses(200, JobDocument, 404))
@route_options(private=True)
def get_job(path: JobPath) -> ResponseValue:
    """The state and progress of one job."""
    return document(_visible_job(path))


@blueprint.delete(
    "/jobs/<id>",
    responses={**responses(202, JobDocument, 404), 409: error_response(409, "The job has ended")},
)
def delete_job(path: JobPath) -> ResponseValue:
    """Cancel a job. Rows that it has written stay."""
    return document(_change(path, engine.cancel)), 202


@blueprint.post(
    "/jobs/<id>/retry",
    responses={
        **responses(202, JobDocument, 404, headers=("Location",)),
        409: error_response(409, "The job has not failed"),
    },
)
def retry_job(path: JobPath) -> ResponseValue:
    """Queue a failed job again. It continues where it stopped."""
    job = _change(path, engine.retry)
    return document(job), 202, location("jobs.get_job", id=job.id)


def _change(path: JobPath, change: Callable[[Session, UUID, QueryOptions], Job]) -> Job:
    """Change a job of the caller, and send a message for it.

    :raises Conflict: the job is in another state.
    """
    try:
        job = change(g.session, _visible_job(path).id, _options())
    except engine.JobEnded as error:
        raise Conflict(str(error)) from None
    send(job)
    return job


def _options() -> QueryOptions:
    # X-Consistency-Level is for rows of resources, not for jobs.
    return replace(g.options, consistency_level=None)


def _visible_job(path: JobPath) -> Job:
    """The job, unless it belongs to another account.

    :raises RowNotFound: there is no such job, or the caller may not see it.
    """
    job = find_job(g.session, parse_uuid(path.id), _options())
    if job.owner != g.caller.name and not g.caller.has("operator"):
        raise RowNotFound("Job not found")
    return job
