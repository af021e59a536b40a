"""HTTP on raw sockets: odd segments, pipelining, limits, other protocols, half-closed and reset connections.

Each case ends in a response or a close, never in a hang. tests/functional/test_request_smuggling.py has the cases in
which bytes of one request could become another request.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.sockets import MAX_BODY_BYTES, RawClient, exchange
from tests.support import Service, in_flight, wait_for
from tests.testbed.sample_data import observers

GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
CLOSE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.fixture(autouse=True)
def _still_works(target: Service) -> Iterator[None]:
    """Check after each test that the service works, that no request is in flight, and that the log has no traceback."""
    yield
    assert target.client.get("/observers?limit=1").status_code == 200
    wait_for(lambda: in_flight(target) == 0, description="no request in flight")
    assert "Traceback" not in target.log_text()


def find(species: str, *headers: str, framing: str = "length") -> bytes:
    """The bytes of a `POST /find` that creates a row of the genus "Raw"."""
    body = json.dumps({"genus": "Raw", "species": species}).encode()
    lines = ["POST /find HTTP/1.1", "Host: localhost", "Content-Type: application/json", *headers]
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
    else:
        lines.append("Transfer-Encoding: chunked")
        body = b"3\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (body[:3], len(body) - 3, body[3:])
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def created(target: Service) -> set[str]:
    """The species of the genus "Raw"; they are deleted."""
    species = {row["species"] for row in target.client.get("/find/Raw").json()}
    for name in species:
        assert target.client.delete(f"/find/Raw/{name}").status_code == 204
    return species


# --- segments and pipelining ---------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_request_can_arrive_byte_by_byte(target: Service, framing: str) -> None:
    data = find("bytes", "Connection: close", framing=framing)
    segments = [data[position : position + 1] for position in range(len(data))]
    assert [response.status for response in exchange(target.port, *segments, pause=0.001)] == [201]
    assert created(target) == {"bytes"}


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_request_can_be_split_anywhere_around_its_line_ends(target: Service, framing: str) -> None:
    """The two segments of a request are split at each position of each CRLF."""
    data = find("split", "Connection: close", framing=framing)
    splits = {end + offset for end in range(len(data)) if data.startswith(b"\r\n", end) for offset in range(3)}
    for position in sorted(splits - {len(data)}):
        responses = exchange(target.port, data[:position], data[position:], pause=0.01)
        assert [response.status for response in responses] == [201], position
    assert created(target) == {"split"}


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("split", [None, 10, 90, -20], ids=["whole", "in its line", "in its headers", "in its body"])
def test_pipelined_requests_with_bodies_are_answered_in_order(target: Service, framing: str, split: int | None) -> None:
    """Two POST and a GET in one segment, or in two segments with the second request split.

    The service may end the connection after a response that says so; the requests behind it are then not processed.
    """
    first, second = find("one", framing=framing), find("two", framing=framing)
    segments = [first + second + CLOSE]
    if split is not None:
        position = len(first) + split % len(second)
        segments = [segments[0][:position], segments[0][position:]]
    responses = exchange(target.port, *segments, pause=0.05)
    statuses = [response.status for response in responses]
    assert statuses == [201, 201, 200][: len(responses)]
    assert [response.closes for response in responses] == [False] * (len(responses) - 1) + [True]
    assert len(responses) == 3 or framing == "chunks"
    assert created(target) == set(["one", "two"][: len(responses)])


def test_many_pipelined_requests_are_answered_in_order(target: Service) -> None:
    """250 requests in one segment; each response has the X-Request-ID of its request."""
    ids = [f"request-{number}" for number in range(250)]
    data = b"".join(GET.replace(b"\r\n\r\n", b"\r\nX-Request-ID: %b\r\n\r\n" % name.encode()) for name in ids)
    responses = exchange(target.port, data + CLOSE)
    assert [response.status for response in responses] == [200] * 251
    assert [response.headers["x-request-id"] for response in responses[:-1]] == ids


def test_bodiless_responses_keep_the_connection_usable(target: Service) -> None:
    """No response to HEAD, no 204 and no 304 has a body that a client would take for the next response."""
    path = f"/observers/{next(observers.rows()).id}"
    etag = target.client.get(path).headers["ETag"]
    requests = [
        ("HEAD", path, "", 200),
        ("HEAD", "/observers/stream", "", 200),
        ("HEAD", "/docs/swagger-ui-bundle.js", "", 200),
        ("HEAD", "/nowhere", "", 404),
        ("DELETE", "/find/no/where", "", 204),
        ("GET", path, f"If-None-Match: {etag}\r\n", 304),
        ("HEAD", path, f"If-None-Match: {etag}\r\n", 304),
    ]
    with RawClient(target.port) as client:
        for method, url, header, status in requests * 2:
            client.send(f"{method} {url} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n".encode())
            assert client.read_response(method).status == status
        client.send(CLOSE)
        assert [response.status for response in client.read_to_end()] == [200]


# --- versions, targets and other protocols -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "stays"), [("", False), ("Connection: keep-alive\r\n", True), ("Connection: close\r\n", False)]
)
def test_http_1_0_connection_ends_unless_the_client_asks_to_keep_it(target: Service, headers: str, stays: bool) -> None:
    data = f"GET /health/live HTTP/1.0\r\n{headers}\r\n".encode()
    responses = exchange(target.port, data, CLOSE)
    assert [response.status for response in responses] == [200, 200] if stays else [200]
    assert responses[0].closes is not stays


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET http://localhost/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 200, id="absolute form"),
        pytest.param(b"GET http://[::1/health/live HTTP/1.1\r\nHost: x\r\n\r\n", 400, id="broken absolute form"),
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
def test_odd_requests_get_a_response(target: Service, data: bytes, status: int) -> None:
    response = exchange(target.port, data + CLOSE)[0]
    assert response.status == status
    assert response.closes or status == 200


@pytest.mark.slow
def test_tls_client_hello_ends_in_a_close(target: Service) -> None:
    """The first bytes of a TLS client have no line end, so only the limit of time for the headers ends them."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32, 64)) + bytes(470)
    with RawClient(target.port) as client:
        client.send(hello)
        assert all(response.status in (400, 408) for response in client.read_to_end())


def test_upgrade_to_another_protocol_is_ignored(target: Service) -> None:
    """The response is that of a request without the header, on HTTP/1.1."""
    upgrade = b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
    responses = exchange(target.port, GET.replace(b"\r\n\r\n", upgrade), CLOSE)
    assert [response.status for response in responses] == [200, 200]


# --- Expect: 100-continue ------------------------------------------------------------------------------------

EXPECTING, BODY = find("expected", "Expect: 100-continue", "Connection: close").split(b"\r\n\r\n")
EXPECTING += b"\r\n\r\n"


def test_client_can_wait_for_100_before_it_sends_the_body(target: Service) -> None:
    with RawClient(target.port) as client:
        client.send(EXPECTING)
        assert client.read_response().status == 100
        client.send(BODY)
        assert [response.status for response in client.read_to_end()] == [201]
    assert created(target) == {"expected"}


def test_client_can_send_the_body_without_waiting_for_100(target: Service) -> None:
    responses = exchange(target.port, EXPECTING + BODY)
    assert [response.status for response in responses if response.status != 100] == [201]
    assert created(target) == {"expected"}


@pytest.mark.parametrize("sends", [False, True], ids=["waits", "sends at once"])
def test_expected_body_over_the_limit_gets_413(target: Service, sends: bool) -> None:
    """A client that waits for 100 gets 413 without sending its body."""
    large = EXPECTING.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % (2 * MAX_BODY_BYTES))
    responses = exchange(target.port, large + b" " * (2 * MAX_BODY_BYTES) if sends else large)
    assert [response.status for response in responses if response.status != 100] == [413]


def test_unknown_expectation_gets_417(target: Service) -> None:
    (response,) = exchange(target.port, EXPECTING.replace(b"100-continue", b"200-ok"))
    assert (response.status, response.closes) == (417, True)


# --- half-closed and reset connections -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        pytest.param(GET, [200], id="GET"),
        pytest.param(GET * 3, [200] * 3, id="three requests"),
        pytest.param(find("half"), [201], id="POST"),
        pytest.param(find("half", framing="chunks"), [201], id="chunks"),
        pytest.param(GET.replace(b"/health/live", b"/observers/stream?limit=1000"), [200], id="stream"),
    ],
)
def test_half_closed_client_gets_its_responses(target: Service, data: bytes, statuses: list[int]) -> None:
    """A client may send the end of its stream after its last request."""
    with RawClient(target.port) as client:
        client.send(data)
        client.half_close()
        assert [response.status for response in client.read_to_end()] == statuses
    created(target)


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("position", [0, 1, 30, 100, -1], ids=str)
def test_half_closed_client_with_an_incomplete_request_is_disconnected(
    target: Service, framing: str, position: int
) -> None:
    """The request changes nothing. A response, if there is one, is an error."""
    with RawClient(target.port) as client:
        client.send(find("incomplete", framing=framing)[:position])
        client.half_close()
        assert all(response.status in (400, 408) for response in client.read_to_end())
    assert created(target) == set()


def test_incomplete_body_is_not_used_even_if_it_is_valid_json(target: Service) -> None:
    """The client announced more bytes than it sent, and sent the end of its stream."""
    request = find("incomplete")
    head, _, body = request.partition(b"\r\n\r\n")
    announced = head.replace(b"Content-Length: %d" % len(body), b"Content-Length: %d" % (len(body) + 10))
    assert announced != head
    with RawClient(target.port) as client:
        client.send(announced + b"\r\n\r\n" + body)
        client.half_close()
        assert [response.status for response in client.read_to_end()] == [400]
    assert created(target) == set()


def test_connections_can_be_reset_anywhere_in_a_request(target: Service) -> None:
    """The request is incomplete, so it changes nothing."""
    for framing in ("length", "chunks"):
        data = find("reset", framing=framing)
        for position in range(0, len(data), 7):
            with RawClient(target.port) as client:
                client.send(data[:position])
                client.reset()
    assert target.client.get("/health/live").status_code == 200
    assert created(target) == set()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_connections_can_end_in_the_middle_of_a_response(target: Service, how: str) -> None:
    with RawClient(target.port, receive_buffer=4096) as client:
        client.send(GET.replace(b"/health/live", b"/docs/swagger-ui-bundle.js"))
        assert client.socket.recv(100, socket.MSG_PEEK)
        if how == "reset":
            client.reset()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reset", "close"])
def test_connections_can_end_in_the_middle_of_a_stream(
    start: Callable[..., Service], keyspace: str, add_observers: Callable[[str, int], None], how: str
) -> None:
    """The service stops the stream, and counts it as one whose client disconnected."""
    add_observers(keyspace, 20_000)
    running = start({"WEB_CONCURRENCY": "1", "CASSANDRA_KEYSPACE": keyspace})
    with RawClient(running.port, receive_buffer=4096) as client:
        client.send(GET.replace(b"/health/live", b"/observers/stream?limit=20000"))
        assert client.socket.recv(100, socket.MSG_PEEK)
        if how == "reset":
            client.reset()
    headers = {"Accept": "text/plain"}
    ended = 'fieldbook_streams_ended_total{outcome="disconnected",route="/observers/stream"} 1.0'
    wait_for(lambda: ended in running.client.get("/metrics", headers=headers).text, description="the end of the stream")
    assert "Traceback" not in running.log_text()
