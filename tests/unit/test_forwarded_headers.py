"""Which values of the forwarded headers the service takes over."""

from __future__ import annotations

import re
from typing import Any

import pytest
from werkzeug.test import create_environ, run_wsgi_app

from tests.support import PROJECT
from web.forwarded_headers import trust_proxies


def environ_behind(count: int, **headers: str) -> dict[str, Any]:
    """Return the WSGI environment of a request after `count` trusted proxies."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.update(environ)
        start_response("200 OK", [])
        return []

    environ = create_environ(environ_overrides={"SCRIPT_NAME": "/own", "REMOTE_ADDR": "10.0.0.1"})
    environ.update({f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in headers.items()})
    run_wsgi_app(trust_proxies(app, count), environ)
    return seen


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("/field", "/field"),
        ("/field/", "/field/"),
        ("/a/b-c_d.e~f/0", "/a/b-c_d.e~f/0"),
        ("/.well-known/...", "/.well-known/..."),
        ("/evil, /field", "/field"),
        ("/" + "a" * 199, "/" + "a" * 199),
        ("/" + "a" * 200, "/own"),
        ("", "/own"),
        ("/", "/own"),
        ("field", "/own"),
        ("//evil.example", "/own"),
        ("/field//evil.example", "/own"),
        ("/field//", "/own"),
        ("/\\evil.example", "/own"),
        ("\\\\evil.example", "/own"),
        ("http://evil.example", "/own"),
        ("/.", "/own"),
        ("/..", "/own"),
        ("/a/../b", "/own"),
        ("/a/./b", "/own"),
        ("/a/..", "/own"),
        ("/%2e%2e", "/own"),
        ("/a?b", "/own"),
        ("/a#b", "/own"),
        ("/a b", "/own"),
        ("/a\n", "/own"),
        ("/a>;rel=x", "/own"),
        ("/é", "/own"),
        ('"//evil, b"', "/own"),
    ],
)
def test_prefix_must_be_a_path_of_plain_segments(header: str, expected: str) -> None:
    assert environ_behind(1, prefix=header)["SCRIPT_NAME"] == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [("https", "https"), ("http", "http"), ("ws", "http"), ("HTTPS", "http"), ("https\n", "http"), ("é", "http")],
)
def test_scheme_must_be_http_or_https(header: str, expected: str) -> None:
    assert environ_behind(1, proto=header)["wsgi.url_scheme"] == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("6.6.6.6, 2001:db8::1", "2001:db8::1"),
        ("192.0.2.1:5678", "192.0.2.1:5678"),
        ("unknown", "10.0.0.1"),
        ("1.2.3.4\x1b[2J", "10.0.0.1"),
        ("1" * 61, "10.0.0.1"),
    ],
)
def test_client_address_must_have_the_characters_of_an_address(header: str, expected: str) -> None:
    environ = environ_behind(1, **{"for": header})
    assert environ["REMOTE_ADDR"] == expected


def test_nginx_configuration_sets_or_clears_every_header() -> None:
    configuration = (PROJECT / "deploy" / "nginx" / "fieldbook.conf").read_text()
    headers = {"Host", "Forwarded", *(f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Port", "Prefix"))}
    assert headers <= set(re.findall(r"^ +proxy_set_header (\S+) .+;$", configuration, re.MULTILINE))


def test_with_two_proxies_the_last_value_but_one_counts() -> None:
    environ = environ_behind(2, prefix="/evil, /field, /inner", proto="ws, https, http", **{"for": "6.6.6.6, 1.1.1.1"})
    assert (environ["SCRIPT_NAME"], environ["wsgi.url_scheme"]) == ("/field", "https")
    assert environ["REMOTE_ADDR"] == "6.6.6.6"
    assert environ_behind(2, prefix="/evil")["SCRIPT_NAME"] == "/own"
