"""Logging: one line format, with the request id, for the service, gunicorn and the driver."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

# A context variable instead of flask.g, because Flask's request context ends before the rows of a stream are sent.
request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _RequestIdFilter(logging.Filter):
    """Adds the id of the current request to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _DriverTracebackFilter(logging.Filter):
    """Replaces the tracebacks that the driver logs for expected errors by one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and record.name.split(".")[0] == "cassandra":
            # The driver logs a traceback for each attempt of each pool to reach a node that is down.
            record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {error})", ()
            record.exc_info = None
        return True


class _BatchWarningFilter(logging.Filter):
    """Drops Cassandra's warnings about batches.

    Imports write large unlogged batches on purpose (storage/cql/bulk_write.py). Cassandra sends a warning with each.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "Unlogged batch covering" not in message and "Server warning: Batch for" not in message


class _UtcFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        return f"{_format_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _format_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def config(level: str) -> dict[str, Any]:
    """The logging configuration.

    For `logging.config.dictConfig` and gunicorn's `logconfig_dict`. As a side effect, a format can't show the source
    line (`%(pathname)s`, `%(lineno)d`, `%(funcName)s`) and the name of the process any more.

    :param level: name of the lowest level to log.
    """
    # Collecting them costs 2 µs a line, more than the rest of the record. Process id and thread cost 0.5 µs.
    # Source: "Optimization" in Python's logging HOWTO.
    logging._srcfile = None
    logging.logMultiprocessing = False
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {
            "request_id": {"()": _RequestIdFilter},
            "driver_tracebacks": {"()": _DriverTracebackFilter},
            "batch_warnings": {"()": _BatchWarningFilter},
        },
        "formatters": {
            "line": {"()": _UtcFormatter, "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["request_id", "driver_tracebacks"],
            },
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "cassandra": {"level": "WARNING"},
            "cassandra.protocol": {"filters": ["batch_warnings"]},
            # The engine writes a line for each job.
            "celery": {"level": "WARNING"},
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
        },
    }
