"""Graceful shutdown: connection draining, then in-flight requests complete, then the service stops."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.sockets import RawClient, exchange
from tests.support import LARGE, OBSERVER, Service, TcpProxy, get, in_flight, raw_request, wait_for

TOKEN = "the token of the tests"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- POST /shutdown ----------------------------------------------------------------------------------------


def test_shutdown_requires_the_operator_token(start: Callable[..., Service]) -> None:
    """Without the right token, the status is 401 with WWW-Authenticate, and the service keeps running."""
    running = start({"OPERATOR_TOKEN": TOKEN, "WEB_CONCURRENCY": "2"})
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer another"}):
        rejected = running.client.post("/shutdown", headers=headers)
        assert rejected.status_code == 401
        assert rejected.headers["WWW-Authenticate"].startswith("Bearer")
        assert rejected.headers["Content-Type"] == "application/problem+json"
    assert running.client.get("/health").json()["status"] == "healthy"


def test_no_client_can_stop_the_service_without_operator_token(live: Service) -> None:
    """Without OPERATOR_TOKEN, a request gets 401 without a token and with any token."""
    assert live.client.post("/shutdown").status_code == 401
    assert live.client.post("/shutdown", headers={"Authorization": "Bearer x"}).status_code == 401
    assert live.client.get("/health").status_code == 200


def test_shutdown_returns_501_under_other_servers(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gunicorn the status is 501, and the process keeps running."""
    from api import create_app
    from environment import get_settings

    monkeypatch.setenv("OPERATOR_TOKEN", TOKEN)
    get_settings.cache_clear()
    try:
        response = create_app().test_client().post("/shutdown", headers=OPERATOR)
        assert (response.status_code, response.get_json()["status"]) == (501, 501)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


# --- connection draining and stop --------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", ["SIGTERM", pytest.param("POST /shutdown", marks=pytest.mark.slow)])
def test_requests_are_served_while_draining(start: Callable[..., Service], trigger: str) -> None:
    """While draining, requests are served and /health returns 503; then the service stops."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "5", "WEB_CONCURRENCY": "2"})
    workers = running.workers()
    began = time.monotonic()
    if trigger == "SIGTERM":
        running.process.send_signal(signal.SIGTERM)
    else:
        response = running.client.post("/shutdown", headers=OPERATOR)
        assert response.status_code == 202
        assert response.json()["message"].startswith("Shutdown initiated")
    wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")

    def stopped() -> bool:
        try:
            health, row, live = (get(running, path) for path in ("/health", "/find/Quercus/robur", "/health/live"))
        except httpx.TransportError:
            return True
        assert health.status_code == 503
        assert (health.json()["status"], health.json()["cassandra"]) == ("draining", "connected")
        assert (row.status_code, live.status_code) == (200, 200)
        return False

    assert not stopped()
    wait_for(stopped, timeout=60, description="the end of the draining phase")
    assert time.monotonic() - began >= 5
    assert running.process.wait(timeout=30) == 0
    assert all(has_ended(worker) for worker in workers)


def drain(running: Service) -> None:
    """Send SIGTERM, and wait until the service drains."""
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")


def http_request(method: str, path: str, version: str = "1.1", body: bytes = b"") -> bytes:
    """A request after which the client keeps its connection open."""
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += ["Connection: keep-alive"] * (version == "1.0") + ["Content-Type: application/json"] * bool(body)
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_connections_end_with_their_next_response_while_draining(start: Callable[..., Service]) -> None:
    """Every response has "Connection: close", so that clients open their next connection to another instance."""
    running = start({"DRAIN_SECONDS": "60", "WEB_CONCURRENCY": "1"})
    create = http_request("POST", "/observers", body=json.dumps(OBSERVER).encode())
    requests = [
        ("GET", http_request("GET", "/find/Quercus/robur"), 200),
        ("GET", http_request("GET", "/find/Quercus/robur", "1.0"), 200),
        ("HEAD", http_request("HEAD", "/find/Quercus/robur"), 200),
        ("GET", http_request("GET", "/find/Quercus"), 200),
        ("GET", http_request("GET", "/health"), 503),
        ("GET", http_request("GET", "/nothing"), 404),
        ("POST", create, 201),
        ("POST", http_request("POST", "/observers", body=b"{"), 400),
    ]
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(running.port)) for _ in requests]
        for client, (method, data, _) in zip(clients, requests, strict=True):
            client.send(data)
            assert not client.read_response(method).closes
        drain(running)
        for client, (method, data, status) in zip(clients, requests, strict=True):
            client.send(data)
            (response,) = client.read_to_end([method])
            assert (response.status, response.closes) == (status, True), data
        # A request behind the last one of a connection is not handled (RFC 9112, 9.6).
        (response,) = exchange(running.port, 2 * create)
        assert (response.status, response.closes) == (201, True)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_idle_connections_stay_open_while_draining(start: Callable[..., Service]) -> None:
    """A proxy may send a POST at any moment, and does not resend it, so the service closes no idle connection."""
    running = start({"DRAIN_SECONDS": "60", "WEB_CONCURRENCY": "1"})
    create = http_request("POST", "/observers", body=json.dumps(OBSERVER).encode())
    with RawClient(running.port) as used, RawClient(running.port) as idle:
        for client in (used, idle):
            client.send(create)
            assert client.read_response().status == 201
        drain(running)
        running.process.send_signal(signal.SIGTERM)
        running.wait_for_log("Shutting down")
        # Within 2 s after the stop has begun.
        used.send(create)
        (response,) = used.read_to_end()
        assert (response.status, response.closes) == (201, True)
        assert idle.read_to_end() == []
    assert running.process.wait(timeout=30) == 0


def test_streams_complete_while_draining(
    start: Callable[..., Service], keyspace: str, add_observers: Callable[[str, int], None]
) -> None:
    """A stream that began before keeps its connection; one that begins while the instance drains ends it."""
    add_observers(keyspace, 5_000)
    running = start({"DRAIN_SECONDS": "60", "CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "1"})
    stream = http_request("GET", "/observers/stream?limit=5000")
    with RawClient(running.port, receive_buffer=4096) as before, RawClient(running.port) as during:
        before.send(stream)
        before.wait_for_response()
        assert in_flight(running) == 1
        drain(running)
        during.send(stream)
        (response,) = during.read_to_end()
        assert (response.closes, len(json.loads(response.body))) == (True, 5_000)
        response = before.read_response()
        assert (response.closes, len(json.loads(response.body))) == (False, 5_000)
        before.send(stream)
        assert [response.closes for response in before.read_to_end()] == [True]
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_second_sigterm_ends_draining(start: Callable[..., Service]) -> None:
    """A second SIGTERM stops the service without waiting for the rest of DRAIN_SECONDS."""
    running = start({"DRAIN_SECONDS": "60", "WEB_CONCURRENCY": "2"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 20


def test_worker_killed_while_draining_is_replaced(start: Callable[..., Service]) -> None:
    """The new worker serves requests, and its /health reports that the instance is draining."""
    running = start({"DRAIN_SECONDS": "30", "WEB_CONCURRENCY": "1"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")
    (worker,) = running.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: running.workers() not in ([], [worker]), description="a new worker")
    wait_for(lambda: get(running, "/find/Quercus/robur").status_code == 200, description="a response")
    assert get(running, "/health").json()["status"] == "draining"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_in_flight_requests_complete(start: Callable[..., Service], large_keyspace: str) -> None:
    """A stream and a slow request complete after SIGTERM; then the service stops."""
    running = start({"CASSANDRA_KEYSPACE": large_keyspace, "WEB_CONCURRENCY": "1"})
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    with raw_request(running.port, "1.0", f"/observers/stream?limit={LARGE}") as connection:
        data = connection.recv(1000)
        wait_for(lambda: in_flight(running) == 2, description="two requests in flight")
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Handling signal: term" in running.log_text(), description="the signal")
        while part := connection.recv(65536):
            data += part
    assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == LARGE
    thread.join(timeout=30)
    assert slow[0].status_code == 200
    assert running.process.wait(timeout=30) == 0
    assert "Traceback" not in running.log_text()


@pytest.mark.slow
def test_new_connections_are_refused_while_in_flight_requests_complete(start: Callable[..., Service]) -> None:
    """A new connection is refused at once; it is not accepted and then left without a response."""
    running = start({"WEB_CONCURRENCY": "2"})
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    wait_for(lambda: in_flight(running) == 1, description="one request in flight")
    running.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            get(running, "/health/live")
        except httpx.TransportError as error:
            # A client that connects while the listeners close may be disconnected. Draining avoids this.
            return isinstance(error, httpx.ConnectError)
        return False

    wait_for(refused, timeout=3, description="a refused connection")
    assert slow == []
    thread.join(timeout=30)
    assert slow[0].status_code == 200
    assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_in_flight_requests_complete_after_aborted_streams(
    start: Callable[..., Service],
    proxy: TcpProxy,
    large_keyspace: str,
    version: str,
) -> None:
    """Aborted streams leave the worker's count of connections correct, so it still waits for requests."""
    running = start({"CASSANDRA_KEYSPACE": large_keyspace, "CASSANDRA_PORT": str(proxy.port), "WEB_CONCURRENCY": "1"})
    for _ in range(3):
        with raw_request(running.port, version, f"/observers/stream?limit={LARGE}") as connection:
            connection.recv(1000)
            proxy.disconnect()
            with suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
        proxy.reconnect()
        wait_for(running.healthy, description="the service to be healthy")
    exposition = get(running, "/metrics", Accept="text/plain").text
    assert 'fieldbook_streams_ended_total{outcome="aborted",route="/observers/stream"} 3.0' in exposition
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    wait_for(lambda: in_flight(running) == 1, description="one request in flight")
    running.client.close()
    running.process.send_signal(signal.SIGTERM)
    thread.join(timeout=30)
    assert slow[0].status_code == 200, slow[0].text
    assert running.process.wait(timeout=30) == 0


@pytest.mark.slow
def test_repeated_shutdown_does_not_shorten_draining(start: Callable[..., Service]) -> None:
    """POST /shutdown is safe to send more than once; each response gives the draining time."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "3", "WEB_CONCURRENCY": "2"})
    began = time.monotonic()
    for _ in range(3):
        response = httpx.post(f"{running.client.base_url}/shutdown", headers=OPERATOR, timeout=10)
        assert response.status_code == 202
        assert "for 3 s" in response.json()["message"]
        wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 3


def shut_down_simultaneously(running: Service) -> None:
    """Send 24 POST /shutdown requests to the workers at the same time."""
    clients = 24
    barrier = threading.Barrier(clients)

    def shut_down(_: int) -> int:
        with httpx.Client(base_url=running.client.base_url, timeout=20) as client:
            client.get("/health/live")
            barrier.wait(timeout=20)
            return client.post("/shutdown", headers=OPERATOR).status_code

    with ThreadPoolExecutor(clients) as pool:
        # The routes without Cassandra have a small concurrency limit, so a worker may reject some.
        assert {202} <= set(pool.map(shut_down, range(clients))) <= {202, 503}


@pytest.mark.slow
@pytest.mark.parametrize("with_sigterm", [False, True])
def test_simultaneous_shutdown_requests_do_not_shorten_draining(
    start: Callable[..., Service], with_sigterm: bool
) -> None:
    """Both workers get requests, and an operator may send SIGTERM at the same time: the instance drains once."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "4", "WEB_CONCURRENCY": "2"})
    began = time.monotonic()
    if with_sigterm:
        # The stopped master handles the signals of all requests after the operator's one.
        running.process.send_signal(signal.SIGSTOP)
        try:
            shut_down_simultaneously(running)
            running.process.send_signal(signal.SIGTERM)
        finally:
            began = time.monotonic()
            running.process.send_signal(signal.SIGCONT)
    else:
        shut_down_simultaneously(running)
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 4
    assert running.log_text().count("Draining: /health returns 503") == 1


@pytest.mark.slow
def test_sigterm_after_a_shutdown_request_ends_draining(start: Callable[..., Service]) -> None:
    """POST /shutdown begins to drain; the operator's SIGTERM stops the service without waiting any longer."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "60", "WEB_CONCURRENCY": "2"})
    assert running.client.post("/shutdown", headers=OPERATOR).status_code == 202
    wait_for(lambda: get(running, "/health").status_code == 503, description="/health to return 503")
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 20
