"""Request lines and headers as RFC 9110 and 9112 define them: targets, Host, Connection, Upgrade, and invalid ones."""

from __future__ import annotations

import pytest

from tests.functional.problems import assert_refused
from tests.sockets import exchange
from tests.support import Service

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "values", "stays"),
    [
        ("1.0", [], False),
        ("1.0", ["keep-alive"], True),
        ("1.0", ["TE, Keep-Alive"], True),
        ("1.0", ["TE", "keep-alive"], True),
        ("1.0", ["close"], False),
        ("1.0", ["keep-alive, close"], False),
        ("1.1", [], True),
        ("1.1", ["TE"], True),
        ("1.1", ["closed"], True),
        ("1.1", ["TE, close"], False),
        ("1.1", ["TE ,\tCLOSE,"], False),
        ("1.1", ["TE", "Close"], False),
        ("1.1", ["keep-alive", "close"], False),
    ],
    ids=str,
)
def test_connection_header_decides_whether_the_connection_stays(
    live: Service, version: str, values: list[str], stays: bool
) -> None:
    """`Connection` is a list, in one or more lines. Only HTTP/1.1 keeps the connection by default."""
    lines = "".join(f"Connection: {value}\r\n" for value in values)
    data = f"GET /health/live HTTP/{version}\r\nHost: localhost\r\n{lines}\r\n".encode()
    responses = exchange(live.port, data + CLOSE)
    assert [response.status for response in responses] == ([200, 200] if stays else [200])
    assert responses[0].closes is not stays


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("GET http://evil.example", None),
        ("GET HTTP://evil.example?a=1", None),
        ("GET https://[::1]:8000/", None),
        ("OPTIONS http://evil.example", "GET, HEAD, OPTIONS"),
        ("OPTIONS *", "GET, HEAD, OPTIONS"),
    ],
)
def test_targets_without_a_path_are_the_home_page(live: Service, target: str, allowed: str | None) -> None:
    """No response is a redirect, which would name the host that the client sent."""
    data = f"{target} HTTP/1.1\r\nHost: attacker.example\r\nConnection: close\r\n\r\n".encode()
    (response,) = exchange(live.port, data)
    assert (response.status, response.headers.get("allow")) == (200, allowed)
    assert "location" not in response.headers
    assert b"example" not in response.body


@pytest.mark.parametrize("target", ["GET //metrics", "GET ///health", "OPTIONS //", "GET http://localhost//metrics"])
def test_paths_with_two_leading_slashes_are_not_found(live: Service, target: str) -> None:
    (response,) = exchange(live.port, f"{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert response.status == 404


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "10.0.0.1:80", "[::1]", "[::1]:80", "a_b.c-d", ""])
def test_valid_hosts_are_accepted(live: Service, host: str) -> None:
    (response,) = exchange(live.port, CLOSE.replace(b"localhost", host.encode()))
    assert response.status == 200


def test_host_is_not_required_in_http_1_0(live: Service) -> None:
    (response,) = exchange(live.port, b"GET /health/live HTTP/1.0\r\n\r\n")
    assert response.status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET http://localhost/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200, id="absolute form"),
        pytest.param(b"GET http://[::1/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="broken absolute form"),
        pytest.param(b"GET http:///health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="absolute form without a host"),
        pytest.param(b"GET http://a@b/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="absolute form with a user"),
        pytest.param(b"GET ftp://localhost/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="another scheme"),
        pytest.param(b"GET http://localhost/health/live HTTP/1.1\r\n\r\n", 400, id="absolute form without Host"),
        pytest.param(b"CONNECT localhost:80 HTTP/1.1\r\nHost: x\r\n\r\n", 501, id="CONNECT"),
        pytest.param(b"CONNECT /health/live HTTP/1.1\r\nHost: x\r\n\r\n", 501, id="CONNECT with a path"),
        pytest.param(b"GET localhost:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="authority form"),
        pytest.param(b"GET /health/live HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(GET[:-2] + b"Host: localhost\r\n\r\n", 400, id="two Hosts"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a b\r\n\r\n", 400, id="Host with a space"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, id="Host with a slash"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a,b\r\nHost: c\r\n\r\n", 400, id="Host list"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, id="Host with a user"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: a:b\r\n\r\n", 400, id="Host with a port that is no number"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: \xff\r\n\r\n", 400, id="Host with a byte that is not ASCII"),
        pytest.param(b"GET /find/\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="raw byte in the path"),
        pytest.param(b"GET /find/x?from=\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="raw bytes in the query"),
        pytest.param(GET[:-2] + CHUNKED.replace(b"chunked", b"gzip, chunked"), 501, id="gzip, chunked"),
        pytest.param(
            GET[:-2] + b"Transfer-Encoding: gzip\r\n" + CHUNKED,
            501,
            id="gzip and chunked",
        ),
        pytest.param(GET[:-2] + CHUNKED.replace(b"chunked", b"identity, chunked"), 501, id="identity, chunked"),
        pytest.param(b"GET health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="target without a slash"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="asterisk form"),
        pytest.param(b"GET /health/live\r\n\r\n", 400, id="HTTP/0.9"),
        pytest.param(b"GET /health/live HTTP/2.0\r\nHost: x\r\n\r\n", 400, id="HTTP/2.0"),
        pytest.param(b"GET /health/live HTTP/1.10\r\nHost: x\r\n\r\n", 400, id="HTTP/1.10"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400, id="HTTP/2 preface"),
        pytest.param(b"PROXY TCP4 127.0.0.1 127.0.0.1 56324 443\r\n" + GET, 400, id="PROXY protocol 1"),
        pytest.param(
            b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x00\x01\x00\x02" + GET,
            400,
            id="PROXY protocol 2",
        ),
        pytest.param(b"\x00" * 100 + b"\r\n\r\n", 400, id="NUL bytes"),
        pytest.param(b"GET /" + b"x" * 8190 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, id="request line over 8190 bytes"),
        pytest.param(b"GET /" + b"x" * 1_000_000, 414, id="request line without an end"),
        pytest.param(GET[:-2] + b"X: y\r\n" * 1000 + b"\r\n", 431, id="1000 headers"),
        pytest.param(GET[:-2] + b"X: " + b"y" * 8190 + b"\r\n\r\n", 431, id="header over 8190 bytes"),
        pytest.param(GET[:-2] + b"X: " + b"y" * 2_000_000, 431, id="header without an end"),
        pytest.param(GET[:-2] + b"X: y\r\n" * 400_000, 431, id="headers without an end"),
    ],
)
def test_odd_requests_get_a_response(live: Service, data: bytes, status: int) -> None:
    response = exchange(live.port, data + CLOSE)[0]
    if status == 200:
        assert response.status == 200
    else:
        assert_refused(response, status)


@pytest.mark.parametrize(
    "upgrade",
    [
        b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ],
    ids=["h2c", "WebSocket"],
)
def test_upgrade_to_another_protocol_is_ignored(live: Service, upgrade: bytes) -> None:
    """The response is that of a request without the header, on HTTP/1.1."""
    responses = exchange(live.port, GET.replace(b"\r\n\r\n", upgrade), CLOSE)
    assert [response.status for response in responses] == [200, 200]
