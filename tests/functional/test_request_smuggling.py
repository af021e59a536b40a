"""Request smuggling: bytes of one request are never answered as another request.

Every case hides a complete `POST /find` where a proxy and the service could disagree about the end of a request. The
hidden request must never be answered or logged, and must never create its row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.sockets import MAX_BODY_BYTES, exchange
from tests.support import Service

ROW = json.dumps({"genus": "Smuggled", "species": "request"}).encode()
HIDDEN = b"POST /find HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
    len(ROW),
    ROW,
)
OBSERVER = json.dumps({"name": "Ada", "email": "ada@example.org", "age": 36}).encode()
# If the service still reads requests from the connection, it answers this one and then ends the connection.
LAST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

POST = "POST /observers HTTP/1.1"


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    """The bytes of a request with a JSON body."""
    lines = [line, "Host: localhost", "Content-Type: application/json", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunked(*chunks: bytes) -> bytes:
    """A chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@pytest.fixture(autouse=True)
def _nothing_smuggled(target: Service) -> Iterator[None]:
    """Fail a test whose hidden request was answered, or after which the service does not work."""
    yield
    assert target.client.get("/health/live").status_code == 200
    assert target.client.get("/find/Smuggled").json() == []
    assert "] POST /find " not in target.log_text()
    assert "Traceback" not in target.log_text()


LENGTH = f"Content-Length: {len(OBSERVER)}"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(["Content-Length: 5", CHUNKED], id="CL.TE"),
        pytest.param([CHUNKED, "Content-Length: 5"], id="TE.CL"),
        pytest.param([CHUNKED, "Content-Length: 0"], id="TE and a length of 0"),
        pytest.param(["Content-Length: 0", LENGTH], id="two lengths"),
        pytest.param([LENGTH, LENGTH], id="the same length twice"),
        pytest.param(["Content-Length: 5, 5"], id="list of lengths"),
        pytest.param(["Content-Length: +5"], id="length with a plus sign"),
        pytest.param(["Content-Length: -5"], id="negative length"),
        pytest.param(["Content-Length: 5 5"], id="length with a space"),
        pytest.param(["Content-Length: 1_0"], id="length with an underscore"),
        pytest.param(["Content-Length: 0x5"], id="hexadecimal length"),
        pytest.param(["Content-Length: 5.0"], id="length with a fraction"),
        pytest.param(["Content-Length: \xb2"], id="length of a superscript digit"),
        pytest.param(["Content-Length:"], id="empty length"),
        pytest.param(["Content-Length: " + "9" * 5000], id="length of 5000 digits"),
        pytest.param(["Transfer-Encoding: chunked, identity"], id="chunked, identity"),
        pytest.param(["Transfer-Encoding: chunked, chunked"], id="chunked, chunked"),
        pytest.param([CHUNKED, CHUNKED], id="chunked twice"),
        pytest.param(["Transfer-Encoding: chunked, gzip"], id="chunked is not the last coding"),
        pytest.param(["Transfer-Encoding: gzip, chunked"], id="gzip, chunked"),
        pytest.param(["Transfer-Encoding: gzip", CHUNKED], id="gzip and chunked"),
        pytest.param(["Transfer-Encoding: identity, chunked"], id="identity, chunked"),
        pytest.param(["Transfer-Encoding: identity"], id="identity"),
        pytest.param(["Transfer-Encoding: xchunked"], id="xchunked"),
        pytest.param(["Transfer-Encoding: chunked;q=1"], id="chunked with a parameter"),
        pytest.param(['Transfer-Encoding: "chunked"'], id="chunked in quotes"),
        pytest.param(["Transfer-Encoding: \x0bchunked"], id="chunked after a vertical tab"),
        pytest.param(["Transfer-Encoding: chunked\x00"], id="chunked before a NUL byte"),
        pytest.param(["Transfer-Encoding:", LENGTH], id="empty coding"),
        pytest.param(["Transfer-Encoding : chunked"], id="space before the colon"),
        pytest.param(["Transfer-Encoding\t: chunked"], id="tab before the colon"),
        pytest.param(["X: y", " Transfer-Encoding: chunked"], id="space before the name"),
        pytest.param(["X: y\nTransfer-Encoding: chunked", LENGTH], id="bare LF between headers"),
        pytest.param(["X: y\rTransfer-Encoding: chunked", LENGTH], id="bare CR between headers"),
        pytest.param(["X: y\x00", LENGTH], id="NUL byte in a header"),
        pytest.param(["X\x00Y: y", LENGTH], id="NUL byte in a name"),
        pytest.param(["X: y", " z", LENGTH], id="obs-fold"),
        pytest.param(["Content-Length:", " 5"], id="length in an obs-fold"),
        pytest.param([": y", LENGTH], id="empty name"),
        pytest.param(["Transfer-Encoding", LENGTH], id="header without a colon"),
        pytest.param(["Host: other", LENGTH], id="second Host"),
    ],
)
def test_ambiguous_headers_get_one_error_and_a_close(target: Service, headers: list[str]) -> None:
    """The service rejects the request, and reads nothing after its headers."""
    for body in (b"0\r\n\r\n", OBSERVER, chunked(HIDDEN), chunked(OBSERVER)):
        (response,) = exchange(target.port, request(POST, *headers, body=body + HIDDEN + LAST))
        assert response.status in (400, 501)
        assert response.closes


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /health/live HTTP/1.1\nHost: localhost\n\n", id="bare LF"),
        pytest.param(b"GET /health/live HTTP/1.1\rHost: localhost\r\r", id="bare CR"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: localhost\n\r\n", id="bare LF after a header"),
        pytest.param(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\n", id="bare LF at the end"),
        pytest.param(b"\n" + LAST, id="bare LF before the request"),
        pytest.param(b"\r\n\r\n" + LAST, id="two empty lines before the request"),
        pytest.param(b" " + LAST, id="space before the request"),
        pytest.param(b"GET  /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", id="two spaces"),
        pytest.param(b"GET\t/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n", id="tab in the request line"),
        pytest.param(b"GET /health/live HTTP/1.1 HTTP/1.1\r\nHost: localhost\r\n\r\n", id="two versions"),
        pytest.param(b"GET /health/live\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", id="NUL byte in the target"),
        pytest.param(request("POST /observers HTTP/1.0", CHUNKED, body=b"0\r\n\r\n"), id="chunked in HTTP/1.0"),
    ],
)
def test_malformed_requests_get_one_error_and_a_close(target: Service, data: bytes) -> None:
    (response,) = exchange(target.port, data + HIDDEN + LAST)
    assert response.status == 400
    assert response.closes


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"0x5\r\nhello\r\n0\r\n\r\n", id="hexadecimal prefix"),
        pytest.param(b"-5\r\nhello\r\n0\r\n\r\n", id="negative size"),
        pytest.param(b"+5\r\nhello\r\n0\r\n\r\n", id="plus sign"),
        pytest.param(b" 5\r\nhello\r\n0\r\n\r\n", id="space before the size"),
        pytest.param(b"5 \r\nhello\r\n0\r\n\r\n", id="space after the size"),
        pytest.param(b"0_5\r\nhello\r\n0\r\n\r\n", id="underscore"),
        pytest.param(b"\r\nhello\r\n0\r\n\r\n", id="no size"),
        pytest.param(b";x=y\r\nhello\r\n0\r\n\r\n", id="extension without a size"),
        pytest.param(b"5\nhello\r\n0\r\n\r\n", id="bare LF after the size"),
        pytest.param(b"5\r\nhello0\r\n\r\n", id="no CRLF after the data"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="bare LF after the data"),
        pytest.param(b"4\r\nhello\r\n0\r\n\r\n", id="more data than the size"),
        pytest.param(b"5;\rx\r\nhello\r\n0\r\n\r\n", id="bare CR in an extension"),
        pytest.param(b"5;x\n\r\nhello\r\n0\r\n\r\n", id="bare LF in an extension"),
        pytest.param(b"5;=\r\nhello\r\n0\r\n\r\n", id="extension without a name"),
        pytest.param(b'5;x="\r\nhello\r\n0\r\n\r\n', id="extension with an open quote"),
        pytest.param(b"5;" + b"x" * 20_000 + b"\r\nhello\r\n0\r\n\r\n", id="extension of 20000 bytes"),
        pytest.param(b"5" * 20_000, id="size of 20000 digits"),
        pytest.param(b"0\r\nContent-Length: 5\r\n\r\n", id="trailer Content-Length"),
        pytest.param(b"0\r\nTransfer-Encoding: chunked\r\n\r\n", id="trailer Transfer-Encoding"),
        pytest.param(b"0\r\nHost: other\r\n\r\n", id="trailer Host"),
        pytest.param(b"0\r\nAuthorization: Bearer x\r\n\r\n", id="trailer Authorization"),
        pytest.param(b"0\r\nX: y\n\r\n\r\n", id="bare LF in a trailer"),
        pytest.param(b"0\r\nX: y\r\n z\r\n\r\n", id="obs-fold in a trailer"),
        pytest.param(b"0\r\nX\r\n\r\n", id="trailer without a colon"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 1000 + b"\r\n", id="1000 trailers"),
    ],
)
def test_malformed_chunks_get_one_error_and_a_close(target: Service, body: bytes) -> None:
    (response,) = exchange(target.port, request(POST, CHUNKED, body=body + HIDDEN + LAST))
    assert response.status in (400, 413, 431)
    assert response.closes


def test_chunk_that_never_ends_gets_one_error_and_a_close(target: Service) -> None:
    """A size that no body can have: the service neither allocates it nor waits for it."""
    for size in (b"FFFFFFFF", b"F" * 4000):
        (response,) = exchange(target.port, request(POST, CHUNKED, body=size + b"\r\n" + HIDDEN + LAST))
        assert response.status in (400, 408, 413)
        assert response.closes


def test_malformed_chunks_of_an_ignored_body_end_the_connection(target: Service) -> None:
    """A GET request has no use for its body, but the next request begins at its end."""
    data = request("GET /health/live HTTP/1.1", CHUNKED, body=b"5\r\nhelloXX0\r\n\r\n" + HIDDEN + LAST)
    (response,) = exchange(target.port, data)
    assert response.status in (200, 400)


WHOLE = f"Content-Length: {len(HIDDEN)}"
LARGE = HIDDEN * (MAX_BODY_BYTES // len(HIDDEN) + 1)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(request("GET /health/live HTTP/1.1", WHOLE, body=HIDDEN), 200, id="GET with a body"),
        pytest.param(request("HEAD /observers HTTP/1.1", WHOLE, body=HIDDEN), 200, id="HEAD with a body"),
        pytest.param(request("DELETE /find/a/b HTTP/1.1", WHOLE, body=HIDDEN), 204, id="DELETE with a body"),
        pytest.param(request("OPTIONS /observers HTTP/1.1", WHOLE, body=HIDDEN), 200, id="OPTIONS with a body"),
        pytest.param(request("PUT /observers HTTP/1.1", WHOLE, body=HIDDEN), 405, id="method not allowed"),
        pytest.param(request("POST /nowhere HTTP/1.1", WHOLE, body=HIDDEN), 404, id="unknown path"),
        pytest.param(request(POST, WHOLE, body=HIDDEN), 400, id="body that is not JSON"),
        pytest.param(request(POST, WHOLE, "Accept: text/csv", body=HIDDEN), 406, id="not acceptable"),
        pytest.param(request(POST, WHOLE, "Expect: 100-continue", body=HIDDEN), 400, id="100-continue"),
        pytest.param(request(POST, WHOLE, "Transfer_Encoding: chunked", body=HIDDEN), 400, id="Transfer_Encoding"),
        pytest.param(request(POST, WHOLE, "Content_Length: 0", body=HIDDEN), 400, id="Content_Length"),
        pytest.param(
            request("GET /health/live HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket", WHOLE, body=HIDDEN),
            200,
            id="upgrade to WebSocket",
        ),
        pytest.param(
            request(
                "GET /health/live HTTP/1.1",
                "Connection: Upgrade, HTTP2-Settings",
                "Upgrade: h2c",
                "HTTP2-Settings: AAMAAABkAAQAAP__",
                WHOLE,
                body=HIDDEN,
            ),
            200,
            id="upgrade to h2c",
        ),
    ],
)
def test_body_is_not_the_next_request(target: Service, data: bytes, status: int) -> None:
    """The next request is answered, and the body before it is not."""
    responses = exchange(target.port, data + LAST, methods=[data.split()[0].decode()])
    assert [response.status for response in responses if response.status >= 200] == [status, 200]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(request(POST, f"Content-Length: {len(LARGE)}", body=LARGE), 413, id="body over the limit"),
        pytest.param(request(POST, "Content-Length: " + "9" * 30, body=LARGE), 413, id="huge length"),
        pytest.param(request(POST, CHUNKED, body=chunked(LARGE)), 413, id="chunks over the limit"),
        pytest.param(request("GET /health/live HTTP/1.1", CHUNKED, body=chunked(HIDDEN)), 200, id="GET with chunks"),
        pytest.param(request(POST, CHUNKED, body=chunked(HIDDEN)), 400, id="chunks"),
        pytest.param(request(POST, "Transfer-Encoding: cHuNkEd", body=chunked(HIDDEN)), 400, id="chunked in odd case"),
        pytest.param(
            request(POST, "tRANSFER-eNCODING: \t chunked\t", body=chunked(HIDDEN)), 400, id="chunked with spaces"
        ),
        pytest.param(
            request(POST, CHUNKED, body=b'1;x="POST /find HTTP/1.1";y\r\n{\r\n0\r\nX: y\r\n\r\n'),
            400,
            id="extensions and trailers",
        ),
    ],
)
def test_body_is_not_the_next_request_even_if_the_connection_ends(target: Service, data: bytes, status: int) -> None:
    """The service may end the connection after these bodies. Otherwise the next request is answered."""
    first, *others = exchange(target.port, data + LAST)
    assert first.status == status
    assert first.closes or [response.status for response in others] == [200]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request("GET /health/live HTTP/1.1", "Connection: close"), id="Connection: close"),
        pytest.param(request("GET /health/live HTTP/1.1", "Connection: Close"), id="Connection: Close"),
        pytest.param(request("GET /health/live HTTP/1.1", "Connection: TE, close"), id="Connection: TE, close"),
        pytest.param(request("GET /health/live HTTP/1.1", "Connection: TE", "Connection: close"), id="two Connections"),
        pytest.param(request("GET /health/live HTTP/1.0"), id="HTTP/1.0"),
        pytest.param(request(POST, "Connection: close", LENGTH, body=OBSERVER), id="body and Connection: close"),
        pytest.param(request("CONNECT localhost:80 HTTP/1.1"), id="CONNECT"),
    ],
)
def test_nothing_is_answered_after_the_last_request(target: Service, data: bytes) -> None:
    """The client or the version says that the connection ends, so what follows is not a request."""
    (response,) = exchange(target.port, data + HIDDEN + LAST)
    assert response.closes
