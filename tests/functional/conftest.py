"""What the tests of the diagnostics share: a service in the test's own process, and a look at what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cassandra.cluster import Session
from flask.testing import FlaskClient

from api import create_app
from settings import Settings
from storage import db_connect
from tests.support import rows_left, wait_for


@pytest.fixture
def nothing_is_left(session: Session, settings: Settings) -> Iterator[None]:
    """Fails a test, also of a probe that fails, after which a row of the diagnostics is left or a user was touched."""

    def users() -> set[Any]:
        return set(session.execute(f"SELECT id, name, age, version FROM {settings.cassandra_keyspace}.users"))

    before = users()
    yield
    # What failed is deleted without anybody waiting for it.
    wait_for(lambda: not rows_left(session, settings), timeout=10, what="the end of the diagnostics' rows")
    assert users() == before


@pytest.fixture
def running(settings: Settings) -> Iterator[Session]:
    """The session of this process, which the in-process service works with, as a worker has it."""
    db_connect.shutdown()
    yield db_connect.get_session(timeout=20)
    db_connect.shutdown()


@pytest.fixture
def client(running: Session) -> FlaskClient:
    """A client of a service in this process, where a test can break what a probe looks at."""
    return create_app().test_client()
