"""Formats of log lines."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from observability import logs


def test_formats_may_use_process_and_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format with the process id and the thread works after config() has changed what records contain."""
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    logs.config("INFO")
    record = logging.LogRecord("fieldbook", logging.INFO, "", 0, "text", (), None)
    formatter = logging.Formatter("%(process)d %(thread)d %(threadName)s %(message)s")
    thread = threading.current_thread()
    assert formatter.format(record) == f"{os.getpid()} {thread.ident} {thread.name} text"
