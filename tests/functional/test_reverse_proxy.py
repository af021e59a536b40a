"""Behind a reverse proxy: forwarded headers and host names, in responses of the running service."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.support import OBSERVER, Service, service

HOST = "field.example.org"


@pytest.fixture(scope="module")
def proxied(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service behind one proxy that does not set or clear any header. `client` sends the trusted Host."""
    variables = {"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": f"{HOST}, .wild.example", "WEB_CONCURRENCY": "1"}
    with service(environment | variables, tmp_path_factory.mktemp("proxied") / "log") as running:
        running.client.headers["Host"] = HOST
        yield running


def test_links_keep_the_path_prefix_of_a_proxy(proxied: Service) -> None:
    """Behind a trusted proxy that adds a path prefix, Location and Link start with that prefix."""
    headers = {"X-Forwarded-Prefix": "/field", "X-Forwarded-Proto": "https", "X-Forwarded-Host": HOST}
    created = proxied.client.post("/observers", json=OBSERVER, headers=headers)
    assert created.headers["Location"].startswith("/field/observers/")
    link = proxied.client.get("/observers?limit=1", headers=headers).links["next"]["url"]
    assert link.startswith("/field/observers?limit=1&")
    assert proxied.client.get("/", headers=headers).json()["docs"] == "/field/docs"


@pytest.mark.parametrize(
    "prefix", ["//evil.example", "/\\evil.example", "https://evil.example", "/field/../..", "/a b"]
)
def test_invalid_prefix_changes_no_link(proxied: Service, prefix: str) -> None:
    headers = {"X-Forwarded-Prefix": prefix}
    created = proxied.client.post("/observers", json=OBSERVER, headers=headers)
    assert created.headers["Location"].startswith("/observers/")
    listed = proxied.client.get("/observers?limit=1", headers=headers)
    assert listed.headers["Link"].startswith("</observers?limit=1&")
    assert 'src="/docs/' in proxied.client.get("/docs", headers=headers).text


def test_forwarded_headers_are_ignored_without_a_trusted_proxy(live: Service) -> None:
    """A client cannot change the service's links with X-Forwarded-Prefix."""
    created = live.client.post("/observers", json=OBSERVER, headers={"X-Forwarded-Prefix": "/evil"})
    assert created.headers["Location"].startswith("/observers/")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": f"evil.example.{HOST}"},
        {"Host": f"{HOST}.evil.example"},
        {"Host": "127.0.0.1"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Host": f"{HOST}, evil.example"},
        {"X-Forwarded-Host": f'"{HOST}, evil.example"'},
        {"X-Forwarded-Host": f"{HOST}:evil"},
    ],
    ids=str,
)
def test_untrusted_host_is_400(proxied: Service, headers: dict[str, str]) -> None:
    """On routes, unknown paths and for OPTIONS; each response is a problem document with its request id."""
    for method, path in (("GET", "/"), ("OPTIONS", "/observers"), ("GET", "/unknown"), ("PUT", "/health")):
        response = proxied.client.request(method, path, headers=headers)
        assert (response.status_code, response.headers["Content-Type"]) == (400, "application/problem+json")
        assert "TRUSTED_HOSTS" in response.json()["detail"]
        assert response.json()["request_id"] == response.headers["X-Request-ID"]
        assert "evil" not in response.text


@pytest.mark.parametrize("host", [HOST, HOST.upper(), f"{HOST}:8443", "wild.example", "a.b.wild.example"])
def test_trusted_host_is_accepted(proxied: Service, host: str) -> None:
    """In lower or upper case, with any port; a name that begins with a period includes its subdomains."""
    assert proxied.client.get("/observers?limit=1", headers={"Host": host}).status_code == 200
    assert proxied.client.get("/", headers={"Host": "proxy.internal", "X-Forwarded-Host": host}).status_code == 200


def test_probes_may_send_any_host(proxied: Service) -> None:
    """Kubernetes sends the address of the pod; HTTP/1.0 needs no Host."""
    for host in ("10.0.0.5:8000", "[fd00::1]:8000", "evil.example"):
        for path in ("/health", "/health/live"):
            assert httpx.get(f"http://127.0.0.1:{proxied.port}{path}", headers={b"Host": host.encode()}).is_success
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=30) as connection:
        connection.sendall(b"GET /health/live HTTP/1.0\r\n\r\nGET")
        assert connection.makefile("rb").readline().split()[1] == b"200"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("X-Forwarded-Proto", ["ws", "wss", "javascript", "https://evil.example/", '"a,b"', "é", ",", "https,"]),
        ("X-Forwarded-For", ["é", "a b", '"', "1.2.3.4, evil", "x" * 5000, ",,,"]),
        ("X-Forwarded-Port", ["evil", "-1", "99999999", "0"]),
        ("X-Forwarded-Prefix", ["é", "%2f%2fevil.example", "?", "/" * 5000, '"//evil, b"', "/a" * 3000]),
        ("Forwarded", ["host=evil.example;proto=ws", "é"]),
    ],
)
def test_invalid_forwarded_headers_are_ignored(proxied: Service, name: str, values: list[str]) -> None:
    expected = proxied.client.get("/").json()
    for value in values:
        headers = {name.encode(): value.encode("latin-1")}
        response = proxied.client.get("/", headers=headers)
        assert (response.status_code, response.json()) == (200, expected)
        created = proxied.client.post("/observers", json=OBSERVER, headers=headers)
        assert created.headers["Location"].startswith("/observers/")
