"""The request as the server parses it: the host of its target, and the responses to requests that it refuses."""

from __future__ import annotations

import json

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import create

from server.request import HttpRequest, RequestRefused, error_response


def parse(line: str, *headers: str) -> HttpRequest:
    data = "\r\n".join([line, *headers, "", ""]).encode()
    return HttpRequest(Config(), IterUnreader([data]), ("127.0.0.1", 1))


@pytest.mark.parametrize(
    ("line", "headers", "host", "path"),
    [
        ("GET http://a.example:80/users?limit=1 HTTP/1.1", ["Host: b.example", "X: y"], "a.example:80", "/users"),
        ("GET http://a.example HTTP/1.1", ["X: y", "Host: b.example"], "a.example", "/"),
        ("GET HTTPS://[::1]?a=b HTTP/1.1", ["Host:", "X: y"], "[::1]", "/"),
        ("GET http://a.example/ HTTP/1.0", ["X: y"], "a.example", "/"),
        ("GET /users HTTP/1.1", ["Host: b.example", "X: y"], "b.example", "/users"),
        ("GET /http://a.example HTTP/1.1", ["Host: b.example", "X: y"], "b.example", "/http://a.example"),
        ("OPTIONS * HTTP/1.1", ["Host: b.example", "X: y"], "b.example", "/"),
    ],
)
def test_host_of_the_target_replaces_the_header(line: str, headers: list[str], host: str, path: str) -> None:
    """RFC 9112, 3.2.2. Otherwise a proxy that checks one of them could be deceived by the other."""
    request = parse(line, *headers)
    assert sorted(request.headers) == [("HOST", host), ("X", "y")]
    assert request.path == path


@pytest.mark.parametrize("client", [("127.0.0.1", 1), ""], ids=["TCP", "Unix socket"])
def test_headers_of_proxies_change_nothing(client: object) -> None:
    """gunicorn would apply them to requests from this machine, and to all on a Unix socket."""
    data = b"GET /a/b HTTP/1.0\r\nSCRIPT_NAME: /a\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n"
    request = HttpRequest(Config(), IterUnreader([data]), client)
    _, environ = create(request, None, client or "", ("127.0.0.1", "8000"), Config())
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"], environ["wsgi.url_scheme"]) == ("", "/a/b", "http")


@pytest.mark.parametrize("error", [ValueError("secret"), InvalidResponseHeader("secret"), KeyboardInterrupt()])
def test_internal_errors_do_not_expose_details(error: BaseException) -> None:
    status, request_id, response = error_response(error)
    assert status == 500
    assert request_id.encode() in response
    assert b"secret" not in response


def test_long_details_are_shortened() -> None:
    _, _, response = error_response(RequestRefused(400, "é" * 10_000))
    head, _, body = response.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert json.loads(body)["detail"] == "é" * 500 + "…"
