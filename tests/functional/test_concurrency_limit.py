"""Behavior under overload and with slow clients.

Requests above MAX_REQUESTS_IN_FLIGHT are rejected at once. The health and metrics routes stay available.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.support import OBSERVER, PROJECT, Service, TcpProxy, clean_environment, raw_request, wait_for


def get(running: Service, path: str, **headers: str) -> httpx.Response:
    """Send a GET request on a new connection."""
    return httpx.get(f"{running.client.base_url}{path}", timeout=30, headers=headers)


def in_flight(running: Service) -> int:
    """Return the number of requests in flight, as /metrics reports it."""
    return int(get(running, "/metrics").json()["requests_in_flight"])


@contextmanager
def long_requests(running: Service, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """Keep `count` requests of ten seconds each in flight."""
    with ThreadPoolExecutor(count) as pool:
        requests = [pool.submit(get, running, "/long_running_query") for _ in range(count)]
        wait_for(lambda: in_flight(running) == count, description=f"{count} requests in flight")
        yield requests


@pytest.mark.slow
def test_long_requests_do_not_delay_other_requests(start: Callable[..., Service]) -> None:
    """With ten long requests in flight, /health and a point read respond in under a second."""
    running = start()
    with long_requests(running, 10) as requests:
        for path in ("/health", "/find/Quercus/robur", "/health/live"):
            began = time.monotonic()
            assert get(running, path).status_code == 200
            assert time.monotonic() - began < 1
        assert running.client.post("/observers", json=OBSERVER).status_code == 201
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}


def test_busy_keep_alive_connections_share_few_threads_fairly(start: Callable[..., Service]) -> None:
    """Six busy keep-alive clients share two threads evenly.

    A thread serves the next request of its connection only while no other connection waits for a thread.
    """
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "2"})
    responses = [0] * 6
    stop = threading.Event()

    def send_requests(number: int) -> None:
        with httpx.Client(base_url=running.client.base_url, timeout=30) as client:
            while not stop.is_set():
                assert client.get("/health/live").status_code == 200
                responses[number] += 1

    with ThreadPoolExecutor(len(responses)) as pool:
        clients = [pool.submit(send_requests, number) for number in range(len(responses))]
        try:
            wait_for(lambda: min(responses) >= 200, description="200 responses for each client")
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert max(responses) < 5 * min(responses)


def test_pipelined_requests_in_one_segment_all_get_responses(start: Callable[..., Service]) -> None:
    """Four pipelined requests get four responses.

    The later requests are already in the thread's read buffer, so no socket event reports them.
    """
    running = start()
    with raw_request(running.port, "1.1", "/health/live") as connection:
        wait_for(lambda: connection.recv(65536, socket.MSG_PEEK).endswith(b"}"), description="the first response")
        head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(2 * (head + b"\r\n") + head + b"Connection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 4


def test_requests_over_the_concurrency_limit_are_rejected_at_once(start: Callable[..., Service]) -> None:
    """At the limit, requests get 503 with Retry-After; probes and metrics stay available.

    Requests are accepted again as soon as the number in flight is below the limit.
    """
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "4"})
    with long_requests(running, 4) as requests:
        for _ in range(20):
            began = time.monotonic()
            rejected = get(running, "/find/Quercus/robur")
            assert (rejected.status_code, rejected.headers["Retry-After"]) == (503, "1")
            assert rejected.headers["Content-Type"] == "application/problem+json"
            for path in ("/health", "/health/live", "/metrics", "/", "/openapi.json"):
                assert get(running, path).status_code == 200, path
            assert time.monotonic() - began < 5
        assert get(running, "/observers").status_code == 503
        assert running.client.post("/observers", json=OBSERVER).status_code == 503
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}
    wait_for(lambda: in_flight(running) == 0, description="no requests in flight")
    assert get(running, "/find/Quercus/robur").status_code == 200
    exposition = get(running, "/metrics", Accept="text/plain").text
    assert "fieldbook_requests_refused_total 22.0" in exposition


def test_no_kind_of_request_stays_in_flight(start: Callable[..., Service], keyspace: str) -> None:
    """No request stays in flight after an error, a HEAD request, a stream or a client disconnect."""
    running = start(
        {"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "2", "CASSANDRA_KEYSPACE": keyspace}
    )
    for _ in range(3):
        for request in (
            ("GET", "/observers/1"),
            ("GET", "/observers?limit=0"),
            ("HEAD", "/observers/stream"),
            ("GET", "/observers/stream"),
            ("PUT", "/observers"),
            ("OPTIONS", "/observers"),
            ("GET", "/nowhere"),
            ("DELETE", "/find/a/b"),
        ):
            running.client.request(*request)
        running.client.post("/observers", content=b"{", headers={"Content-Type": "application/json"})
        with raw_request(running.port, "1.1", "/observers/stream"):
            pass
    wait_for(lambda: in_flight(running) == 0, description="no requests in flight")


@pytest.mark.slow
def test_stream_is_in_flight_until_its_last_byte(
    start: Callable[..., Service], keyspace: str, add_observers: Callable[[str, int], None]
) -> None:
    """A stream is in flight until its last byte is sent or its client disconnects."""
    add_observers(keyspace, 40_000)
    running = start(
        {"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "4", "MAX_REQUESTS_IN_FLIGHT": "1", "CASSANDRA_KEYSPACE": keyspace}
    )
    with raw_request(running.port, "1.1", "/observers/stream?limit=40000") as connection:
        connection.recv(1000)
        assert get(running, "/observers").status_code == 503
    wait_for(lambda: get(running, "/observers").status_code == 200, description="a request to be accepted")


def test_health_responds_while_cassandra_hangs_at_the_limit(start: Callable[..., Service], proxy: TcpProxy) -> None:
    """The probes respond while all requests that the limit allows wait for a hanging Cassandra."""
    running = start(
        {
            "WEB_CONCURRENCY": "1",
            "GUNICORN_THREADS": "6",
            "MAX_REQUESTS_IN_FLIGHT": "3",
            "CASSANDRA_PORT": str(proxy.port),
        }
    )
    assert get(running, "/find/Quercus/robur").status_code == 200
    proxy.pause()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(get, running, "/find/Quercus/robur", **{"X-Request-Timeout": "6"}) for _ in range(3)]
        wait_for(lambda: in_flight(running) == 3, description="three requests in flight")
        began = time.monotonic()
        assert get(running, "/health/live").status_code == 200
        assert get(running, "/find/Quercus/robur").status_code == 503
        assert time.monotonic() - began < 1
        assert get(running, "/health").status_code == 503
        assert time.monotonic() - began < 4
        proxy.resume()
        assert {request.result().status_code for request in waiting} <= {200, 504}


# --- slow and stalled clients --------------------------------------------------------------------------------

SHORT_IDLE_TIMEOUT = {
    "WEB_CONCURRENCY": "1",
    "GUNICORN_THREADS": "4",
    "MAX_REQUESTS_IN_FLIGHT": "2",
    "CLIENT_IDLE_TIMEOUT": "1",
}


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

    Its data is discarded, and its thread serves other requests again.
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
    assert 1.4 < elapsed < 5


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
    """12 clients with incomplete headers are disconnected; 4 threads still serve other clients."""
    running = start(SHORT_IDLE_TIMEOUT)
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(12)
        ]
        for connection in stalled:
            connection.sendall(b"GET /observers HTTP/1.1\r\nHost:")
        assert get(running, "/health").status_code == 200
        for connection in stalled:
            assert connection.recv(1000) == b""
    assert "Traceback" not in running.log_text()


@pytest.mark.slow
def test_trickling_headers_do_not_exhaust_worker_threads(start: Callable[..., Service]) -> None:
    """/health responds while 40 clients send their headers a byte at a time to 16 threads."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "16"})
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
            # Once the first connections exceed their time limit and are closed, threads are always available.
            wait_for(lambda: get(running, "/health").status_code == 200, description="/health to return 200")
            for connection in slow:
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""
        finally:
            stop.set()
            sender.join()


def test_lingering_closes_do_not_exhaust_worker_threads(start: Callable[..., Service]) -> None:
    """Clients that never close, or never send the body of a rejected request, occupy no threads.

    The service closes such a connection slowly (lingering close), so that the client can read the response.
    """
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "4"})
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
    """20 idle connections, as browsers open them in advance, do not delay other requests."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "4"})
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
        began = time.monotonic()
        assert get(running, "/health").status_code == 200
        assert time.monotonic() - began < 1


@pytest.mark.slow
def test_stream_to_a_stalled_client_is_aborted(
    start: Callable[..., Service], keyspace: str, add_observers: Callable[[str, int], None]
) -> None:
    """A stream whose client stops reading is aborted and is no longer in flight.

    The log counts it as a stream whose client disconnected.
    """
    add_observers(keyspace, 40_000)
    running = start(SHORT_IDLE_TIMEOUT | {"CASSANDRA_KEYSPACE": keyspace})
    with raw_request(running.port, "1.1", "/observers/stream?limit=40000") as connection:
        connection.recv(1000)
        wait_for(lambda: in_flight(running) == 0, description="the stream to be aborted")
        running.wait_for_log("client disconnected")
        wait_for(
            lambda: "received nothing for CLIENT_IDLE_TIMEOUT" in running.log_text(),
            description="the log line on the client",
        )
        assert "Traceback" not in running.log_text()


@pytest.mark.slow
def test_slow_client_receives_the_complete_stream(
    start: Callable[..., Service], keyspace: str, add_observers: Callable[[str, int], None]
) -> None:
    """The idle timeout applies between reads, not to the whole stream.

    The client reads every 0.3 s for 4 s; CLIENT_IDLE_TIMEOUT is 1 s.
    """
    add_observers(keyspace, 30_000)
    running = start(SHORT_IDLE_TIMEOUT | {"CASSANDRA_KEYSPACE": keyspace})
    began = time.monotonic()
    with raw_request(running.port, "1.0", "/observers/stream?limit=30000") as connection:
        data = b""
        while part := connection.recv(65536):
            data += part
            if time.monotonic() - began < 4:
                time.sleep(0.3)
    assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == 30_000


@pytest.mark.parametrize(
    "settings",
    [{"MAX_REQUESTS_IN_FLIGHT": "4", "GUNICORN_THREADS": "4"}, {"GUNICORN_THREADS": "1"}],
    ids=["limit equals threads", "one thread"],
)
def test_concurrency_limit_must_leave_a_thread_to_reject_requests(settings: dict[str, str]) -> None:
    """The service does not start if the limit leaves no thread for rejections and probes."""
    run = subprocess.run(
        [sys.executable, "-m", "gunicorn", "--check-config", "wsgi:app"],
        cwd=PROJECT,
        env=clean_environment() | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode != 0
    assert next(iter(settings)) in run.stderr
