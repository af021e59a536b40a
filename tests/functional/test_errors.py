"""Invalid and malicious requests: each returns a documented error and changes nothing."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.functional.problems import assert_problem, assert_row_counts_unchanged
from tests.support import OBSERVER, Service

ID = "00000000-0000-4000-8000-000000000000"
FIND = {"genus": "Hostile", "species": "probe"}


@pytest.fixture
def row_counts_unchanged(live: Service, session: Session, settings: Settings) -> Iterator[None]:
    """Fail a test that adds or removes a row of any table."""
    with assert_row_counts_unchanged(session, settings):
        yield


INJECTION = "'; DROP TABLE observers; --"
BODIES: list[tuple[str, str, Any, str]] = [
    # method, path, body, the field that the error names
    ("POST", "/observers", OBSERVER | {"age": "36"}, "age"),
    ("POST", "/observers", OBSERVER | {"age": 36.5}, "age"),
    ("POST", "/observers", OBSERVER | {"age": True}, "age"),
    ("POST", "/observers", OBSERVER | {"age": -1}, "age"),
    ("POST", "/observers", OBSERVER | {"age": 151}, "age"),
    ("POST", "/observers", OBSERVER | {"age": 10**30}, "age"),
    ("POST", "/observers", OBSERVER | {"age": None}, "age"),
    ("POST", "/observers", OBSERVER | {"name": ""}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "  "}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "\u200b\ufeff"}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "a\x00b"}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "a\nb"}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "n" * 101}, "name"),
    ("POST", "/observers", OBSERVER | {"name": "n" * 1_000_000}, "name"),
    ("POST", "/observers", OBSERVER | {"name": 7}, "name"),
    ("POST", "/observers", OBSERVER | {"name": ["Ada"]}, "name"),
    ("POST", "/observers", OBSERVER | {"email": "no address"}, "email"),
    ("POST", "/observers", OBSERVER | {"email": "a@b"}, "email"),
    ("POST", "/observers", OBSERVER | {"email": "a" * 65 + "@example.org"}, "email"),
    ("POST", "/observers", OBSERVER | {"email": "é" * 33 + "@example.org"}, "email"),
    ("POST", "/observers", OBSERVER | {"email": INJECTION}, "email"),
    ("POST", "/observers", OBSERVER | {"email": "Ada <ada@example.org>"}, "email"),
    ("POST", "/observers", OBSERVER | {"id": ID}, "id"),
    ("POST", "/observers", OBSERVER | {"is_admin": True}, "is_admin"),
    ("POST", "/observers", {"name": "Ada", "age": 3}, "email"),
    ("PUT", f"/observers/{ID}", {"name": "Ada", "age": 3}, "email"),
    ("PUT", f"/observers/{ID}", OBSERVER | {"version": ID}, "version"),
    ("PATCH", f"/observers/{ID}", {"age": None}, "age"),
    ("PATCH", f"/observers/{ID}", {"name": None, "age": 3}, "name"),
    ("PATCH", f"/observers/{ID}", {"nickname": "A"}, "nickname"),
    ("POST", "/find", FIND | {"genus": ""}, "genus"),
    ("POST", "/find", FIND | {"genus": "\u3164\u2800"}, "genus"),
    ("POST", "/find", FIND | {"genus": "a/b"}, "genus"),
    ("POST", "/find", FIND | {"genus": "g" * 101}, "genus"),
    ("POST", "/find", FIND | {"species": "."}, "species"),
    ("POST", "/find", FIND | {"species": ".."}, "species"),
    ("POST", "/find", FIND | {"species": "a\u0085b"}, "species"),
    ("POST", "/find", FIND | {"sightings": 2**31}, "sightings"),
    ("POST", "/find", FIND | {"sightings": -1}, "sightings"),
    ("POST", "/find", FIND | {"size_cm": 3}, "size_cm"),
    ("POST", "/find", {"genus": "Hostile"}, "species"),
    ("POST", "/observers", [OBSERVER], ""),
    ("POST", "/observers", "text", ""),
    ("POST", "/observers", json.dumps(OBSERVER), ""),
    ("POST", "/observers", None, ""),
    ("POST", "/observers", 5, ""),
    ("PATCH", f"/observers/{ID}", {}, ""),
    ("POST", "/observers/batch", OBSERVER, ""),
    ("POST", "/observers/batch", [OBSERVER, "x"], "1"),
    ("POST", "/observers/batch", [OBSERVER, OBSERVER | {"age": -1}], "1.age"),
]


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize(("method", "path", "body", "field"), BODIES, ids=lambda value: str(value)[:40])
def test_invalid_bodies_are_rejected(live: Service, method: str, path: str, body: Any, field: str) -> None:
    """The status is 422, and the error names the field and the rule."""
    response = live.client.request(
        method, path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    problem = assert_problem(response, 422)
    assert [".".join(map(str, error["loc"])) for error in problem["errors"]] == [f"body.{field}".rstrip(".")]
    assert problem["errors"][0]["msg"]


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b'{"name": "Ada",}', 400),
        (b'{"age": NaN}', 400),
        (b'{"age": Infinity}', 400),
        (b'{"age": 1e999}', 400),
        (b'{"age": ' + b"9" * 400 + b"}", 400),
        (b'{"name": "\xff"}', 400),
        (b'{"name": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b"{} {}", 400),
        (b" " * 1_100_000, 413),
        (b'{"name": "' + b"n" * 2_000_000 + b'"}', 413),
    ],
    ids=lambda value: str(value[:20]) if isinstance(value, bytes) else str(value),
)
@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
def test_malformed_and_oversized_bodies_are_rejected(live: Service, content: bytes, status: int, chunked: bool) -> None:
    """Malformed JSON returns 400, and a body over the limit returns 413, with and without chunks."""
    sent: Any = iter([content]) if chunked else content
    response = live.client.post("/observers", content=sent, headers={"Content-Type": "application/json"})
    assert_problem(response, status)


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None])
def test_unsupported_content_types_are_rejected(live: Service, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = live.client.post("/observers", content=json.dumps(OBSERVER).encode(), headers=headers)
    assert_problem(response, 415)


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate, gzip", "br", "identity, gzip", "x"])
@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain JSON"])
def test_compressed_bodies_are_rejected(live: Service, encoding: str, compressed: bool) -> None:
    """Also a body that is not compressed in spite of its header. The response names what the service accepts."""
    content = json.dumps(OBSERVER).encode()
    response = live.client.post(
        "/observers",
        content=gzip.compress(content) if compressed else content,
        headers={"Content-Type": "application/json", "Content-Encoding": encoding},
    )
    assert "Content-Encoding" in assert_problem(response, 415)["detail"]
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", ""])
def test_bodies_without_compression_are_accepted(live: Service, encoding: str) -> None:
    response = live.client.post("/observers", json=OBSERVER, headers={"Content-Encoding": encoding})
    assert response.status_code == 201


def test_connection_is_closed_after_an_oversized_body(live: Service) -> None:
    """`Connection: close` tells the client to reconnect, so that its next request succeeds."""
    large = b'{"name": "' + b"n" * 2_000_000 + b'"}'
    for _ in range(5):
        rejected = live.client.post("/observers", content=large, headers={"Content-Type": "application/json"})
        assert (rejected.status_code, rejected.headers["Connection"]) == (413, "close")
        assert live.client.get("/observers?limit=1").status_code == 200


def test_content_type_may_have_a_charset(live: Service) -> None:
    response = live.client.post(
        "/observers", content=json.dumps(OBSERVER).encode(), headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 201


QUERIES = [
    ("/observers?limit=0", "limit"),
    ("/observers?limit=101", "limit"),
    ("/observers?limit=-1", "limit"),
    ("/observers?limit=ten", "limit"),
    ("/observers?limit=1e2", "limit"),
    ("/observers?limit=1_0", "limit"),
    ("/observers?limit=5.0", "limit"),
    ("/observers?limit=%205", "limit"),
    ("/observers?limit=", "limit"),
    ("/observers?limit=" + "9" * 5000, "limit"),
    ("/observers?offset=3", "offset"),
    ("/observers/stream?limit=-1", "limit"),
    ("/observers/stream?fetch_size=9", "fetch_size"),
    ("/observers/stream?fetch_size=5001", "fetch_size"),
    ("/observers/stream?fetch_size=NaN", "fetch_size"),
    (f"/observers/stream?fetch_size={INJECTION}", "fetch_size"),
    ("/observers/stream?fetchsize=30", "fetchsize"),
]


@pytest.mark.parametrize(("url", "name"), QUERIES, ids=lambda value: value[:30])
def test_invalid_query_parameters_are_rejected(live: Service, url: str, name: str) -> None:
    """The error names the parameter.

    An unknown parameter is an error too, as it may be a misspelled filter.
    """
    problem = assert_problem(live.client.get(url), 422)
    assert problem["errors"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("query", ["from=%ff", "from=a%c3", "%ff=a", "from=%c3&%a9", "from=%ed%a0%80", "x=%EF%BF%FE"])
@pytest.mark.parametrize("path", ["/find/Quercus", "/observers/stream", "/health/live"])
def test_query_strings_that_are_not_utf8_are_rejected(live: Service, path: str, query: str) -> None:
    """The service does not use another value than the client sent."""
    assert "UTF-8" in assert_problem(live.client.get(f"{path}?{query}"), 400)["detail"]


def test_characters_beyond_ascii_are_valid_in_paths_and_queries(live: Service) -> None:
    """Also U+FFFD, which stands for invalid bytes elsewhere."""
    for genus in ("\ufffd\ufffd", "é\ufffd", "𝄞"):
        created = live.client.post("/find", json=FIND | {"genus": genus})
        assert live.client.get(created.headers["Location"]).json()["genus"] == genus
        path = created.headers["Location"].rpartition("/")[0]
        assert [row["species"] for row in live.client.get(path, params={"to": genus}).json()] == ["probe"]
        assert live.client.get(path, params={"from": genus}).json() == []
        assert live.client.delete(created.headers["Location"]).status_code == 204


def test_invalid_bytes_in_a_path_delete_no_other_row(live: Service) -> None:
    """Werkzeug would decode them to U+FFFD, which is another key."""
    created = live.client.post("/find", json=FIND | {"genus": "\ufffd\ufffd"})
    assert "UTF-8" in assert_problem(live.client.delete("/find/%c0%c1/probe"), 400)["detail"]
    assert live.client.delete(created.headers["Location"]).status_code == 204


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/observers/stream", "GET, HEAD, OPTIONS"),
        ("/observers/batch", "OPTIONS, POST"),
    ],
)
def test_static_paths_have_only_their_own_methods(live: Service, path: str, allowed: str) -> None:
    """Not those of `/observers/<id>`, whose route matches the path too."""
    options = live.client.options(path)
    assert (options.status_code, options.headers["Allow"]) == (200, allowed)
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"} - set(allowed.split(", ")):
        response = live.client.request(method, path)
        assert (response.status_code, response.headers["Allow"]) == (405, allowed), method


def test_range_behind_the_end_of_a_file_returns_its_length(live: Service) -> None:
    length = int(live.client.head("/docs/swagger-ui.css", headers={"Accept-Encoding": ""}).headers["Content-Length"])
    response = live.client.get("/docs/swagger-ui.css", headers={"Range": f"bytes={length}-"})
    assert_problem(response, 416)
    assert response.headers["Content-Range"] == f"bytes */{length}"


PATHS: list[tuple[str, str, int]] = [
    ("GET", "/nope", 404),
    ("GET", "/observers/", 404),
    ("GET", "/find//robur", 404),
    ("GET", "/find", 405),
    ("GET", "/find/", 404),
    ("GET", "/find/Quercus/none", 404),
    ("GET", "/find/Quercus/robur/more", 404),
    ("GET", "/find/%00/%0a", 422),
    ("GET", "/find/%ff%fe/x", 400),
    ("DELETE", "/find/%c0%c1/x", 400),
    ("OPTIONS", "/find/%ff", 400),
    ("GET", "/%ff", 400),
    ("GET", "/find/%EF%BF%BD/x", 404),
    ("GET", "//evil.example/%2e%2e", 404),
    ("GET", "/health/", 404),
    ("GET", f"/find/{INJECTION}/{INJECTION}", 404),
    ("DELETE", "/observers", 405),
    ("PATCH", "/find", 405),
    ("POST", "/observers/stream", 405),
    ("PUT", "/health", 405),
    ("TRACE", "/observers", 405),
    ("BREW", "/observers", 405),
    ("GET", "/observers/%00", 400),
    ("GET", "/observers/00000000-0000-4000-8000-00000000000g", 400),
    ("GET", "/docs/../api.py", 404),
    ("GET", "/docs/..%2f..%2fapi.py", 404),
    ("GET", "/docs/nope.js", 404),
    ("GET", "/static/x", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), PATHS)
def test_unknown_paths_and_methods_are_rejected(live: Service, method: str, path: str, status: int) -> None:
    response = live.client.request(method, path)
    assert_problem(response, status)
    if status == 405:
        assert response.headers["Allow"]


def test_cql_in_values_is_not_executed(live: Service) -> None:
    """A value that contains CQL is stored and read as plain text."""
    observer = live.client.post("/observers", json=OBSERVER | {"name": INJECTION})
    assert live.client.get(observer.headers["Location"]).json()["name"] == INJECTION
    find = live.client.post("/find", json={"genus": INJECTION, "species": INJECTION})
    assert live.client.get(find.headers["Location"]).json()["species"] == INJECTION
    assert live.client.delete(find.headers["Location"]).status_code == 204


def test_internal_errors_do_not_expose_details(start: Callable[..., Service], keyspace: str, session: Session) -> None:
    """The response to an internal error has only a request id.

    The log has the traceback with that id.
    """
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    session.execute(f"DROP TABLE {keyspace}.finds", timeout=60)
    response = running.client.get("/find/Quercus/robur", headers={"X-Request-ID": "the-failed-request"})
    problem = assert_problem(response, 500)
    assert "finds" not in response.text
    assert problem["request_id"] == "the-failed-request"
    running.wait_for_log("[the-failed-request] 500")
    running.wait_for_log("Traceback")


@pytest.mark.parametrize("chunk", [b"zz\r\nab\r\n", b"-5\r\nab\r\n", b"2\r\nabXX0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_malformed_chunks_are_rejected(live: Service, chunk: bytes) -> None:
    """Malformed chunks return 400, and the service keeps running."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(
            b"POST /observers HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + chunk
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert live.live()


def test_bytes_that_are_not_http_are_rejected(live: Service) -> None:
    """Bytes that are not an HTTP request return 400, and the service keeps running."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert live.live()
