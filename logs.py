"""Log lines: one format for the service, gunicorn and the driver, each with the id of its request."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from typing import Any

# A context variable and not flask.g, because a stream's rows go out after the request's context is gone.
request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _IdleClients(logging.Filter):
    """The socket time-outs of gunicorn.conf.py are an error and a traceback to gunicorn; it is the client's doing."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == "gunicorn.error" and record.exc_info and isinstance(record.exc_info[1], BlockingIOError):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "A client sent or took nothing for too long: its connection is closed.", ()
            record.exc_info = None
        return True


class _UtcFormatter(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_msec_format = "%s.%03dZ"
    default_time_format = "%Y-%m-%dT%H:%M:%S"


def config(level: str) -> dict[str, Any]:
    """For `logging.config.dictConfig` and gunicorn's `logconfig_dict`."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": _RequestId}, "idle_clients": {"()": _IdleClients}},
        "formatters": {
            "line": {"()": _UtcFormatter, "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["request_id", "idle_clients"],
            },
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "cassandra": {"level": "WARNING"},
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }
