"""The home page, the health routes, and the headers that every response has."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from dev.local_cassandra.node import free_port
from tests.support import PRODUCT, PROJECT, Service, clean_environment


def test_home_is_json_for_programs_and_html_for_browsers(live: Service) -> None:
    """The home page returns links as JSON, or as HTML if the client accepts HTML.

    Every link works.
    """
    links = live.client.get("/").json()
    assert links["message"]
    assert links["version"]
    for link in (links["docs"], links["openapi"], links["health"], links["metrics"], *links["resources"].values()):
        assert live.client.get(link).status_code == 200, link
    page = live.client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert page.headers["Content-Type"].startswith("text/html")
    assert links["docs"] in page.text


def test_health_reports_keyspace_nodes_and_time(live: Service) -> None:
    """/health of a healthy service reports its keyspace, the node counts and the current time."""
    response = live.client.get("/health")
    body = response.json()
    assert response.status_code == 200
    assert (body["status"], body["cassandra"], body["nodes"]) == ("healthy", "connected", {"up": 1, "down": 0})
    assert (body["quorum"], body["read_only"]) == (True, False)
    assert body["keyspace"].startswith("fieldbook_test_")
    reported = datetime.fromisoformat(body["timestamp"])
    assert abs(datetime.now(UTC) - reported) < timedelta(minutes=1)
    assert live.client.get("/health/live").json() == {"status": "alive"}


@pytest.mark.parametrize("path", ["/", "/health", "/observers?limit=1", "/observers/stream?limit=1", "/nope", "/docs"])
def test_every_response_has_timings_and_a_new_request_id(live: Service, path: str) -> None:
    """Server-Timing has database and application time in ms; X-Request-ID differs per request."""
    responses = [live.client.get(path) for _ in range(2)]
    for response in responses:
        timing = re.fullmatch(r"db;dur=(\d+\.\d+), app;dur=(\d+\.\d+)", response.headers["Server-Timing"])
        assert timing is not None
        if path.startswith("/observers"):
            assert float(timing.group(1)) > 0
    assert responses[0].headers["X-Request-ID"] != responses[1].headers["X-Request-ID"]


def test_start_with_a_certificate_is_refused() -> None:
    """The worker does not serve TLS, so gunicorn's TLS options must not be ignored."""
    certificate = str(PROJECT / "README.md")
    run = subprocess.run(
        [sys.executable, "-m", "gunicorn", PRODUCT, "--certfile", certificate, "--keyfile", certificate],
        cwd=PROJECT,
        env=clean_environment() | {"PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode != 0
    assert "The service does not serve TLS" in run.stderr
