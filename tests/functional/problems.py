"""Checks of error responses, shared by test modules."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from cassandra.cluster import Session

import routes
from settings import Settings
from tests.sockets import RawResponse
from tests.testbed import app

PROBLEM_FIELDS = {"type", "title", "status", "detail", "instance", "request_id"}


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that a response is problem JSON, consistent with its status and headers.

    Return its body.
    """
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() == (PROBLEM_FIELDS | {"errors"} if status == 422 else PROBLEM_FIELDS)
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert "Server-Timing" in response.headers
    for error in body.get("errors", ()):
        assert error.keys() == {"loc", "msg", "type"}
    return body


def assert_refused(response: RawResponse, status: int) -> None:
    """Check that the server itself refused a request: with a problem document, and the end of the connection."""
    assert (response.status, response.closes) == (status, True), response
    problem = raw_problem(response)
    assert problem.keys() == PROBLEM_FIELDS
    assert problem["detail"]


def raw_problem(response: RawResponse) -> dict[str, Any]:
    """Check that a response is problem JSON, consistent with its status and headers. Return its body."""
    assert response.headers["content-type"] == "application/problem+json", response.headers
    problem: dict[str, Any] = json.loads(response.body)
    assert (problem["status"], problem["request_id"]) == (response.status, response.headers["x-request-id"])
    return problem


def row_counts(session: Session, settings: Settings) -> list[int]:
    """Return the number of rows of the table of each resource."""
    keyspace = settings.cassandra_keyspace
    return [
        session.execute(f"SELECT COUNT(*) FROM {keyspace}.{resource.name}", timeout=30).one()[0]
        for resource in (*routes.RESOURCES, *app.RESOURCES)
    ]


@contextmanager
def assert_row_counts_unchanged(session: Session, settings: Settings) -> Iterator[None]:
    """Check that the block adds and removes no row of any table."""
    before = row_counts(session, settings)
    yield
    assert row_counts(session, settings) == before
