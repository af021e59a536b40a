"""Imports of a service in production without a broker, and so without job workers."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from cassandra.cluster import Session
from flask.testing import FlaskClient

from routes import imports
from settings import Settings
from storage.cql import QueryOptions
from storage.db_io.jobs import find_job
from tests.testbed.app import create_app
from tests.testbed.database import count_chunks


@pytest.fixture(scope="module")
def client(settings: Settings, session: Session) -> FlaskClient:
    production = settings.model_copy(update={"app_env": "production", "auth": "off", "celery_broker_url": None})
    return create_app(production, session).test_client()


@pytest.fixture
def genus() -> str:
    """A genus that no other test uses."""
    return f"Genus {uuid.uuid4().hex}"


def import_finds(client: FlaskClient, genus: str, count: int, query: str = "") -> tuple[int, Any]:
    """Import this many rows; return the status and the document of the response."""
    data = "".join(json.dumps({"genus": genus, "species": f"s{number:06}"}) + "\n" for number in range(count))
    response = client.post(f"/find/import{query}", data=data, content_type="application/x-ndjson", buffered=True)
    return response.status_code, response.get_json()


def rows(session: Session, genus: str) -> int:
    return len(session.execute("SELECT species FROM finds WHERE genus = %s", (genus,)).all())


def test_small_imports_are_written(client: FlaskClient, session: Session, genus: str) -> None:
    status, document = import_finds(client, genus, 100)
    assert (status, document["written"], rows(session, genus)) == (200, 100, 100)


@pytest.mark.parametrize(("count", "query"), [(10_001, ""), (1, "?background=1")])
def test_imports_that_need_a_worker_are_refused(
    client: FlaskClient, session: Session, genus: str, count: int, query: str
) -> None:
    before = count_chunks(session)
    status, document = import_finds(client, genus, count, query)
    assert (status, "CELERY_BROKER_URL is not set" in document["detail"]) == (503, True)
    assert rows(session, genus) == 0
    assert count_chunks(session) == before


def test_import_that_is_not_completed_names_the_command_that_does_it(
    client: FlaskClient, session: Session, genus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "_LONGEST", 0.0)
    status, document = import_finds(client, genus, 5)
    assert status == 503
    command, _, job_id = document["detail"].rpartition(" ")
    assert command.endswith("flask --app api import finds --resume")
    job = find_job(session, uuid.UUID(job_id), QueryOptions())
    assert (job.state, job.lease_until) == ("running", None)
