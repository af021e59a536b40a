"""Requests from pages of other origins (CORS), as a browser sends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from cassandra.cluster import Session

from dev.local_cassandra.node import free_port
from settings import Settings
from tests.support import (
    FEW_THREADS,
    OBSERVER,
    OPERATOR_TOKEN,
    Service,
    access_token,
    bearer,
    get,
    in_flight,
    service,
    wait_for,
)
from web.cors import EXPOSED_HEADERS

ORIGIN = "https://app.example.org"
FOREIGN = "https://evil.example"
OPERATOR = bearer(OPERATOR_TOKEN)
ONE_ORIGIN = {"CORS_ORIGINS": f"{ORIGIN},https://other.example:8443", "AUTH": "all", "OPERATOR_TOKEN": OPERATOR_TOKEN}
MISSING = "/observers/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def shared(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with AUTH=all that two origins may call."""
    variables = ONE_ORIGIN | {"WEB_CONCURRENCY": "1"}
    with service(environment | variables, tmp_path_factory.mktemp("shared") / "log") as running:
        yield running


def preflight(running: Service, path: str, method: str = "GET", origin: str = ORIGIN) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    return running.client.options(path, headers=headers)


def cors_headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name.startswith("access-control-")}


def words(value: str) -> set[str]:
    return set(value.replace(" ", "").split(","))


def assert_readable(response: httpx.Response, origin: str = ORIGIN) -> None:
    """A script of this origin can read the response and its headers, and a cache keeps it apart from others."""
    assert cors_headers(response) == {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": EXPOSED_HEADERS,
    }
    assert "Origin" in words(response.headers["Vary"])


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/observers", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("/observers/stream", {"GET", "HEAD", "OPTIONS"}),
        (MISSING, {"GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"}),
        ("/find/Quercus/robur", {"GET", "HEAD", "OPTIONS", "DELETE"}),
        ("/shutdown", {"POST", "OPTIONS"}),
        ("/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_preflight_needs_no_token(shared: Service, path: str, methods: set[str]) -> None:
    response = preflight(shared, path, "POST")
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert words(response.headers["Access-Control-Allow-Methods"]) == methods
    assert {"Authorization", "If-Match", "Idempotency-Key"} <= words(response.headers["Access-Control-Allow-Headers"])
    assert response.headers["Access-Control-Max-Age"] == "7200"
    assert "Access-Control-Allow-Credentials" not in response.headers
    assert "Origin" in words(response.headers["Vary"])


@pytest.mark.parametrize("origin", [FOREIGN, "null", f"{ORIGIN}.evil.example", "http://app.example.org", f"{ORIGIN}/"])
def test_other_origins_get_no_cors_headers(shared: Service, origin: str) -> None:
    for response in (
        preflight(shared, "/observers", origin=origin),
        shared.client.get("/observers?limit=1", headers=OPERATOR | {"Origin": origin}),
    ):
        assert response.status_code == 200
        assert cors_headers(response) == {}
        assert "Origin" in words(response.headers["Vary"])


def test_options_without_a_preflight_shows_the_methods(shared: Service) -> None:
    """Preflight requests have Access-Control-Request-Method. Other OPTIONS requests are not for CORS."""
    for headers in ({}, {"Origin": ORIGIN}, {"Access-Control-Request-Method": "GET"}):
        response = shared.client.options("/observers", headers=headers)
        assert response.status_code == 200
        assert words(response.headers["Allow"]) == {"GET", "HEAD", "OPTIONS", "POST"}
        assert "Access-Control-Allow-Methods" not in response.headers


def test_responses_are_readable(shared: Service) -> None:
    headers = OPERATOR | {"Origin": ORIGIN}
    created = shared.client.post("/observers", json=OBSERVER, headers=headers)
    assert created.status_code == 201
    assert_readable(created)
    assert {"ETag", "Location"} <= words(created.headers["Access-Control-Expose-Headers"])
    tag = {"If-None-Match": created.headers["ETag"]}
    known = shared.client.get(created.headers["Location"], headers=headers | tag)
    assert known.status_code == 304
    assert_readable(known)
    for accept in ("application/json", "application/x-ndjson", "text/csv"):
        stream = shared.client.get("/observers/stream?limit=3", headers=headers | {"Accept": accept})
        assert stream.status_code == 200
        assert_readable(stream)
    deleted = shared.client.delete(created.headers["Location"], headers=headers)
    assert deleted.status_code == 204
    assert_readable(deleted)
    # A public file, also for a page of an allowed origin.
    assert_readable(shared.client.get("/docs/docs.js", headers={"Origin": ORIGIN}))


def test_responses_without_an_origin_are_kept_apart_by_caches(shared: Service) -> None:
    response = shared.client.get("/observers?limit=1", headers=OPERATOR)
    assert cors_headers(response) == {}
    assert "Origin" in words(response.headers["Vary"])


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/observers", OPERATOR, 400),
        ("GET", "/observers", {}, 401),
        ("GET", "/observers", bearer("x.y.z"), 401),
        ("GET", MISSING, OPERATOR, 404),
        ("GET", "/nothing", {}, 404),
        ("DELETE", "/observers", OPERATOR, 405),
        ("GET", "/observers", OPERATOR | {"Accept": "image/png"}, 406),
        ("POST", "/observers", OPERATOR | {"Content-Type": "text/plain"}, 415),
        ("GET", "/observers?limit=x", OPERATOR, 422),
    ],
)
def test_errors_are_readable(shared: Service, method: str, path: str, headers: dict[str, str], status: int) -> None:
    content_type = {"Content-Type": "application/json"} if method == "POST" else {}
    response = shared.client.request(method, path, headers={"Origin": ORIGIN} | content_type | headers, content="{")
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert_readable(response)


def test_a_missing_scope_is_readable(shared: Service, settings: Settings) -> None:
    headers = {"Origin": ORIGIN} | bearer(access_token(settings, ("read",)))
    assert shared.client.get("/observers?limit=1", headers=headers).status_code == 200
    refused = shared.client.post("/observers", json=OBSERVER, headers=headers)
    assert refused.status_code == 403
    assert_readable(refused)
    assert "WWW-Authenticate" in words(refused.headers["Access-Control-Expose-Headers"])


def test_an_unexpected_error_is_readable(start: Callable[..., Service], keyspace: str, session: Session) -> None:
    running = start({"CASSANDRA_KEYSPACE": keyspace, "CORS_ORIGINS": ORIGIN})
    session.execute(f"DROP TABLE {keyspace}.finds", timeout=60)
    response = running.client.get("/find/Quercus/robur", headers={"Origin": ORIGIN})
    assert response.status_code == 500
    assert_readable(response)


def test_preflight_works_without_cassandra(start: Callable[..., Service]) -> None:
    running = start(ONE_ORIGIN | {"CASSANDRA_PORT": str(free_port())}, healthy=False)
    assert preflight(running, "/observers", "POST").status_code == 204
    unavailable = running.client.get("/observers", headers=OPERATOR | {"Origin": ORIGIN})
    assert unavailable.status_code == 503
    assert_readable(unavailable)
    assert "Retry-After" in words(unavailable.headers["Access-Control-Expose-Headers"])


def test_preflight_works_in_read_only_mode(start: Callable[..., Service]) -> None:
    running = start(ONE_ORIGIN | {"READ_ONLY": "1"})
    for method in ("POST", "GET"):
        assert preflight(running, "/observers", method).status_code == 204
    rejected = running.client.post("/observers", json=OBSERVER, headers=OPERATOR | {"Origin": ORIGIN})
    assert rejected.status_code == 503
    assert_readable(rejected)


@pytest.mark.slow
def test_preflight_works_under_overload(start: Callable[..., Service]) -> None:
    running = start(FEW_THREADS | {"CORS_ORIGINS": ORIGIN})
    request = threading.Thread(target=get, args=(running, "/long_running_query"))
    request.start()
    wait_for(lambda: in_flight(running) == 1, description="the request in flight")
    rejected = running.client.get("/observers", headers={"Origin": ORIGIN})
    assert rejected.status_code == 503
    assert_readable(rejected)
    assert preflight(running, "/observers", "POST").status_code == 204
    request.join(timeout=60)


def test_every_origin_except_null(start: Callable[..., Service]) -> None:
    """CORS_ORIGINS=*: every page of a host, but no sandboxed frame and no local file."""
    running = start({"CORS_ORIGINS": "*"})
    assert_readable(running.client.get("/health", headers={"Origin": FOREIGN}), "*")
    assert preflight(running, "/observers", "POST", FOREIGN).headers["Access-Control-Allow-Origin"] == "*"
    assert cors_headers(running.client.get("/health", headers={"Origin": "null"})) == {}
    assert cors_headers(preflight(running, "/observers", "POST", "null")) == {}


def test_credentials_are_allowed_by_setting(start: Callable[..., Service]) -> None:
    running = start({"CORS_ORIGINS": ORIGIN, "CORS_CREDENTIALS": "true"})
    for response in (
        preflight(running, "/observers", "POST"),
        running.client.get("/health", headers={"Origin": ORIGIN}),
    ):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert cors_headers(running.client.get("/health", headers={"Origin": FOREIGN})) == {}


def test_without_origins_nothing_depends_on_the_origin(live: Service) -> None:
    for response in (preflight(live, "/observers"), live.client.get("/health", headers={"Origin": ORIGIN})):
        assert response.status_code == 200
        assert cors_headers(response) == {}
        assert "Vary" not in response.headers
