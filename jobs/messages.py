"""Messages to job workers.

Celery is imported when the first message is sent, so that a process that sends none does not pay for it.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import TYPE_CHECKING, Literal
from uuid import UUID

from observability import metrics
from settings import Settings

if TYPE_CHECKING:
    from celery import Celery

log = logging.getLogger(__name__)

# After a fork, the child makes an application of its own, because the sockets of the copied one belong to the parent.
# This list keeps the copy from garbage collection, which would close the connections for the parent too.
_applications: list[Celery] = []


def send_work(settings: Settings, job_id: UUID, expires: float | None = None) -> bool:
    """Tell the job workers that a job needs one of them. Any thread may call this function, before or after a fork.

    It never raises, and waits for the broker for about two seconds at most. The sweep finds a job whose message is
    lost.

    :param expires: seconds until the message has no effect, if no worker has received it.
    :returns: whether the message was sent; false in production without a broker.
    """
    return _send(settings, "work", (str(job_id),), expires)


def send_sweep(settings: Settings, expires: float) -> bool:
    """Tell the job workers that one of them should look for jobs that need a worker; like :func:`send_work`."""
    return _send(settings, "sweep", (), expires)


def _send(
    settings: Settings,
    task: Literal["work", "sweep"],
    arguments: tuple[str, ...],
    expires: float | None,
) -> bool:
    if settings.broker_url is None:
        return False
    try:
        app = _application(settings)
        app.send_task(task, arguments, expires=expires, retry=False)
    except Exception as error:
        log.warning("A message to the job workers could not be sent. The next sweep finds jobs that wait: %s", error)
        metrics.JOB_MESSAGES_FAILED.inc()
        return False
    return True


@cache
def _application(settings: Settings) -> Celery:
    from jobs.celery_app import application

    app = application(settings, sends_only=True)
    _applications.append(app)
    return app


os.register_at_fork(after_in_child=_application.cache_clear)
