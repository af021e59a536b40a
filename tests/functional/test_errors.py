"""Hostile and mistaken requests: each gets the contract's error, none a 500, and none changes anything."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.support import USER, Service, wait_for

PROBLEM = {"type", "title", "status", "detail", "instance", "request_id"}
ID = "00000000-0000-4000-8000-000000000000"
ANIMAL = {"genus": "Hostile", "species": "probe"}
PLANT = {"genus": "Hostile", "species": "probe"}


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The error has the one shape, and agrees with its status line and headers."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() == (PROBLEM | {"errors"} if status == 422 else PROBLEM)
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert "Server-Timing" in response.headers
    for error in body.get("errors", ()):
        assert error.keys() == {"loc", "msg", "type"}
    return body


def counts(session: Session, settings: Settings) -> list[int]:
    keyspace = settings.cassandra_keyspace
    return [
        session.execute(f"SELECT COUNT(*) FROM {keyspace}.{table}", timeout=30).one()[0]
        for table in ("animals", "plants", "users")
    ]


@pytest.fixture
def nothing_changes(live: Service, session: Session, settings: Settings) -> Any:
    """Fails a test that adds or removes a row of any table."""
    before = counts(session, settings)
    yield
    assert counts(session, settings) == before


CQL = "'; DROP TABLE users; --"
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
    ("POST", "/users", USER | {"email": CQL}, "email"),
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


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(("method", "path", "body", "field"), BODIES, ids=lambda value: str(value)[:40])
def test_bodies_that_break_a_rule(live: Service, method: str, path: str, body: Any, field: str) -> None:
    """422 names the field and the rule."""
    response = live.client.request(
        method, path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    problem = assert_problem(response, 422)
    assert [".".join(map(str, error["loc"])) for error in problem["errors"]] == [f"body.{field}".rstrip(".")]
    assert problem["errors"][0]["msg"]


@pytest.mark.usefixtures("nothing_changes")
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
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_that_are_no_json(live: Service, content: bytes, status: int, chunked: bool) -> None:
    """Broken JSON is 400 and a body over the limit 413, with a length and in chunks without one."""
    sent: Any = iter([content]) if chunked else content
    response = live.client.post("/users", content=sent, headers={"Content-Type": "application/json"})
    assert_problem(response, status)


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", None])
def test_other_content_types(live: Service, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = live.client.post("/users", content=json.dumps(USER).encode(), headers=headers)
    assert_problem(response, 415)


def test_a_body_that_was_not_read_ends_the_connection(live: Service) -> None:
    """After a body over the limit the next request of the same client is answered: it knows that it must reconnect."""
    large = b'{"name": "' + b"n" * 2_000_000 + b'"}'
    for _ in range(5):
        refused = live.client.post("/users", content=large, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.headers["Connection"]) == (413, "close")
        assert live.client.get("/users?limit=1").status_code == 200


def test_json_with_a_charset(live: Service) -> None:
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
    (f"/users/stream?age_filter={CQL}", "age_filter"),
    ("/users/stream?agefilter=30", "agefilter"),
    ("/users/stream/pages?fetch_size=-1", "fetch_size"),
    ("/users/stream/pages?age_filter=x", "age_filter"),
]


@pytest.mark.parametrize(("url", "name"), QUERIES, ids=lambda value: value[:30])
def test_queries_that_break_a_rule(live: Service, url: str, name: str) -> None:
    """422 names the parameter; an unknown one is no less wrong, for it may be a misspelt filter."""
    problem = assert_problem(live.client.get(url), 422)
    assert problem["errors"][0]["loc"] == ["query", name]


@pytest.mark.parametrize("seconds", ["0", "-1", "60.1", "61", "nan", "inf", "1_0", "5s", "", "1e400", "０５"])
def test_timeouts_that_are_none(live: Service, seconds: str) -> None:
    response = live.client.get("/users", headers={"X-Request-Timeout": seconds.encode()})
    problem = assert_problem(response, 422)
    assert problem["errors"][0]["loc"] == ["header", "X-Request-Timeout"]


@pytest.mark.parametrize("level", ["one", "SERIAL", "LOCAL_SERIAL", "ANY", "7", "", "ONE,TWO"])
def test_consistency_levels_that_are_none(live: Service, level: str) -> None:
    response = live.client.get("/users", headers={"X-Consistency-Level": level})
    problem = assert_problem(response, 422)
    assert problem["errors"][0]["loc"] == ["header", "X-Consistency-Level"]


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("level", ["TWO", "THREE"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/users?limit=1", None),
        ("GET", "/plant/Quercus", None),
        ("GET", f"/users/{ID}", None),
        ("POST", "/users", USER),
        ("POST", "/users/batch", [USER]),
        ("POST", "/plant", PLANT),
    ],
)
def test_levels_beyond_the_replication(live: Service, level: str, method: str, path: str, body: Any) -> None:
    """A level that this keyspace's single replica can never reach is the client's mistake, not an outage."""
    response = live.client.request(method, path, json=body, headers={"X-Consistency-Level": level})
    problem = assert_problem(response, 422)
    assert level in problem["errors"][0]["msg"]


@pytest.mark.parametrize("level", ["ONE", "QUORUM", "ALL", "LOCAL_QUORUM", "LOCAL_ONE", "EACH_QUORUM"])
def test_levels_that_work(live: Service, level: str) -> None:
    headers = {"X-Consistency-Level": level}
    created = live.client.post("/users", json=USER, headers=headers)
    assert created.status_code == 201
    assert live.client.get(created.headers["Location"], headers=headers).status_code == 200
    assert live.client.patch(created.headers["Location"], json={"age": 3}, headers=headers).status_code == 200
    assert live.client.delete(created.headers["Location"], headers=headers).status_code == 204


def test_any_is_for_writes(live: Service) -> None:
    created = live.client.post("/users", json=USER, headers={"X-Consistency-Level": "ANY"})
    assert created.status_code == 201


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
    ("GET", f"/plant/{CQL}/{CQL}", 404),
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
def test_paths_and_methods(live: Service, method: str, path: str, status: int) -> None:
    response = live.client.request(method, path)
    assert_problem(response, status)
    if status == 405:
        assert response.headers["Allow"]


def test_cql_in_every_text_is_text(live: Service) -> None:
    """CQL in a value is stored and found as the text that it is."""
    user = live.client.post("/users", json=USER | {"name": CQL})
    assert live.client.get(user.headers["Location"]).json()["name"] == CQL
    animal = live.client.post("/animal", json={"genus": CQL, "species": CQL, "taxonomy": [CQL]})
    assert live.client.get(animal.headers["Location"]).json()["taxonomy"] == [CQL]
    assert live.client.delete(animal.headers["Location"]).status_code == 204


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/users", "text/csv", 406),
        ("/users", "image/png", 406),
        ("/users/stream", "image/png", 406),
        ("/users/stream", "text/html, application/x-ndjson;q=0.1", 200),
        ("/users/stream", "application/json;q=0", 406),
        ("/users", "application/json; charset=utf-8", 200),
        ("/users/stream", "text/csv; charset=utf-8", 200),
        ("/users", "application/json;version=1", 200),
        ("/users", "text/csv; charset=utf-8", 406),
        ("/users", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", 200),
        ("/users", "*/*;q=.5", 200),
        ("/users", "*", 200),
        ("/users", ",", 200),
        ("/users", "text/html, */*;q=0.1", 200),
        ("/users", "application/*", 200),
        ("/users", "", 200),
        ("/health", "text/csv", 406),
    ],
)
def test_what_the_client_accepts(live: Service, path: str, accept: str, status: int) -> None:
    response = live.client.get(path, headers={"Accept": accept})
    assert response.status_code == status
    if status == 406:
        assert_problem(response, 406)


@pytest.mark.usefixtures("nothing_changes")
def test_not_acceptable_changes_nothing(live: Service) -> None:
    assert_problem(live.client.post("/users", json=USER, headers={"Accept": "text/csv"}), 406)


def test_request_ids(live: Service) -> None:
    """A good id of the client is kept and is in the log; another is replaced, and cannot write into the log."""
    good = "abc.DEF-1_2"
    assert live.client.get("/nope", headers={"X-Request-ID": good}).headers["X-Request-ID"] == good
    assert f"[{good}] GET /nope 404" in live.log_text()
    for bad in ("a b", "x" * 129, "é".encode(), "<script>", ""):
        given = live.client.get("/users?limit=1", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert len(given) == 36
    live.client.get("/animal/a%0a2026%20forged%20line/x")
    assert "\n2026 forged" not in live.log_text()


def test_no_internals_in_a_500(start: Callable[..., Service], keyspace: str, session: Session) -> None:
    """A fault of the service shows only its request_id, under which the log has the traceback."""
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    session.execute(f"DROP TABLE {keyspace}.animals", timeout=60)
    response = running.client.get("/animal/Vulpes/zerda", headers={"X-Request-ID": "the-broken-one"})
    problem = assert_problem(response, 500)
    assert "animals" not in response.text
    assert problem["request_id"] == "the-broken-one"
    log = running.log_text()
    assert "[the-broken-one] 500" in log
    assert "Traceback" in log


@pytest.mark.parametrize("chunk", [b"zz\r\nab\r\n", b"-5\r\nab\r\n", b"2\r\nabXX0\r\n\r\n", b"ffffffffffffffffff\r\n"])
def test_bodies_that_are_framed_wrongly(live: Service, chunk: bytes) -> None:
    """Chunks that are none are the client's fault, and end the connection and nothing else."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(
            b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            + chunk
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert live.live()


@pytest.mark.parametrize(
    "headers",
    [{"SCRIPT_NAME": "/x"}, {"SCRIPT_NAME": "/users"}, {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "off"}],
)
def test_headers_of_proxies_are_not_believed(live: Service, headers: dict[str, str]) -> None:
    """Nobody who merely connects from this machine can move the service's URLs or break its answers."""
    response = live.client.get("/users?limit=1", headers=headers)
    assert response.status_code == 200
    assert response.headers.get("Link", "</users?").startswith("</users?")


def test_a_default_level_that_does_not_work_is_our_own_fault(start: Callable[..., Service]) -> None:
    """Only the header's level is the client's mistake; the setting's is an outage, and the log names the level."""
    running = start({"CASSANDRA_CONSISTENCY_LEVEL": "TWO"}, healthy=False)
    wait_for(lambda: "Connected to Cassandra" in running.log_text(), what="the session")
    assert_problem(running.client.get("/users"), 503)
    assert "TWO needs 2 replicas" in running.log_text()


def test_health_is_cassandras_and_not_the_requests(live: Service) -> None:
    """A client can't make the service look ill by what it asks for."""
    assert live.client.get("/health", headers={"X-Consistency-Level": "THREE"}).status_code == 200
    assert_problem(live.client.get("/health", headers={"X-Request-Timeout": "0.000001"}), 504)


def test_caches_are_told_what_an_answer_depends_on(live: Service) -> None:
    """Where the client chooses the format, a cache must not hand one client's to another."""
    assert live.client.get("/plant/Quercus").headers["Vary"] == "Accept"
    assert "Vary" not in live.client.get("/users").headers


def test_a_request_that_is_not_http(live: Service) -> None:
    """Bytes that are no request do no harm to the next one."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
        connection.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    assert live.live()
