"""Headers that restrict what browsers and caches do with a response."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser

import httpx
import pytest

from dev.local_cassandra.node import free_port
from tests.sockets import take_response
from tests.support import OBSERVER, OPERATOR_TOKEN, Service, bearer, raw_request, service

OPERATOR = bearer(OPERATOR_TOKEN)
HOST = "field.example.org"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
HTML = {"Accept": "text/html"}
MISSING = "/observers/00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def signed_in(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with AUTH=all behind one proxy. `client` sends the operator's token."""
    variables = {
        "AUTH": "all",
        "OPERATOR_TOKEN": OPERATOR_TOKEN,
        "TRUSTED_PROXIES": "1",
        "TRUSTED_HOSTS": f"{HOST},127.0.0.1",
    }
    log = tmp_path_factory.mktemp("signed_in") / "log"
    with service(environment | variables | {"WEB_CONCURRENCY": "1"}, log) as running:
        running.client.headers.update(OPERATOR)
        yield running


def assert_secured(response: httpx.Response) -> None:
    """Each header is there once."""
    for name, value in ALWAYS.items():
        assert response.headers.get_list(name) == [value], response.request.url
    (policy,) = response.headers.get_list("Content-Security-Policy")
    is_page = response.request.method != "OPTIONS" and response.headers.get("Content-Type", "").startswith("text/html")
    assert policy.startswith("default-src 'self'; " if is_page else "default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/", {}, 200),
        ("GET", "/", HTML, 200),
        ("GET", "/docs", HTML, 200),
        ("GET", "/docs/docs.js", {}, 200),
        ("GET", "/docs/swagger-ui.css", {"Range": "bytes=0-9"}, 206),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/health", {}, 200),
        ("GET", "/metrics", {"Accept": "text/plain"}, 200),
        ("HEAD", "/observers?limit=1", {}, 200),
        ("OPTIONS", "/observers", {}, 200),
        ("GET", "/observers/stream?limit=3", {}, 200),
        ("GET", "/observers/stream?limit=3", {"Accept": "text/csv"}, 200),
        ("DELETE", MISSING, {}, 204),
        ("POST", "/observers", {"Content-Type": "application/json"}, 400),
        ("GET", "/", {"Host": "evil.example"}, 400),
        ("GET", "/observers", bearer("x"), 401),
        ("GET", MISSING, {}, 404),
        ("GET", "/nothing", {}, 404),
        ("PUT", "/", {}, 405),
        ("GET", "/observers", {"Accept": "image/png"}, 406),
        ("POST", "/observers", {"Content-Type": "text/plain"}, 415),
        ("GET", "/docs/swagger-ui.css", {"Range": "bytes=99999999-"}, 416),
        ("GET", "/observers?limit=x", {}, 422),
    ],
)
def test_every_response_has_the_headers(
    signed_in: Service, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    response = signed_in.client.request(method, path, headers=headers, content="{" if method == "POST" else None)
    assert response.status_code == status
    assert_secured(response)
    assert "Strict-Transport-Security" not in response.headers


def test_a_service_without_cassandra_sends_the_headers(start: Callable[..., Service]) -> None:
    running = start({"CASSANDRA_PORT": str(free_port())}, healthy=False)
    response = running.client.get("/observers")
    assert response.status_code == 503
    assert_secured(response)


@pytest.mark.parametrize("line", [b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /" + 9000 * b"a"])
def test_responses_to_invalid_requests_have_the_headers(live: Service, line: bytes) -> None:
    """The server answers these requests without the application."""
    with raw_request(live.port, "1.1", "/health/live") as connection:
        # The first response, then the one to the invalid request.
        data = connection.recv(65536)
        connection.sendall(line + b"\r\n\r\n")
        data = b""
        while part := connection.recv(65536):
            data += part
    response, _ = take_response(data, at_end=True)
    assert response.status in (400, 414)
    head = data.partition(b"\r\n\r\n")[0]
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head
    assert b"\r\nContent-Security-Policy: default-src 'none'; frame-ancestors 'none'" in head


# --- pages ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page loads, and what its Content-Security-Policy would block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.links: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self._inside = tag
        if source := given.get("src" if tag == "script" else "href" if tag == "link" else ""):
            self.loaded.append(source)
        self.links += [value for name, value in attributes if name in ("href", "data-document") and value]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.mark.parametrize("path", ["/", "/docs"])
@pytest.mark.parametrize("prefix", ["", "/field"])
def test_pages_load_only_files_that_their_policy_allows(signed_in: Service, path: str, prefix: str) -> None:
    """No inline script or style. Each file is one of the service, also behind a proxy that adds a path prefix."""
    forwarded = {"X-Forwarded-Prefix": prefix} if prefix else {}
    response = signed_in.client.get(path, headers=HTML | forwarded)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "script-src" not in policy
    assert "style-src" not in policy
    page = Page(response.text)
    assert page.inline == []
    assert page.loaded
    for source in page.loaded:
        assert source.startswith((f"{prefix}/docs/", f"{prefix}/ui/static/"))
        file = signed_in.client.get(source.removeprefix(prefix), headers={"Authorization": ""})
        assert file.status_code == 200
        # With nosniff, a browser runs no script and applies no style sheet of another type.
        expected = {"js": "text/javascript", "css": "text/css", "png": "image/png", "svg": "image/svg+xml"}[
            source.rpartition(".")[2]
        ]
        assert file.headers["Content-Type"].partition(";")[0] == expected
    assert all(link.startswith((f"{prefix}/", "#")) for link in page.links)


def test_docs_page_calls_the_service_under_the_path_prefix(signed_in: Service) -> None:
    """The OpenAPI document has URLs relative to its own."""
    page = Page(signed_in.client.get("/docs", headers=HTML | {"X-Forwarded-Prefix": "/field"}).text)
    assert "/field/openapi.json" in page.links
    document = signed_in.client.get("/openapi.json").json()
    base = httpx.URL(f"https://{HOST}/field/openapi.json")
    (server,) = document["servers"]
    assert base.join(f"{server['url']}/users").path == "/field/users"
    token_url = document["components"]["securitySchemes"]["account"]["flows"]["password"]["tokenUrl"]
    assert base.join(token_url).path == "/field/auth/token"


def test_other_responses_may_load_nothing(signed_in: Service) -> None:
    for path in ("/users?limit=1", "/docs/docs.js", "/nothing"):
        policy = signed_in.client.get(path).headers["Content-Security-Policy"]
        assert policy == "default-src 'none'; frame-ancestors 'none'"


# --- TLS -----------------------------------------------------------------------------------------------------


def test_strict_transport_security_is_sent_over_tls_only(signed_in: Service) -> None:
    """Only behind a proxy that says so: X-Forwarded-Proto."""
    https = {"X-Forwarded-Proto": "https"}
    for path in ("/health", "/nothing", "/observers/stream?limit=1"):
        response = signed_in.client.get(path, headers=https)
        assert response.headers.get_list("Strict-Transport-Security") == ["max-age=31536000"]
    plain = signed_in.client.get("/health", headers={"X-Forwarded-Proto": "http"})
    assert "Strict-Transport-Security" not in plain.headers


def test_a_client_can_not_claim_tls(live: Service) -> None:
    """Without TRUSTED_PROXIES."""
    response = live.client.get("/health", headers={"X-Forwarded-Proto": "https"})
    assert "Strict-Transport-Security" not in response.headers


@pytest.mark.parametrize(("seconds", "expected"), [("600", ["max-age=600"]), ("0", [])])
def test_strict_transport_security_follows_the_setting(
    start: Callable[..., Service], seconds: str, expected: list[str]
) -> None:
    variables = {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": "127.0.0.1", "HSTS_MAX_AGE": seconds}
    response = start(variables).client.get("/health", headers={"X-Forwarded-Proto": "https"})
    assert response.headers.get_list("Strict-Transport-Security") == expected


# --- caches --------------------------------------------------------------------------------------------------


def test_responses_that_need_a_token_are_private(signed_in: Service) -> None:
    """A browser may keep a response, but asks the service before it uses the response again."""
    created = signed_in.client.post("/observers", json=OBSERVER)
    path = created.headers["Location"]
    for response in (created, signed_in.client.get(path), signed_in.client.get("/observers/stream?limit=1")):
        assert response.headers["Cache-Control"] == "private, no-cache"
    known = signed_in.client.get(path, headers={"If-None-Match": created.headers["ETag"]})
    assert (known.status_code, known.headers["Cache-Control"]) == (304, "private, no-cache")
    refused = signed_in.client.get(path, headers={"Authorization": "", "If-None-Match": created.headers["ETag"]})
    assert (refused.status_code, refused.headers["Cache-Control"]) == (401, "private, no-cache")
    signed_in.client.delete(path)


def test_public_responses_may_be_stored(signed_in: Service, live: Service) -> None:
    """Files of the documentation for an hour, also with AUTH=all. With AUTH=off the service says nothing."""
    file = signed_in.client.get("/docs/docs.js")
    assert re.search("public.*max-age=3600", file.headers["Cache-Control"])
    for response in (signed_in.client.get("/health"), live.client.get("/observers?limit=1")):
        assert "Cache-Control" not in response.headers
