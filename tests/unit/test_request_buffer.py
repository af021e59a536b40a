"""The end of a request, as the event loop finds it, against gunicorn's parser."""

from __future__ import annotations

import time
from itertools import pairwise

from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader
from hypothesis import assume, given
from hypothesis import strategies as st

from server.request import HttpRequest
from server.request_buffer import MAX_HEAD, RequestBuffer

MAX_BODY = 2000
NEXT_REQUEST = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"

_values = st.text("abc ,;=/\t0123456789", max_size=12).map(str.encode)
_headers = st.lists(
    st.tuples(st.sampled_from([b"Host-X", b"Accept", b"X-A", b"te", b"Connection"]), _values), max_size=4
)
_spaces = st.sampled_from([b"", b" ", b" \t "])


def _cased(name: bytes) -> st.SearchStrategy[bytes]:
    return st.sampled_from([name, name.lower(), name.upper()])


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    """A valid request, complete and without anything behind it."""
    lines = [draw(st.sampled_from([b"GET", b"POST", b"DELETE"])) + b" /path?q=1 HTTP/1.1", b"Host: x"]
    lines += [name + b":" + value for name, value in draw(_headers)]
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b""
    if framing == "length":
        body = draw(st.binary(max_size=60))
        lines.append(draw(_cased(b"Content-Length")) + b":" + draw(_spaces) + str(len(body)).encode() + draw(_spaces))
    elif framing == "chunked":
        lines.append(draw(_cased(b"Transfer-Encoding")) + b":" + draw(_spaces) + draw(_cased(b"chunked")))
        extensions = st.sampled_from([b"", b";a", b" ; a=b", b';a="0\t;"'])
        for chunk in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4)):
            zeros = b"0" * draw(st.integers(0, 3))
            body += zeros + b"%x" % len(chunk) + draw(extensions) + b"\r\n" + chunk + b"\r\n"
        body += draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n"
        body += b"".join(name + b":" + value + b"\r\n" for name, value in draw(_headers) if name != b"te") + b"\r\n"
    return b"\r\n".join([*lines, b"", body])


def read_by_gunicorn(data: bytes) -> int:
    """Parse the first request and its body.

    :returns: bytes that belong to the request.
    :raises Exception: RequestRefused or one of gunicorn's, if the request is not valid or not complete.
    """
    unreader = IterUnreader([data])
    request = HttpRequest(Config(), unreader, ("127.0.0.1", 1))
    request.body.read()
    return len(data) - len(unreader.take_buffered())


@given(_requests(), st.lists(st.integers(0, 200), max_size=6), st.booleans())
def test_request_is_ready_exactly_when_gunicorn_has_all_of_it(request: bytes, cuts: list[int], follows: bool) -> None:
    """However the bytes are split: not before the last byte of the request, and without the next request."""
    data = request + NEXT_REQUEST if follows else request
    assert read_by_gunicorn(data) == len(request)
    buffer = RequestBuffer(MAX_BODY)
    for first, last in pairwise(sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})):
        buffer.data += data[first:last]
        assert buffer.is_ready() == buffer.is_complete == (last >= len(request))
    byte_by_byte = RequestBuffer(MAX_BODY)
    for byte in request[:-1]:
        byte_by_byte.data.append(byte)
        assert not byte_by_byte.is_ready()


@given(
    _requests(), st.integers(0, 200), st.sampled_from([b"", b"\r\n", b"\n", b"0", b" ", b";", b":", b"chunked", b"-"])
)
def test_changed_requests_end_where_gunicorn_ends_them(request: bytes, position: int, inserted: bytes) -> None:
    """A request that gunicorn accepts must not end earlier or later than it: the rest would be another request."""
    data = request[:position] + inserted + request[position + 1 :] + NEXT_REQUEST
    buffer = RequestBuffer(MAX_BODY)
    while len(buffer.data) < len(data) and not buffer.is_ready():
        buffer.data.append(data[len(buffer.data)])
    assume(buffer.is_complete)
    try:
        length = read_by_gunicorn(data)
    except Exception:
        return
    assert len(buffer.data) == length


def test_take_starts_with_the_next_request() -> None:
    buffer = RequestBuffer(MAX_BODY)
    for _ in range(2):
        buffer.data += (
            b"POST / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\nX-Request-Timeout: 1.5\r\n\r\n{"
        )
        assert not buffer.is_ready()
        assert (buffer.has_head, buffer.expects_continue, buffer.timeout) == (True, True, 1.5)
        buffer.data += b"}"
        assert buffer.is_ready()
        assert buffer.take().endswith(b"{}")
        assert (buffer.has_head, buffer.is_complete, buffer.timeout, len(buffer.data)) == (False, False, None, 0)


def test_endless_heads_and_bodies_are_not_collected() -> None:
    """The request is ready, although it is not complete, as soon as it is larger than what the application accepts."""
    head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for start, repeated, is_too_large in (
        (b"GET /", b"a" * 100, False),
        (b"GET / HTTP/1.1\r\n", b"A: a\r\n", False),
        (head, b"1\r\n \r\n", True),
        # Each segment ends in the middle of the size of a chunk.
        (head + b"1", b"\r\n \r\n1", True),
        (head + b"ffffffff\r\n", b"a" * 100, True),
        (head + b"0\r\n", b"A: a\r\n", False),
        (head + b"1;", b"a" * 100, False),
    ):
        buffer = RequestBuffer(MAX_BODY)
        buffer.data += start
        while not buffer.is_ready():
            buffer.data += repeated
            assert len(buffer.data) < MAX_BODY + 3 * MAX_HEAD
        assert (buffer.is_complete, buffer.is_too_large) == (False, is_too_large)


def test_bodies_that_are_refused_are_not_collected() -> None:
    """A length over the limit, and codings other than chunked: the request is ready without its body."""
    for headers, is_too_large in (
        (b"Content-Length: %d\r\nExpect: 100-continue" % (MAX_BODY + 1), True),
        (b"Transfer-Encoding: gzip, chunked", False),
        (b"Transfer-Encoding: gzip", False),
    ):
        buffer = RequestBuffer(MAX_BODY)
        buffer.data += b"POST / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n\r\n"
        assert buffer.is_ready()
        assert (buffer.is_complete, buffer.is_too_large, buffer.expects_continue) == (False, is_too_large, False)


def test_bytes_that_arrive_one_by_one_cost_little() -> None:
    """The cost must not grow with the square of the size: that would be minutes."""
    chunks = b"1\r\n \r\n" * 20_000
    for data in (
        b"GET / HTTP/1.1\r\n" + b"A: a\r\n" * 10_000 + b"\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b" " * 60_000,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n",
    ):
        buffer = RequestBuffer(1_000_000)
        began = time.monotonic()
        for byte in data:
            assert not buffer.is_ready()
            buffer.data.append(byte)
        assert buffer.is_ready()
        assert time.monotonic() - began < 10


STREAMED = frozenset({b"/users/import"})


@given(st.sampled_from([b"/users/import", b"/users/import?strict=1&a=/"]), _requests(), st.integers(0, 300))
def test_request_with_a_streamed_body_is_ready_when_its_head_has_arrived(
    target: bytes, request: bytes, size: int
) -> None:
    """Whatever its framing and its length. Without a body, it is complete."""
    request = b"POST " + target + request[request.index(b" HTTP/") :]
    head_size = request.index(b"\r\n\r\n") + 4
    size = min(size, len(request))
    buffer = RequestBuffer(10, STREAMED)
    buffer.data += request[:size]
    has_body = b"\r\ncontent-length:" in request.lower() or b"\r\ntransfer-encoding:" in request.lower()
    for _ in range(2):
        assert buffer.is_ready() == (size >= head_size)
    assert buffer.is_streamed == (size >= head_size and has_body)
    assert buffer.is_complete == (size >= head_size and not has_body)
    assert not buffer.is_too_large
    assert buffer.take() == request[:size]
    assert not buffer.is_streamed


@given(_requests())
def test_paths_that_are_not_listed_are_collected(request: bytes) -> None:
    """Also a listed path with another method, or in another spelling."""
    for method, target in (
        (b"GET", b"/users/import"),
        (b"PUT", b"/users/import"),
        (b"post", b"/users/import"),
        (b"POST", b"/users/import/"),
        (b"POST", b"/users"),
        (b"POST", b"/users/%69mport"),
        (b"POST", b"//users/import"),
        (b"POST", b"http://x/users/import"),
    ):
        buffer = RequestBuffer(MAX_BODY, STREAMED)
        buffer.data += method + b" " + target + request[request.index(b" HTTP/") :]
        assert buffer.is_ready()
        assert (buffer.is_streamed, buffer.is_complete) == (False, True)


def test_streamed_request_remembers_that_the_client_waits() -> None:
    for version, expects_continue in ((b"1.1", True), (b"1.0", False)):
        buffer = RequestBuffer(MAX_BODY, STREAMED)
        buffer.data += b"POST /users/import HTTP/" + version + b"\r\nExpect: 100-Continue\r\n"
        buffer.data += b"Content-Length: 99999999999\r\n\r\n"
        assert buffer.is_ready()
        assert (buffer.is_streamed, buffer.expects_continue) == (True, expects_continue)
