"""Background jobs as routes use them: the engine of this application, and messages to the job workers."""

from __future__ import annotations

from typing import Any

from flask import Flask, current_app
from werkzeug.exceptions import ServiceUnavailable

from jobs.engine import Engine
from jobs.imports.kind import Imports
from jobs.messages import send_work
from settings import Settings
from storage.cql import Table
from storage.db_io.jobs import Job
from web.dependencies import current_settings

_ENGINE = "fieldbook.engine"


def register(app: Flask, settings: Settings, tables: dict[str, Table[Any]]) -> None:
    """Create the engine that works on jobs during a request.

    :param tables: those that rows can be imported into, by the name of the resource.
    """
    app.extensions[_ENGINE] = Engine({"import": Imports(tables)}, settings.job_lease, settings.request_timeout)


def current_engine() -> Engine:
    """The engine of the current application."""
    engine: Engine = current_app.extensions[_ENGINE]
    return engine


def require_workers() -> None:
    """Reject a request that needs a job worker if the service has no broker.

    :raises ServiceUnavailable: CELERY_BROKER_URL is not set in production.
    """
    if current_settings().broker_url is None:
        raise ServiceUnavailable(
            "This service has no background jobs: CELERY_BROKER_URL is not set. Import at most 10,000 rows at a time."
        )


def send(job: Job) -> None:
    """Tell the job workers to work on a job. If that fails, they find the job by themselves after some time."""
    if current_settings().broker_url is not None:
        send_work(current_settings(), job.id)
