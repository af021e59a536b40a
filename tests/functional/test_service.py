"""What the service says of itself, and what every response carries."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from tests.support import Service


def test_home_as_json_and_as_a_page(live: Service) -> None:
    """A program gets links, a browser a page with them; each link works."""
    links = live.client.get("/").json()
    assert links["message"]
    assert links["version"]
    for link in (links["docs"], links["openapi"], links["health"], links["metrics"], *links["resources"].values()):
        assert live.client.get(link).status_code == 200, link
    page = live.client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert links["docs"] in page.text


def test_health(live: Service) -> None:
    """A healthy service names its keyspace, its nodes and the time."""
    response = live.client.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert (body["status"], body["cassandra"], body["nodes"]) == ("healthy", "connected", {"up": 1, "down": 0})
    assert body["keyspace"].startswith("fieldbook_test_")
    told = datetime.fromisoformat(body["timestamp"])
    assert abs(datetime.now(UTC) - told) < timedelta(minutes=1)
    assert live.client.get("/health/live").json() == {"status": "alive"}


@pytest.mark.parametrize("path", ["/", "/health", "/users?limit=1", "/users/stream?limit=1", "/nope", "/docs"])
def test_every_response_is_timed_and_named(live: Service, path: str) -> None:
    """Server-Timing has the two parts in milliseconds; the id is new for each request."""
    responses = [live.client.get(path) for _ in range(2)]
    for response in responses:
        timing = re.fullmatch(r"db;dur=(\d+\.\d+), app;dur=(\d+\.\d+)", response.headers["Server-Timing"])
        assert timing is not None
        if path.startswith("/users"):
            assert float(timing.group(1)) > 0
    assert responses[0].headers["X-Request-ID"] != responses[1].headers["X-Request-ID"]
