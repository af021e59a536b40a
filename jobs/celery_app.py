"""The configuration of Celery, for job workers and for processes that send messages to them.

A message says "work on job X". State and progress of a job are in Cassandra, so a message may be lost or arrive twice:
workers acknowledge it before they work, and there is no result backend.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from jobs.engine import SLICE
from settings import PROJECT, Settings, SettingsError

# Seconds for which a process that sends a message waits for the broker to connect, and to answer.
_SEND_TIMEOUT = 1.0
# The same for a worker, which has nothing else to do without the broker.
_RECEIVE_TIMEOUT = 10.0

TRANSPORT_ALIASES["filesystem"] = "jobs.file_transport:Transport"


def sweep_interval(settings: Settings) -> float:
    """Seconds between two sweeps: a job is found at most this long after its lease has expired."""
    return max(1.0, settings.job_lease / 2)


def files_of_messages(settings: Settings) -> Path:
    """The directory of messages in development. Services with different keyspaces do not share messages."""
    return PROJECT / ".fieldbook" / "jobs" / settings.cassandra_keyspace


def application(settings: Settings, *, sends_only: bool = False) -> Celery:
    """A Celery application without tasks.

    :param sends_only: the process only sends messages. Sending fails soon if the broker does not answer.
    :raises SettingsError: there is no broker.
    """
    url = settings.broker_url
    if url is None:
        raise SettingsError(
            "CELERY_BROKER_URL is required when APP_ENV=production, which is the default. It must be the "
            "same for all instances and job workers."
        )
    app = Celery("fieldbook", set_as_current=not sends_only)
    interval = sweep_interval(settings)
    app.conf.update(
        broker_url=url,
        broker_use_ssl=_tls_options(url),
        broker_transport_options=_transport_options(settings, url, sends_only),
        broker_connection_timeout=_SEND_TIMEOUT if sends_only else _RECEIVE_TIMEOUT,
        broker_connection_retry_on_startup=True,
        # None: a worker tries to connect until it succeeds.
        broker_connection_max_retries=None,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_default_queue="fieldbook",
        # Messages between workers and for Flower would fill the directory.
        worker_enable_remote_control=not url.startswith("filesystem:"),
        timezone="UTC",
        worker_pool="prefork",
        worker_concurrency=settings.job_concurrency,
        worker_prefetch_multiplier=1,
        # A busy machine may need longer than the default of 4 s to start a process.
        worker_proc_alive_timeout=60.0,
        # Ends a process that hangs. Every query has a deadline, so a slice normally ends long before this limit.
        task_time_limit=SLICE + 2 * settings.job_lease + 60,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        beat_schedule={
            # While the workers are busy or away, further sweeps would only wait behind each other.
            "sweep": {"task": "sweep", "schedule": interval, "options": {"expires": 2 * interval}}
        },
        # In memory. The default scheduler stores the time of its last message in a file.
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=interval,
    )
    return app


def _tls_options(url: str) -> dict[str, Any] | None:
    """Check the certificate of the broker and its host name, before the password is sent.

    By default, kombu checks nothing for Redis, whatever the URL says, and not the host name for RabbitMQ.
    """
    if url.startswith("rediss:"):
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    if url.startswith("amqps:"):
        # None stands for the host name in the URL.
        return {"server_hostname": None}
    return None


def _transport_options(settings: Settings, url: str, sends_only: bool) -> dict[str, Any]:
    timeout = _SEND_TIMEOUT if sends_only else _RECEIVE_TIMEOUT
    # Without these, kombu tries to connect 100 times while it sends a message.
    options: dict[str, Any] = {"max_retries": 0, "connect_retries_timeout": timeout}
    if url.startswith("filesystem:"):
        files = files_of_messages(settings)
        messages, control = files / "messages", files / "control"
        for directory in (messages, control):
            directory.mkdir(parents=True, exist_ok=True)
        return options | {
            "data_folder_in": str(messages),
            "data_folder_out": str(messages),
            "control_folder": str(control),
            "polling_interval": 0.2,
        }
    if url.startswith("redis"):
        return options | {"socket_connect_timeout": timeout, "socket_timeout": timeout, "health_check_interval": 10}
    # RabbitMQ. A worker has heartbeats instead of a limit for its reads.
    return options | ({"read_timeout": timeout, "write_timeout": timeout} if sends_only else {})
