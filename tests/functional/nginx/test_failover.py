"""Instances that fail: which requests nginx sends to another instance, and which errors the client sees."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from cassandra.cluster import Session

from dev.local_cassandra.node import free_port
from tests.functional.nginx.conftest import BEHIND_NGINX
from tests.nginx import Nginx
from tests.support import Service, wait_for

RETRIED = ("GET", "HEAD", "OPTIONS")
NEVER_RESENT = ("POST", "PUT", "PATCH", "DELETE")


class FakeInstance:
    """A server that answers every request with the same bytes, and closes the connection."""

    def __init__(self, answer: bytes) -> None:
        self.methods: list[str] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                head = b""
                while b"\r\n\r\n" not in head and (part := connection.recv(65536)):
                    head += part
                self.methods.append(head.split()[0].decode())
                connection.sendall(self._answer)

    def close(self) -> None:
        # close() alone leaves the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def answer(status: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Test", "Content-Length: 0", "Connection: close", *headers, "", ""]).encode()


@pytest.fixture
def start_nginx(nginx_binary: str, tmp_path: Path) -> Iterator[Callable[..., httpx.Client]]:
    """Start nginx in front of instances with these ports, and return a client of it."""
    with ExitStack() as stack:

        def start(*ports: int) -> httpx.Client:
            directory = tmp_path / "nginx"
            directory.mkdir()
            nginx = Nginx(nginx_binary, directory, ports)
            stack.enter_context(nginx.run())
            return stack.enter_context(nginx.client())

        yield start


@pytest.fixture
def fake() -> Iterator[Callable[[bytes], FakeInstance]]:
    """Start fake instances."""
    with ExitStack() as stack:

        def start(data: bytes) -> FakeInstance:
            instance = FakeInstance(data)
            stack.callback(instance.close)
            return instance

        yield start


@pytest.mark.parametrize("method", RETRIED + NEVER_RESENT)
def test_only_safe_requests_are_resent_after_a_lost_response(
    start_nginx: Callable[..., httpx.Client], fake: Callable[[bytes], FakeInstance], method: str
) -> None:
    """Both instances close the connection without a response."""
    instances = [fake(b""), fake(b"")]
    response = start_nginx(*(instance.port for instance in instances)).request(method, "/observers")
    assert response.status_code == 502
    assert [len(instance.methods) for instance in instances] == [1, int(method in RETRIED)]
    if method != "HEAD":
        assert response.headers["Content-Type"] == "application/problem+json"
        assert response.json()["title"] == "Bad Gateway"


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH"])
def test_request_goes_to_another_instance_if_it_was_not_sent(
    start_nginx: Callable[..., httpx.Client], fake: Callable[[bytes], FakeInstance], method: str
) -> None:
    """One instance refuses connections."""
    instance = fake(answer(200))
    client = start_nginx(free_port(), instance.port)
    assert [client.request(method, "/observers").status_code for _ in range(10)] == 10 * [200]
    assert instance.methods == 10 * [method]


@pytest.mark.parametrize("status", [500, 503, 504])
def test_error_response_is_not_a_failure_of_the_instance(
    start_nginx: Callable[..., httpx.Client], fake: Callable[[bytes], FakeInstance], status: int
) -> None:
    """The client gets the error of the first instance, and both instances stay in use."""
    instances = [fake(answer(status)), fake(answer(status))]
    client = start_nginx(*(instance.port for instance in instances))
    for _ in range(20):
        assert client.get("/observers").status_code == status
    assert [len(instance.methods) for instance in instances] == [10, 10]


def test_long_response_headers_are_not_a_failure_of_the_instance(
    start_nginx: Callable[..., httpx.Client], fake: Callable[[bytes], FakeInstance]
) -> None:
    """A client could otherwise take an instance out."""
    instance = fake(answer(200, f"Link: <{12_000 * 'a'}>"))
    assert len(start_nginx(instance.port, instance.port).get("/observers").headers["Link"]) == 12_002


def test_nginx_closes_idle_connections_to_instances_first(start_nginx: Callable[..., httpx.Client]) -> None:
    """The service closes them 2 s after its stop or reload, and nginx does not resend a POST that meets the close."""
    with socket.create_server(("127.0.0.1", 0)) as instance, ThreadPoolExecutor() as pool:
        client = start_nginx(instance.getsockname()[1])
        response = pool.submit(client.get, "/observers")
        instance.settimeout(30)
        connection, _ = instance.accept()
        with connection:
            # Without the setting, nginx waits 60 s.
            connection.settimeout(20)
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            assert response.result(timeout=30).status_code == 200
            assert connection.recv(1) == b""


@pytest.mark.slow
def test_killed_instance_fails_no_get_and_doubles_no_post(
    start: Callable[..., Service],
    start_nginx: Callable[..., httpx.Client],
    session: Session,
    keyspace: str,
) -> None:
    """Four clients send requests while all processes of one instance get SIGKILL."""
    variables = BEHIND_NGINX | {"CASSANDRA_KEYSPACE": keyspace}
    instances = [start(variables), start(variables)]
    client = start_nginx(*(instance.port for instance in instances))
    statuses: dict[str, int] = {}
    stop = threading.Event()

    def send(thread: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"{'GET' if thread % 2 else 'POST'}-{thread}-{number}"
            number += 1
            if thread % 2:
                statuses[name] = client.get("/observers?limit=1").status_code
            else:
                body = {"name": name, "email": "a@example.org", "age": 1}
                statuses[name] = client.post("/observers", json=body).status_code

    threads = [threading.Thread(target=send, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(statuses) > 200, description="200 responses")
        for pid in [instances[0].process.pid, *instances[0].workers()]:
            os.kill(pid, signal.SIGKILL)
        before = len(statuses)
        wait_for(lambda: len(statuses) > before + 400, timeout=60, description="400 more responses")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    gets = {status for name, status in statuses.items() if name.startswith("GET")}
    posts = {name: status for name, status in statuses.items() if name.startswith("POST")}
    rows = Counter(name for (name,) in session.execute(f"SELECT name FROM {keyspace}.observers"))
    assert gets == {200}
    assert set(posts.values()) <= {201, 502}
    # Each of the two threads that send POST can have one in flight.
    assert sum(status == 502 for status in posts.values()) <= 2
    assert set(rows.values()) == {1}
    assert {name for name, status in posts.items() if status == 201} <= rows.keys() <= posts.keys()
