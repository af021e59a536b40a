"""Fixtures of the diagnostics tests: the service in the test process, and a check for leftover rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from cassandra.cluster import Session
from flask.testing import FlaskClient

import routes
from api import create_app
from settings import Settings
from storage import db_connect
from tests.support import rows_left, wait_for
from tests.testbed import app


@pytest.fixture
def no_rows_left(session: Session, settings: Settings) -> Iterator[None]:
    """Fail a test that leaves rows in the diagnostics table or changes a row with a version, such as a user.

    This also applies to tests in which a probe fails.
    """

    tables = [each.name for each in (*routes.RESOURCES, *app.RESOURCES) if "version" in each.table.columns]

    def rows() -> list[set[Any]]:
        keyspace = settings.cassandra_keyspace
        return [set(session.execute(f"SELECT JSON * FROM {keyspace}.{table}")) for table in tables]

    before = rows()
    yield
    # A failed probe deletes its rows in the background.
    wait_for(lambda: not rows_left(session, settings), timeout=10, description="the diagnostics rows to be deleted")
    assert rows() == before


@pytest.fixture
def app_session(settings: Settings) -> Iterator[Session]:
    """The session of this process, which the in-process service uses as a gunicorn worker would."""
    db_connect.reset()
    yield db_connect.get_session(timeout=20)
    db_connect.reset()


@pytest.fixture
def client(app_session: Session) -> FlaskClient:
    """A client of the service in the test process, where a test can patch the code that a probe checks."""
    return create_app().test_client()
