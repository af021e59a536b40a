"""Slow, stalled and idle clients are disconnected, and do not exhaust the threads of a worker."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest

from tests.support import FEW_THREADS, OBSERVER, Service, get, in_flight, wait_for

SHORT_IDLE_TIMEOUT = FEW_THREADS | {"CLIENT_IDLE_TIMEOUT": "1"}


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    """Read a response until the server closes the connection; return its status and body."""
    data = b""
    while part := connection.recv(65536):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.slow
def test_stalled_request_body_gets_408_and_changes_nothing(start: Callable[..., Service]) -> None:
    """A body that stalls gets 408.

    Its data is discarded, and the service answers other requests.
    """
    running = start(SHORT_IDLE_TIMEOUT)
    body = json.dumps(OBSERVER | {"email": "stalled@example.org"}).encode()
    for framing in (
        f"Content-Length: {len(body) + 5}\r\n\r\n".encode() + body,
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ):
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            connection.sendall(b"POST /observers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + framing)
            status, problem = read_response(connection)
        assert (status, json.loads(problem)["status"]) == (408, 408)
    wait_for(lambda: in_flight(running) == 0, description="no requests in flight")
    assert running.client.get("/observers?limit=1").status_code == 200


def test_trickling_request_body_gets_504_at_the_deadline(start: Callable[..., Service]) -> None:
    """A client that sends a byte every 0.2 s is not idle, but its request still has a deadline."""
    running = start(SHORT_IDLE_TIMEOUT | {"REQUEST_TIMEOUT": "1.5"})
    began = time.monotonic()
    stop = threading.Event()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(
            b"POST /observers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )

        def send_slowly() -> None:
            while not stop.wait(0.2):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        sender = threading.Thread(target=send_slowly)
        sender.start()
        status = int(connection.recv(4096).split()[1])
        elapsed = time.monotonic() - began
        stop.set()
        sender.join()
    assert status == 504
    assert elapsed > 1.4


@pytest.mark.slow
def test_rest_of_a_timed_out_body_is_not_parsed_as_a_request(start: Callable[..., Service]) -> None:
    """The connection is closed after the timeout, so later bytes cannot smuggle in a request."""
    running = start({"WEB_CONCURRENCY": "1"})
    head = b"POST /observers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"X-Request-Timeout: 0.2\r\nContent-Length: 1000\r\n\r\n{"
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    for number in range(40):
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            began = time.monotonic()
            connection.sendall(head)
            # Send the bytes at about the time at which the service sends its response.
            time.sleep(max(0.0, 0.2 + number % 10 * 0.0005 - (time.monotonic() - began)))
            received = b""
            with suppress(ConnectionError):
                connection.sendall(smuggled)
                while part := connection.recv(65536):
                    received += part
            assert received.count(b"HTTP/1.1 ") <= 1, received
    assert "GET /health/live 200" not in running.log_text().partition("POST /observers 504")[2]


@pytest.mark.slow
def test_connections_with_stalled_headers_are_closed(start: Callable[..., Service]) -> None:
    """50 clients with incomplete headers are disconnected; a worker with 17 threads serves other clients meanwhile."""
    running = start(SHORT_IDLE_TIMEOUT)
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(50)
        ]
        for connection in stalled:
            connection.sendall(b"GET /observers HTTP/1.1\r\nHost:")
        assert get(running, "/health").status_code == 200
        for connection in stalled:
            assert connection.recv(1000) == b""
    assert "Traceback" not in running.log_text()


@pytest.mark.slow
def test_trickling_headers_do_not_exhaust_worker_threads(start: Callable[..., Service]) -> None:
    """/health responds while 40 clients send their headers a byte at a time; the worker has 17 threads."""
    running = start(FEW_THREADS)
    stop = threading.Event()
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(40)
        ]
        for connection in slow:
            connection.sendall(b"GET /observers HTTP/1.1\r\nX")

        def send_slowly() -> None:
            while not stop.wait(0.3):
                for connection in slow:
                    with suppress(OSError):
                        connection.sendall(b"x")

        sender = threading.Thread(target=send_slowly)
        sender.start()
        try:
            wait_for(lambda: get(running, "/health").status_code == 200, description="/health to return 200")
            for connection in slow:
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""
        finally:
            stop.set()
            sender.join()


@pytest.mark.alone
def test_lingering_closes_do_not_exhaust_worker_threads(start: Callable[..., Service]) -> None:
    """Clients that never close, or never send the body of a rejected request, occupy no threads.

    The service closes such a connection slowly (lingering close), so that the client can read the response.
    """
    running = start(FEW_THREADS)
    requests = (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"PUT /observers HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
    )
    with ExitStack() as stack:
        for number in range(80):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
            connection.sendall(requests[number % 2])
        began = time.monotonic()
        assert get(running, "/health").status_code == 200
        assert time.monotonic() - began < 4


def test_idle_connections_occupy_no_threads(start: Callable[..., Service]) -> None:
    """50 idle connections, as browsers open them in advance, do not delay other requests."""
    running = start(FEW_THREADS)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(50)
        ]
        assert get(running, "/health").status_code == 200
        # The response did not wait until the service closed some of them.
        for connection in idle:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):
                connection.recv(1)
