"""Request headers: timeout, consistency level, Accept, request id, and the headers of proxies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.functional.problems import assert_problem, assert_row_counts_unchanged
from tests.support import OBSERVER, Service, wait_for
from tests.testbed.sample_data import observers

ID = "00000000-0000-4000-8000-000000000000"
# A response that is JSON only.
SAMPLE = f"/observers/{next(observers.rows()).id}"
FIND = {"genus": "Hostile", "species": "probe"}


@pytest.fixture
def row_counts_unchanged(live: Service, session: Session, settings: Settings) -> Iterator[None]:
    """Fail a test that adds or removes a row of any table."""
    with assert_row_counts_unchanged(session, settings):
        yield


@pytest.mark.parametrize("seconds", ["0", "-1", "60.1", "61", "nan", "inf", "1_0", "5s", "", "1e400", "０５"])
def test_invalid_timeouts_are_rejected(live: Service, seconds: str) -> None:
    response = live.client.get("/observers", headers={"X-Request-Timeout": seconds.encode()})
    problem = assert_problem(response, 422)
    assert problem["errors"][0]["loc"] == ["header", "X-Request-Timeout"]


@pytest.mark.parametrize("level", ["one", "SERIAL", "LOCAL_SERIAL", "ANY", "7", "", "ONE,TWO"])
def test_invalid_consistency_levels_are_rejected(live: Service, level: str) -> None:
    response = live.client.get("/observers", headers={"X-Consistency-Level": level})
    problem = assert_problem(response, 422)
    assert problem["errors"][0]["loc"] == ["header", "X-Consistency-Level"]


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize("level", ["TWO", "THREE"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/observers?limit=1", None),
        ("GET", "/find/Quercus", None),
        ("GET", f"/observers/{ID}", None),
        ("POST", "/observers", OBSERVER),
        ("POST", "/observers/batch", [OBSERVER]),
        ("POST", "/find", FIND),
    ],
)
def test_consistency_levels_above_the_replication_factor_are_rejected(
    live: Service, level: str, method: str, path: str, body: Any
) -> None:
    """A level that needs more replicas than the keyspace has is a client error, not an outage."""
    response = live.client.request(method, path, json=body, headers={"X-Consistency-Level": level})
    problem = assert_problem(response, 422)
    assert level in problem["errors"][0]["msg"]


@pytest.mark.parametrize("level", ["ONE", "QUORUM", "ALL", "LOCAL_QUORUM", "LOCAL_ONE", "EACH_QUORUM"])
def test_valid_consistency_levels_are_accepted(live: Service, level: str) -> None:
    headers = {"X-Consistency-Level": level}
    created = live.client.post("/observers", json=OBSERVER, headers=headers)
    assert created.status_code == 201
    assert live.client.get(created.headers["Location"], headers=headers).status_code == 200
    assert live.client.patch(created.headers["Location"], json={"age": 3}, headers=headers).status_code == 200
    assert live.client.delete(created.headers["Location"], headers=headers).status_code == 204


def test_consistency_level_any_is_accepted_for_writes(live: Service) -> None:
    created = live.client.post("/observers", json=OBSERVER, headers={"X-Consistency-Level": "ANY"})
    assert created.status_code == 201


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        (SAMPLE, "text/csv", 406),
        (SAMPLE, "image/png", 406),
        ("/observers", "image/png", 406),
        ("/observers", "text/csv", 200),
        ("/observers/stream", "image/png", 406),
        ("/observers/stream", "text/html, application/x-ndjson;q=0.1", 200),
        ("/observers/stream", "application/json;q=0", 406),
        (SAMPLE, "application/json; charset=utf-8", 200),
        ("/observers/stream", "text/csv; charset=utf-8", 200),
        (SAMPLE, "application/json;version=1", 200),
        (SAMPLE, "text/csv; charset=utf-8", 406),
        (SAMPLE, "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", 200),
        (SAMPLE, "*/*;q=.5", 200),
        (SAMPLE, "*", 200),
        (SAMPLE, ",", 200),
        (SAMPLE, "text/html, */*;q=0.1", 200),
        (SAMPLE, "application/*", 200),
        (SAMPLE, "", 200),
        ("/health", "text/csv", 406),
    ],
)
def test_accept_header_selects_the_format_or_returns_406(live: Service, path: str, accept: str, status: int) -> None:
    response = live.client.get(path, headers={"Accept": accept})
    assert response.status_code == status
    if status == 406:
        assert_problem(response, 406)


@pytest.mark.parametrize(("name", "method", "status"), [("Accept", "GET", 406), ("If-Match", "DELETE", 412)])
def test_long_headers_are_rejected(live: Service, name: str, method: str, status: int) -> None:
    """The limit applies to all lines of a header together, because the server joins them."""
    line = (name, "a/" + "b" * 600)
    assert_problem(live.client.request(method, SAMPLE, headers=[line]), status)
    problem = assert_problem(live.client.request(method, SAMPLE, headers=[line, line]), 422)
    assert problem["errors"][0]["loc"] == ["header", name]


@pytest.mark.usefixtures("row_counts_unchanged")
def test_request_with_an_unsupported_accept_header_changes_nothing(live: Service) -> None:
    assert_problem(live.client.post("/observers", json=OBSERVER, headers={"Accept": "text/csv"}), 406)


def test_request_id_is_kept_if_valid_and_replaced_otherwise(live: Service) -> None:
    """A valid X-Request-ID is returned and logged; an invalid one is replaced and cannot forge log lines."""
    valid = "abc.DEF-1_2"
    assert live.client.get("/nope", headers={"X-Request-ID": valid}).headers["X-Request-ID"] == valid
    live.wait_for_log(f"[{valid}] GET /nope 404")
    assert re.search(rf"\[{valid}\] GET /nope 404 \d+\.\d ms 127\.0\.0\.1$", live.log_text(), re.MULTILINE)
    for invalid in ("a b", "x" * 129, "é".encode(), "<script>", ""):
        returned_id = live.client.get("/observers?limit=1", headers={"X-Request-ID": invalid}).headers["X-Request-ID"]
        assert len(returned_id) == 36
    live.client.get("/find/a%0a2026%20forged%20line/x")
    live.wait_for_log("GET /find/a%0A2026%20forged%20line/x")
    assert "\n2026 forged" not in live.log_text()


@pytest.mark.parametrize(
    "headers",
    [{"SCRIPT_NAME": "/x"}, {"SCRIPT_NAME": "/observers"}, {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"}],
)
def test_proxy_headers_of_untrusted_clients_are_ignored(live: Service, headers: dict[str, str]) -> None:
    """A client on the same machine cannot change the service's URLs or responses with proxy headers."""
    response = live.client.get("/observers?limit=1", headers=headers)
    assert response.status_code == 200
    assert response.headers.get("Link", "</observers?").startswith("</observers?")


def test_unreachable_default_consistency_level_returns_503(start: Callable[..., Service]) -> None:
    """An unreachable level in the settings is an outage, not a client error. The log names the level."""
    running = start({"CASSANDRA_CONSISTENCY_LEVEL": "TWO"}, healthy=False)
    wait_for(lambda: "Connected to Cassandra" in running.log_text(), description="the connection to Cassandra")
    assert_problem(running.client.get("/observers"), 503)
    running.wait_for_log("TWO needs 2 replicas")


def test_health_ignores_the_requested_consistency_level(live: Service) -> None:
    """A client cannot make the readiness probe fail with a consistency level.

    A requested timeout applies.
    """
    assert live.client.get("/health", headers={"X-Consistency-Level": "THREE"}).status_code == 200
    assert_problem(live.client.get("/health", headers={"X-Request-Timeout": "0.000001"}), 504)


def test_vary_header_names_accept_where_the_format_is_selectable(live: Service) -> None:
    """A cache must not return one client's format to another client."""
    assert live.client.get("/find/Quercus").headers["Vary"] == "Accept"
    assert live.client.get("/observers").headers["Vary"] == "Accept"
    assert "Vary" not in live.client.get(SAMPLE).headers
