"""The cache of prepared statements, without Cassandra."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

from storage.cql.options import QueryOptions
from storage.cql.prepared_cache import PreparedCache
from tests.testbed.db_io.observers import INSERT_OBSERVER


class _Session:
    keyspace = "k"


def test_statement_is_prepared_later_if_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request fails, but the next one must not wait for a preparation that never began."""
    cache, session = PreparedCache(), _Session()
    monkeypatch.setattr(sys.modules[PreparedCache.__module__], "prepare", lambda session, cql: "prepared")

    def get() -> Any:
        options = QueryOptions(deadline=time.monotonic() + 5)
        return cache.get(session, INSERT_OBSERVER, options)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            get()
    assert get() == "prepared"
