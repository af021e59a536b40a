"""Invalid and malicious requests: each returns a documented error and changes nothing."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.functional.problems import assert_problem, assert_row_counts_unchanged
from tests.support import USER, Service

ID = "00000000-0000-4000-8000-000000000000"
ANIMAL = {"genus": "Hostile", "species": "probe"}
PLANT = {"genus": "Hostile", "species": "probe"}


@pytest.fixture
def row_counts_unchanged(live: Service, session: Session, settings: Settings) -> Iterator[None]:
    """Fail a test that adds or removes a row of any table."""
    with assert_row_counts_unchanged(session, settings):
        yield


INJECTION = "'; DROP TABLE users; --"
BODIES: list[tuple[str, str, Any, str]] = [
    # method, path, body, the field that the error names
    ("POST", "/users", USER | {"age": "36"}, "age"),
    ("POST", "/users", USER | {"age": 36.5}, "age"),
    ("POST", "/users", USER | {"age": True}, "age"),
    ("POST", "/users", USER | {"age": -1}, "age"),
    ("POST", "/users", USER | {"age": 151}, "age"),
    ("POST", "/users", USER | {"age": 10**30}, "age"),
    ("POST", "/users", USER | {"age": None}, "age"),
    ("POST", "/users", USER | {"name": ""}, "name"),
    ("POST", "/users", USER | {"name": "  "}, "name"),
    ("POST", "/users", USER | {"name": "a\x00b"}, "name"),
    ("POST", "/users", USER | {"name": "a\nb"}, "name"),
    ("POST", "/users", USER | {"name": "n" * 101}, "name"),
    ("POST", "/users", USER | {"name": "n" * 1_000_000}, "name"),
    ("POST", "/users", USER | {"name": 7}, "name"),
    ("POST", "/users", USER | {"name": ["Ada"]}, "name"),
    ("POST", "/users", USER | {"email": "no address"}, "email"),
    ("POST", "/users", USER | {"email": "a@b"}, "email"),
    ("POST", "/users", USER | {"email": INJECTION}, "email"),
    ("POST", "/users", USER | {"email": "Ada <ada@example.org>"}, "email"),
    ("POST", "/users", USER | {"id": ID}, "id"),
    ("POST", "/users", USER | {"is_admin": True}, "is_admin"),
    ("POST", "/users", {"name": "Ada", "age": 3}, "email"),
    ("PUT", f"/users/{ID}", {"name": "Ada", "age": 3}, "email"),
    ("PUT", f"/users/{ID}", USER | {"version": ID}, "version"),
    ("PATCH", f"/users/{ID}", {"age": None}, "age"),
    ("PATCH", f"/users/{ID}", {"name": None, "age": 3}, "name"),
    ("PATCH", f"/users/{ID}", {"nickname": "A"}, "nickname"),
    ("POST", "/animal", ANIMAL | {"genus": ""}, "genus"),
    ("POST", "/animal", ANIMAL | {"genus": "a/b"}, "genus"),
    ("POST", "/animal", ANIMAL | {"genus": "g" * 101}, "genus"),
    ("POST", "/animal", ANIMAL | {"species": "."}, "species"),
    ("POST", "/animal", ANIMAL | {"species": ".."}, "species"),
    ("POST", "/animal", ANIMAL | {"species": "a\u0085b"}, "species"),
    ("POST", "/animal", ANIMAL | {"image_url": "ftp://example.org/a"}, "image_url"),
    ("POST", "/animal", ANIMAL | {"image_url": "javascript:alert(1)"}, "image_url"),
    ("POST", "/animal", ANIMAL | {"image_url": "https://"}, "image_url"),
    ("POST", "/animal", ANIMAL | {"image_url": ""}, "image_url"),
    ("POST", "/animal", ANIMAL | {"image_url": "http:foo"}, "image_url"),
    ("POST", "/animal", ANIMAL | {"image_url": "http:////a"}, "image_url"),
    ("POST", "/animal", ANIMAL | {"size_cm": 0}, "size_cm"),
    ("POST", "/animal", ANIMAL | {"size_cm": -1.5}, "size_cm"),
    ("POST", "/animal", ANIMAL | {"size_cm": "big"}, "size_cm"),
    ("POST", "/animal", ANIMAL | {"sightings": 2**31}, "sightings"),
    ("POST", "/animal", ANIMAL | {"sightings": -1}, "sightings"),
    ("POST", "/animal", ANIMAL | {"taxonomy": "Animalia"}, "taxonomy"),
    ("POST", "/animal", ANIMAL | {"taxonomy": [1]}, "taxonomy.0"),
    ("POST", "/animal", ANIMAL | {"taxonomy": None}, "taxonomy"),
    ("POST", "/plant", PLANT | {"size_cm": 3}, "size_cm"),
    ("POST", "/plant", {"genus": "Hostile"}, "species"),
    ("POST", "/users", [USER], ""),
    ("POST", "/users", "text", ""),
    ("POST", "/users", json.dumps(USER), ""),
    ("POST", "/users", None, ""),
    ("POST", "/users", 5, ""),
    ("PATCH", f"/users/{ID}", {}, ""),
    ("POST", "/users/batch", USER, ""),
    ("POST", "/users/batch", [USER, "x"], "1"),
    ("POST", "/users/batch", [USER, USER | {"age": -1}], "1.age"),
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
    response = live.client.post("/users", content=sent, headers={"Content-Type": "application/json"})
    assert_problem(response, status)


@pytest.mark.usefixtures("row_counts_unchanged")
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None])
def test_unsupported_content_types_are_rejected(live: Service, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = live.client.post("/users", content=json.dumps(USER).encode(), headers=headers)
    assert_problem(response, 415)


def test_connection_is_closed_after_an_oversized_body(live: Service) -> None:
    """`Connection: close` tells the client to reconnect, so that its next request succeeds."""
    large = b'{"name": "' + b"n" * 2_000_000 + b'"}'
    for _ in range(5):
        rejected = live.client.post("/users", content=large, headers={"Content-Type": "application/json"})
        assert (rejected.status_code, rejected.headers["Connection"]) == (413, "close")
        assert live.client.get("/users?limit=1").status_code == 200


def test_content_type_may_have_a_charset(live: Service) -> None:
    response = live.client.post(
        "/users", content=json.dumps(USER).encode(), headers={"Content-Type": "application/json; charset=utf-8"}
    )
    assert response.status_code == 201


QUERIES = [
    ("/users?limit=0", "limit"),
    ("/users?limit=101", "limit"),
    ("/users?limit=-1", "limit"),
    ("/users?limit=ten", "limit"),
    ("/users?limit=1e2", "limit"),
    ("/users?limit=1_0", "limit"),
    ("/users?limit=5.0", "limit"),
    ("/users?limit=%205", "limit"),
    ("/users?limit=", "limit"),
    ("/users?limit=" + "9" * 5000, "limit"),
    ("/users?offset=3", "offset"),
    ("/users/stream?limit=-1", "limit"),
    ("/users/stream?fetch_size=9", "fetch_size"),
    ("/users/stream?fetch_size=5001", "fetch_size"),
    ("/users/stream?age_filter=-1", "age_filter"),
    ("/users/stream?age_filter=151", "age_filter"),
    ("/users/stream?age_filter=NaN", "age_filter"),
    (f"/users/stream?age_filter={INJECTION}", "age_filter"),
    ("/users/stream?agefilter=30", "agefilter"),
    ("/users/stream/pages?fetch_size=-1", "fetch_size"),
    ("/users/stream/pages?age_filter=x", "age_filter"),
]


@pytest.mark.parametrize(("url", "name"), QUERIES, ids=lambda value: value[:30])
def test_invalid_query_parameters_are_rejected(live: Service, url: str, name: str) -> None:
    """The error names the parameter.

    An unknown parameter is an error too, as it may be a misspelled filter.
    """
    problem = assert_problem(live.client.get(url), 422)
    assert problem["errors"][0]["loc"] == ["query", name]


PATHS: list[tuple[str, str, int]] = [
    ("GET", "/nope", 404),
    ("GET", "/users/", 404),
    ("GET", "/animal//zerda", 404),
    ("GET", "/animal", 405),
    ("GET", "/animal/", 404),
    ("GET", "/animal/Vulpes/none", 404),
    ("GET", "/animal/Vulpes/zerda/more", 404),
    ("GET", "/animal/%00/%0a", 404),
    ("GET", "/animal/%ff%fe/x", 404),
    ("GET", f"/plant/{INJECTION}/{INJECTION}", 404),
    ("DELETE", "/users", 405),
    ("PATCH", "/animal", 405),
    ("POST", "/users/stream", 405),
    ("PUT", "/health", 405),
    ("TRACE", "/users", 405),
    ("BREW", "/users", 405),
    ("GET", "/users/%00", 400),
    ("GET", "/users/00000000-0000-4000-8000-00000000000g", 400),
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
    user = live.client.post("/users", json=USER | {"name": INJECTION})
    assert live.client.get(user.headers["Location"]).json()["name"] == INJECTION
    animal = live.client.post("/animal", json={"genus": INJECTION, "species": INJECTION, "taxonomy": [INJECTION]})
    assert live.client.get(animal.headers["Location"]).json()["taxonomy"] == [INJECTION]
    assert live.client.delete(animal.headers["Location"]).status_code == 204


def test_internal_errors_do_not_expose_details(start: Callable[..., Service], keyspace: str, session: Session) -> None:
    """The response to an internal error has only a request id.

    The log has the traceback with that id.
    """
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    session.execute(f"DROP TABLE {keyspace}.animals", timeout=60)
    response = running.client.get("/animal/Vulpes/zerda", headers={"X-Request-ID": "the-failed-request"})
    problem = assert_problem(response, 500)
    assert "animals" not in response.text
    assert problem["request_id"] == "the-failed-request"
    log = running.log_text()
    assert "[the-failed-request] 500" in log
    assert "Traceback" in log


@pytest.mark.parametrize("chunk", [b"zz\r\nab\r\n", b"-5\r\nab\r\n", b"2\r\nabXX0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_malformed_chunks_are_rejected(live: Service, chunk: bytes) -> None:
    """Malformed chunks return 400, and the service keeps running."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(
            b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunk
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
