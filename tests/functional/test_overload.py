"""Under more load, and with worse clients, than it can take: it says no at once, and its probes still answer."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from tests.support import USER, Service, Wire, raw_request, wait_for


def get(running: Service, path: str, **headers: str) -> httpx.Response:
    """On a connection of its own, as clients come."""
    return httpx.get(f"{running.client.base_url}{path}", timeout=30, headers=headers)


def in_flight(running: Service) -> int:
    return int(get(running, "/metrics").json()["requests_in_flight"])


@contextmanager
def long_requests(running: Service, count: int) -> Iterator[list[Future[httpx.Response]]]:
    """So many requests that take ten seconds, all of them in flight."""
    with ThreadPoolExecutor(count) as pool:
        requests = [pool.submit(get, running, "/long_running_query") for _ in range(count)]
        wait_for(lambda: in_flight(running) == count, what=f"{count} requests in flight")
        yield requests


def test_long_requests_do_not_block(start: Callable[..., Service]) -> None:
    """With ten long requests in flight, health, a point read and a write answer in under a second."""
    running = start()
    with long_requests(running, 10) as requests:
        for path in ("/health", "/plant/Quercus/robur", "/health/live"):
            began = time.monotonic()
            assert get(running, path).status_code == 200
            assert time.monotonic() - began < 1
        assert running.client.post("/users", json=USER).status_code == 201
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}


def test_busy_connections_leave_threads_for_others(start: Callable[..., Service]) -> None:
    """A thread stays with a connection only while nobody waits for it: more busy clients than threads all get on."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "2"})
    answered = [0] * 6
    stop = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=running.client.base_url, timeout=30) as client:
            while not stop.is_set():
                assert client.get("/health/live").status_code == 200
                answered[number] += 1

    with ThreadPoolExecutor(len(answered)) as pool:
        clients = [pool.submit(ask, number) for number in range(len(answered))]
        try:
            wait_for(lambda: min(answered) >= 200, what="200 answers for each client")
        finally:
            stop.set()
        for client in clients:
            client.result()
    assert max(answered) < 5 * min(answered)


def test_requests_in_one_segment_are_all_answered(start: Callable[..., Service]) -> None:
    """Pipelined requests, of which the thread finds the later ones in its buffer and not on the socket."""
    running = start()
    with raw_request(running.port, "1.1", "/health/live") as connection:
        wait_for(lambda: connection.recv(65536, socket.MSG_PEEK).endswith(b"}"), what="the first answer")
        head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
        connection.sendall(2 * (head + b"\r\n") + head + b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200 OK") == 4


def test_what_is_over_the_bound_is_refused_at_once(start: Callable[..., Service]) -> None:
    """With every slot on a long request: 503 with Retry-After, at once; probes and metrics are answered.

    When a slot is free again, requests are taken again.
    """
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "4"})
    with long_requests(running, 4) as requests:
        for _ in range(20):
            began = time.monotonic()
            refused = get(running, "/plant/Quercus/robur")
            assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
            assert refused.headers["Content-Type"] == "application/problem+json"
            for path in ("/health", "/health/live", "/metrics", "/", "/openapi.json"):
                assert get(running, path).status_code == 200, path
            assert time.monotonic() - began < 5
        assert get(running, "/users").status_code == 503
        assert running.client.post("/users", json=USER).status_code == 503
        assert not any(request.done() for request in requests)
    assert {request.result().status_code for request in requests} == {200}
    wait_for(lambda: in_flight(running) == 0, what="free slots")
    assert get(running, "/plant/Quercus/robur").status_code == 200
    exposition = get(running, "/metrics", Accept="text/plain").text
    assert "fieldbook_requests_refused_total 22.0" in exposition


def test_slots_come_back_whatever_happens(start: Callable[..., Service], keyspace: str) -> None:
    """Errors, refusals, HEAD, an unknown method, streams and clients that leave: none keeps its slot."""
    running = start(
        {"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "2", "CASSANDRA_KEYSPACE": keyspace}
    )
    for _ in range(3):
        for request in (
            ("GET", "/users/1"),
            ("GET", "/users?limit=0"),
            ("HEAD", "/users/stream"),
            ("GET", "/users/stream"),
            ("PUT", "/users"),
            ("OPTIONS", "/users"),
            ("GET", "/nowhere"),
            ("DELETE", "/plant/a/b"),
        ):
            running.client.request(*request)
        running.client.post("/users", content=b"{", headers={"Content-Type": "application/json"})
        with raw_request(running.port, "1.1", "/users/stream"):
            pass
    wait_for(lambda: in_flight(running) == 0, what="free slots")


def test_a_stream_holds_its_slot_to_the_end(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """A stream is in flight until its last byte is sent or its client is gone, not only until its first page."""
    add_users(keyspace, 40_000)
    running = start(
        {"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "4", "MAX_REQUESTS_IN_FLIGHT": "1", "CASSANDRA_KEYSPACE": keyspace}
    )
    with raw_request(running.port, "1.1", "/users/stream?limit=40000") as connection:
        connection.recv(1000)
        assert get(running, "/users").status_code == 503
    wait_for(lambda: get(running, "/users").status_code == 200, what="a free slot")


def test_health_while_cassandra_hangs(start: Callable[..., Service], wire: Wire) -> None:
    """With every slot waiting for a Cassandra that does not answer, the probes still do."""
    running = start(
        {
            "WEB_CONCURRENCY": "1",
            "GUNICORN_THREADS": "6",
            "MAX_REQUESTS_IN_FLIGHT": "3",
            "CASSANDRA_PORT": str(wire.port),
        }
    )
    assert get(running, "/plant/Quercus/robur").status_code == 200
    wire.hold()
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(get, running, "/plant/Quercus/robur", **{"X-Request-Timeout": "6"}) for _ in range(3)]
        wait_for(lambda: in_flight(running) == 3, what="three in flight")
        began = time.monotonic()
        assert get(running, "/health/live").status_code == 200
        assert get(running, "/plant/Quercus/robur").status_code == 503
        assert time.monotonic() - began < 1
        assert get(running, "/health").status_code == 503
        assert time.monotonic() - began < 4
        wire.release()
        assert {request.result().status_code for request in waiting} <= {200, 504}


# --- clients that stall ------------------------------------------------------------------------------------

IDLE = {"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "4", "MAX_REQUESTS_IN_FLIGHT": "2", "CLIENT_IDLE_TIMEOUT": "1"}


def response(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of an answer after which the connection is closed."""
    data = b""
    while part := connection.recv(65536):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_a_body_that_stops_coming(start: Callable[..., Service]) -> None:
    """It is 408, and what had come of it changes nothing; the slot and the thread are free again."""
    running = start(IDLE)
    body = json.dumps(USER | {"email": "stalled@example.org"}).encode()
    for framing in (
        f"Content-Length: {len(body) + 5}\r\n\r\n".encode() + body,
        b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ):
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            connection.sendall(b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + framing)
            status, problem = response(connection)
        assert (status, json.loads(problem)["status"]) == (408, 408)
    wait_for(lambda: in_flight(running) == 0, what="free slots")
    assert running.client.get("/users?limit=1").status_code == 200


def test_a_body_that_trickles(start: Callable[..., Service]) -> None:
    """A client that sends a byte now and then is not idle, but its request has a deadline like any other."""
    running = start(IDLE | {"REQUEST_TIMEOUT": "1.5"})
    began = time.monotonic()
    stop = threading.Event()
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(
            b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        )

        def trickle() -> None:
            while not stop.wait(0.2):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        trickler = threading.Thread(target=trickle)
        trickler.start()
        status = int(connection.recv(4096).split()[1])
        elapsed = time.monotonic() - began
        stop.set()
        trickler.join()
    assert status == 504
    assert 1.4 < elapsed < 5


def test_the_rest_of_a_late_body_is_no_request(start: Callable[..., Service]) -> None:
    """After a body that was given up the connection is closed: what still comes of it is never taken for a request."""
    running = start({"WEB_CONCURRENCY": "1"})
    head = b"POST /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += b"X-Request-Timeout: 0.2\r\nContent-Length: 1000\r\n\r\n{"
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    for number in range(40):
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
            began = time.monotonic()
            connection.sendall(head)
            # Around the moment in which the answer goes out.
            time.sleep(max(0.0, 0.2 + number % 10 * 0.0005 - (time.monotonic() - began)))
            answers = b""
            with suppress(ConnectionError):
                connection.sendall(smuggled)
                while part := connection.recv(65536):
                    answers += part
            assert answers.count(b"HTTP/1.1 ") <= 1, answers
    assert "GET /health/live 200" not in running.log_text().partition("POST /users 504")[2]


def test_headers_that_stop_coming(start: Callable[..., Service]) -> None:
    """More clients than threads that never finish their request: they are closed, and others are served."""
    running = start(IDLE)
    with ExitStack() as stack:
        stalled = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(12)
        ]
        for connection in stalled:
            connection.sendall(b"GET /users HTTP/1.1\r\nHost:")
        assert get(running, "/health").status_code == 200
        for connection in stalled:
            assert connection.recv(1000) == b""
    assert "Traceback" not in running.log_text()


def test_late_headers_leave_threads_for_others(start: Callable[..., Service]) -> None:
    """Many more clients than threads that send their headers bit by bit: health is answered within its two seconds."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "16"})
    stop = threading.Event()
    with ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20)) for _ in range(40)
        ]
        for connection in slow:
            connection.sendall(b"GET /users HTTP/1.1\r\nX")

        def trickle() -> None:
            while not stop.wait(0.3):
                for connection in slow:
                    with suppress(OSError):
                        connection.sendall(b"x")

        trickler = threading.Thread(target=trickle)
        trickler.start()
        try:
            # Those of the moment are ended when they are late; from then on there are always threads.
            wait_for(lambda: get(running, "/health").status_code == 200, what="health")
            for connection in slow:
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""
        finally:
            stop.set()
            trickler.join()


def test_goodbyes_and_unwanted_bodies_leave_threads_for_others(start: Callable[..., Service]) -> None:
    """Clients that never close, or never send the body of a request that was refused, take no thread from others."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "8", "MAX_REQUESTS_IN_FLIGHT": "4"})
    requests = (
        b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"PUT /users HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n",
    )
    with ExitStack() as stack:
        for number in range(80):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
            connection.sendall(requests[number % 2])
        began = time.monotonic()
        assert get(running, "/health").status_code == 200
        assert time.monotonic() - began < 4


def test_connections_that_send_nothing_take_no_thread(start: Callable[..., Service]) -> None:
    """Opened in advance, as browsers do, or to block: requests of others are answered at once."""
    running = start({"WEB_CONCURRENCY": "1", "GUNICORN_THREADS": "4"})
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=20))
        began = time.monotonic()
        assert get(running, "/health").status_code == 200
        assert time.monotonic() - began < 1


def test_a_client_that_takes_nothing(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """A stream whose client stops reading is cut; its slot is free again, and it counts as left by the client."""
    add_users(keyspace, 40_000)
    running = start(IDLE | {"CASSANDRA_KEYSPACE": keyspace})
    with raw_request(running.port, "1.1", "/users/stream?limit=40000") as connection:
        connection.recv(1000)
        wait_for(lambda: in_flight(running) == 0, what="the end of the stream")
        assert "the client left" in running.log_text()
        wait_for(lambda: "took nothing for too long" in running.log_text(), what="the log line")
        assert "Traceback" not in running.log_text()


def test_a_slow_client_gets_all(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """Slow is not idle: who takes a little within each limit gets the whole stream, well beyond the limit in all."""
    add_users(keyspace, 30_000)
    running = start(IDLE | {"CASSANDRA_KEYSPACE": keyspace})
    began = time.monotonic()
    with raw_request(running.port, "1.0", "/users/stream?limit=30000") as connection:
        data = b""
        while part := connection.recv(65536):
            data += part
            if time.monotonic() - began < 4:
                time.sleep(0.3)
    assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == 30_000


@pytest.mark.parametrize(
    "settings", [{"MAX_REQUESTS_IN_FLIGHT": "4", "GUNICORN_THREADS": "4"}, {"GUNICORN_THREADS": "1"}]
)
def test_a_bound_without_threads_above_it(settings: dict[str, str]) -> None:
    """Somebody must be left to say no: such settings do not start."""
    import subprocess
    import sys

    from tests.support import PROJECT, clean_environment

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
