"""Background jobs as routes use them: the engine of this application, and messages to the job workers."""

from __future__ import annotations

from collections.abc import Iterable

from flask import Flask, current_app
from werkzeug.exceptions import ServiceUnavailable

from jobs.engine import Engine
from jobs.imports.kind import kinds_of_jobs
from jobs.imports.upload import Importable
from jobs.messages import send_work
from settings import Settings
from storage.db_io.jobs import Job
from web.dependencies import current_settings

_ENGINE = "fieldbook.engine"


def register(app: Flask, settings: Settings, resources: Iterable[Importable]) -> None:
    """Create the engine that works on jobs during a request."""
    app.extensions[_ENGINE] = Engine(kinds_of_jobs(resources), settings.job_lease, settings.request_timeout)


def current_engine() -> Engine:
    """The engine of the current application."""
    engine: Engine = current_app.extensions[_ENGINE]
    return engine


def no_workers() -> ServiceUnavailable:
    """The error of a request that needs a job worker: CELERY_BROKER_URL is not set in production."""
    return ServiceUnavailable(
        "This service has no background jobs: CELERY_BROKER_URL is not set. Import at most 10,000 rows at a time, "
        "without background=1."
    )


def not_completed(job: Job) -> ServiceUnavailable:
    """The error of an import that no job worker will complete."""
    return ServiceUnavailable(
        f"Cassandra has not accepted all rows in time, and this service has no background jobs. An operator completes "
        f"the import: flask --app api import {job.resource} --resume {job.id}"
    )


def send(job: Job) -> None:
    """Tell the job workers to work on a job. If that fails, a sweep finds the job."""
    send_work(current_settings(), job.id)
