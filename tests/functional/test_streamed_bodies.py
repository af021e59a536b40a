"""Request bodies that a thread reads while they arrive: framing, limits of time, early responses, memory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.sockets import RawClient, RawResponse, exchange, probe
from tests.support import Service, service, wait_for
from tests.testbed.uploads import PATH, UPLOADS

pytestmark = pytest.mark.timeout(180)

MAX_BODY_BYTES = 4096
LIMITS = {
    "WEB_CONCURRENCY": "1",
    "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
    "CLIENT_IDLE_TIMEOUT": "1",
    "MIN_TRANSFER_RATE": "1000",
    "TRANSFER_RATE_WINDOW": "2",
}
BODY = bytes(range(256)) * 1200
LENGTH = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %%d\r\n%%s\r\n" % PATH.encode()
CHUNKED = b"POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH.encode()
NEXT_REQUEST = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def running(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one worker and short limits of time."""
    log = tmp_path_factory.mktemp("uploads") / "service.log"
    with service(environment | LIMITS, log, healthy=False, app=UPLOADS) as running:
        yield running


def chunks(body: bytes, *sizes: int) -> bytes:
    """A chunked body; the sizes are repeated."""
    coded, position, number = b"", 0, 0
    while position < len(body):
        part = body[position : position + sizes[number % len(sizes)]]
        coded += b"%x\r\n%s\r\n" % (len(part), part)
        position, number = position + len(part), number + 1
    return coded + b"0\r\n\r\n"


def result(response: RawResponse | httpx.Response) -> dict[str, Any]:
    return orjson.loads(response.body if isinstance(response, RawResponse) else response.content)


def whole(body: bytes) -> dict[str, Any]:
    """The result for a complete body."""
    return {"bytes": len(body), "sha256": sha256(body).hexdigest(), "problem": None}


# --- framing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MAX_BODY_BYTES + 1, 65535, 65536, 65537, len(BODY)])
def test_body_of_any_size_arrives_in_both_framings(running: Service, size: int) -> None:
    """Also above MAX_BODY_BYTES. With `Connection: close`, a request behind the body is dropped."""
    body = BODY[:size]
    for request in (LENGTH % (size, b"") + body, CHUNKED + chunks(body, 1000, 1, 70_000)):
        (response,) = exchange(running.port, request + NEXT_REQUEST)
        assert result(response) == whole(body)
        assert response.closes


def test_request_behind_a_body_that_was_read_is_answered(running: Service) -> None:
    """The connection stays open after a body that was read to its end, in both framings."""
    keep = b"Connection: close\r\n"
    for first in (
        (LENGTH % (len(BODY), b"")).replace(keep, b"") + BODY,
        CHUNKED.replace(keep, b"") + chunks(BODY, 1000),
    ):
        uploaded, second = exchange(running.port, first + NEXT_REQUEST.replace(b"\r\n\r\n", b"\r\n" + keep + b"\r\n"))
        assert (result(uploaded), uploaded.closes) == (whole(BODY), False)
        assert second.status == 200


@pytest.mark.parametrize("seed", range(10))
def test_body_arrives_however_it_is_split(running: Service, seed: int) -> None:
    """The bytes arrive in segments with pauses: in the head, in the size of a chunk, between CR and LF."""
    choose = random.Random(seed)
    body = choose.randbytes(choose.randrange(1, 3000))
    sizes = [choose.randrange(1, 400) for _ in range(5)]
    for request in (LENGTH % (len(body), b"") + body, CHUNKED + chunks(body, *sizes)):
        cuts = sorted({0, len(request), *(choose.randrange(len(request)) for _ in range(12))})
        segments = [request[first:last] for first, last in pairwise(cuts)]
        (response,) = exchange(running.port, *segments, pause=0.005)
        assert result(response) == whole(body)


def test_many_tiny_chunks_arrive(running: Service) -> None:
    body = BODY[:20_000]
    assert result(exchange(running.port, CHUNKED + chunks(body, 1))[0]) == whole(body)


def test_body_of_an_http_1_0_client_arrives(running: Service) -> None:
    request = LENGTH.replace(b"HTTP/1.1", b"HTTP/1.0") % (len(BODY), b"Expect: 100-continue\r\n") + BODY
    (response,) = exchange(running.port, request)
    assert result(response) == whole(BODY)


def test_rate_is_measured_for_each_request(running: Service) -> None:
    """Short bodies that arrive after a pause, on one connection: together they wait for longer than a window."""
    request = (LENGTH % (5, b"")).replace(b"Connection: close\r\n", b"")
    with RawClient(running.port) as client:
        for _ in range(4):
            client.send(request)
            time.sleep(0.7)
            client.send(b"abcde")
            assert result(client.read_response()) == whole(b"abcde")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (LENGTH % (100, b"") + b"a" * 99, "disconnected"),
        (LENGTH % (100_000, b"") + b"a" * 70_000, "disconnected"),
        (CHUNKED, "disconnected"),
        (CHUNKED + b"5\r\nabc", "disconnected"),
        (CHUNKED + b"5\r\nabcde\r\n", "disconnected"),
        (CHUNKED + b"5\r\nabcde\r\n0\r\n", "disconnected"),
        (CHUNKED + b"5\r\nabcdeX\r\n0\r\n\r\n", "malformed"),
        (CHUNKED + b"-5\r\nabcde\r\n0\r\n\r\n", "malformed"),
        (CHUNKED + b"5;=\r\nabcde\r\n0\r\n\r\n", "malformed"),
        (CHUNKED + b"1" * 10_000, "malformed"),
        (CHUNKED + b"0\r\nbad trailer\r\n\r\n", "malformed"),
    ],
)
def test_incomplete_body_is_never_taken_for_a_complete_one(running: Service, data: bytes, problem: str) -> None:
    """The client closes its end after the data; it can still read the response."""
    with RawClient(running.port) as client:
        client.send(data)
        client.half_close()
        (response,) = client.read_to_end()
    assert result(response)["problem"] == problem
    assert response.closes


def test_service_survives_clients_that_reset_their_upload(running: Service) -> None:
    for _ in range(40):
        client = RawClient(running.port)
        client.send(CHUNKED + b"ffff\r\nabc")
        client.reset()
    assert result(exchange(running.port, CHUNKED + chunks(BODY, 5000))[0]) == whole(BODY)


# --- limits of time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [LENGTH % (100, b"") + b"abc", CHUNKED + b"5\r\nabc"], ids=["length", "chunked"])
def test_client_that_stops_sending_is_stalled(running: Service, data: bytes) -> None:
    (response,) = exchange(running.port, data)
    assert result(response)["problem"] == "stalled"


def test_client_below_the_minimum_rate_is_too_slow(running: Service) -> None:
    """A byte every 0.2 s: the client is never idle for CLIENT_IDLE_TIMEOUT."""
    (response,) = exchange(running.port, LENGTH % (100, b""), *[b"a"] * 40, pause=0.2)
    assert result(response)["problem"] == "too slow"


def test_other_requests_are_answered_while_uploads_wait(running: Service) -> None:
    clients = [RawClient(running.port) for _ in range(3)]
    try:
        for client in clients:
            client.send(CHUNKED + b"5\r\nab")
        probe(running.port)
        for client in clients:
            client.send(b"cde\r\n0\r\n\r\n")
            assert result(client.read_response()) == whole(b"abcde")
    finally:
        for client in clients:
            client.socket.close()


def test_graceful_stop_does_not_wait_for_an_upload_without_end(start: Callable[..., Service]) -> None:
    """`graceful_timeout` bounds the stop; the upload is cut then."""
    limits = {"CLIENT_IDLE_TIMEOUT": "300", "TRANSFER_RATE_WINDOW": "300", "WEB_CONCURRENCY": "1"}
    running = start(limits, "--graceful-timeout", "2", healthy=False, app=UPLOADS)
    with RawClient(running.port, limit=30) as client:
        client.send(LENGTH % (100, b"Expect: 100-continue\r\n"))
        # The view reads.
        assert client.read_response().status == 100
        running.process.terminate()
        assert running.process.wait(timeout=20) == 0
        assert client.read_to_end() == []


def test_connection_ends_with_its_response_if_the_service_stops_during_the_upload(
    start: Callable[..., Service],
) -> None:
    running = start({"WEB_CONCURRENCY": "1"}, healthy=False, app=UPLOADS)
    request = LENGTH.replace(b"Connection: close\r\n", b"") % (3, b"Expect: 100-continue\r\n")
    with RawClient(running.port, limit=30) as client:
        client.send(request)
        # The view reads.
        assert client.read_response().status == 100
        running.process.terminate()
        wait_for(lambda: not running.live(), description="the end of the listener")
        client.send(b"abc")
        response = client.read_response()
        assert (result(response), response.closes) == (whole(b"abc"), True)
    assert running.process.wait(timeout=30) == 0


# --- responses before the body ---------------------------------------------------------------------------------


def test_continue_is_sent_when_the_view_reads(running: Service) -> None:
    """A client that waits for "100 Continue" sends no body that the view does not want."""
    with RawClient(running.port) as client:
        client.send(LENGTH % (5, b"Expect: 100-continue\r\n"))
        assert client.read_response().status == 100
        client.send(b"abcde")
        assert result(client.read_response()) == whole(b"abcde")
    (response,) = exchange(running.port, LENGTH % (5, b"Expect: 100-continue\r\nRefuse: 503\r\n"))
    assert response.status == 503
    assert response.closes


def test_client_sends_everything_after_an_early_response(running: Service) -> None:
    """Many clients read the response only then. A reset would be an error for them."""
    with RawClient(running.port) as client:
        client.send(LENGTH % (30_000_000, b"Refuse: 413\r\n"))
        # Unlike send(), it raises an exception after a reset.
        client.socket.sendall(b" " * 30_000_000)
        assert client.read_response().status == 413


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_httpx_receives_an_early_response(running: Service, framing: str) -> None:
    headers = {"Refuse": "413"} | ({"Content-Length": str(800 * 65536)} if framing == "length" else {})
    for _ in range(5):
        parts = (b" " * 65536 for _ in range(800))
        assert running.client.post(PATH, content=parts, headers=headers).status_code == 413


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("header", ["Expect:", "Expect: 100-continue", "Transfer-Encoding: chunked"])
def test_curl_receives_an_early_response(running: Service, tmp_path: Path, header: str) -> None:
    file = tmp_path / "body"
    file.write_bytes(b" " * 50_000_000)
    url = f"http://127.0.0.1:{running.port}{PATH}"
    command = ["curl", "-sS", "--max-time", "30", "-H", "Refuse: 413", "-H", header, "-w", "%{http_code}"]
    command += ["-o", os.devnull, "--data-binary", f"@{file}", url]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.stdout, finished.stderr) == ("413", "")


# --- other requests --------------------------------------------------------------------------------------------


def test_other_methods_at_the_path_are_collected(running: Service) -> None:
    """They are answered on a connection that stays open."""
    with RawClient(running.port) as client:
        for method in ("GET", "HEAD", "PUT"):
            client.send(f"{method} {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n".encode() + b"{}")
            response = client.read_response(method)
            assert (response.status, response.closes) == (405, False)


@pytest.mark.parametrize("target", [PATH.replace("u", "%75"), f"http://x{PATH}"])
def test_path_that_is_written_in_another_way_has_the_limits_of_other_requests(running: Service, target: str) -> None:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: ".encode()
    with RawClient(running.port) as client:
        client.send(head + b"5\r\n\r\nabcde")
        response = client.read_response()
        assert (result(response), response.closes) == (whole(b"abcde"), False)
        client.send(head + b"%d\r\n\r\n" % (MAX_BODY_BYTES + 1))
        assert result(client.read_response())["problem"] == "too large"


# --- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("reads", [True, False], ids=["read", "refused"])
def test_memory_does_not_grow_with_the_body(running: Service, reads: bool) -> None:
    """A body of 200 MB adds at most 5 MB to the peak memory of the worker, whether it is read or discarded."""
    (worker,) = running.workers()

    def peak() -> int:
        lines = Path(f"/proc/{worker}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))

    def upload(count: int) -> None:
        part = b" " * 65536
        headers = {} if reads else {"Refuse": "413"}
        response = httpx.post(
            f"{running.client.base_url}{PATH}", content=(part for _ in range(count)), headers=headers, timeout=120
        )
        assert not reads or response.json()["bytes"] == count * len(part)

    upload(32)
    before = peak()
    upload(3200)
    assert peak() - before < 5 * 1024


def test_client_that_receives_nothing_after_an_early_response_is_disconnected(running: Service) -> None:
    """The service discards what the client sends for 2 s, then closes the connection."""
    with RawClient(running.port) as client:
        client.send(CHUNKED.replace(b"\r\n\r\n", b"\r\nRefuse: 413\r\n\r\n"))
        assert client.read_response().status == 413

        def is_closed() -> bool:
            try:
                client.socket.sendall(b"1\r\n \r\n")
            except ConnectionError:
                return True
            time.sleep(0.05)
            return False

        wait_for(is_closed, timeout=20, description="the close")
