"""Log lines: one format for the service, gunicorn and the driver, each with the id of its request."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

# A context variable and not flask.g, because a stream's rows go out after the request's context is gone.
request_id: ContextVar[str] = ContextVar("request_id", default="-")


class _RequestId(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _ForeignTracebacks(logging.Filter):
    """Leaves out tracebacks through other people's code that say nothing which their message does not."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if record.name == "gunicorn.error" and isinstance(error, BlockingIOError):
            # The time-outs that gunicorn.conf.py has set on the sockets. Not a fault of gunicorn's, as it thinks.
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "A client sent or took nothing for too long: its connection is closed.", ()
            record.exc_info = None
        elif error is not None and record.name.split(".")[0] == "cassandra":
            # The driver logs one for each attempt of each pool to reach a node that is down.
            record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {error})", ()
            record.exc_info = None
        return True


class _UtcFormatter(logging.Formatter):
    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        return f"{_second(second)}.{milliseconds:03d}Z"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def config(level: str) -> dict[str, Any]:
    """For `logging.config.dictConfig` and gunicorn's `logconfig_dict`.

    From here on no record knows its thread, process or frame.
    """
    # What no line shows need not be found out. Source: "Optimization" in Python's logging HOWTO.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": _RequestId}, "foreign_tracebacks": {"()": _ForeignTracebacks}},
        "formatters": {
            "line": {"()": _UtcFormatter, "format": "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"}
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "filters": ["request_id", "foreign_tracebacks"],
            },
        },
        "root": {"level": level, "handlers": ["stderr"]},
        "loggers": {
            "cassandra": {"level": "WARNING"},
            "gunicorn.error": {"level": level, "handlers": [], "propagate": True},
        },
    }
