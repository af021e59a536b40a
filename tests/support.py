"""What the tests share: settings of their own, a service in gunicorn, and a wire to Cassandra that can be cut."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

from dev.local_cassandra.node import free_port, port_is_free
from settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
USER = {"name": "Ada", "email": "ada@example.org", "age": 36}


def clean_environment() -> dict[str, str]:
    """The environment without any variable of the service: no test sees what the developer has set."""
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | {"ENV_FILE": os.devnull}


def copy_project(destination: Path) -> None:
    """Puts what git knows of the project, as it is now, into a new directory."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, destination / name)


def wait_for(condition: Callable[[], Any], timeout: float = 30.0, what: str = "the condition") -> Any:
    """The first true result of `condition`.

    :param timeout: seconds, after which the test fails.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not come within {timeout} s")


class Service:
    """A running gunicorn with the service, and a client for it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def healthy(self) -> bool:
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def live(self) -> bool:
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


@contextmanager
def service(environment: dict[str, str], log: Path, *arguments: str, healthy: bool = True) -> Iterator[Service]:
    """Runs gunicorn as a user would, until the block ends.

    :param environment: variables of the service.
    :param arguments: more of gunicorn's.
    :param healthy: wait until it can query Cassandra, or only until it serves.
    """
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "wsgi:app", *arguments],
            cwd=PROJECT,
            env=clean_environment() | environment | {"PORT": str(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Service(process, port, log)
    try:
        wait_for(
            lambda: process.poll() is not None or (running.healthy() if healthy else running.live()), what="the service"
        )
        assert process.poll() is None, running.log_text()
        yield running
    finally:
        running.client.close()
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def raw_request(port: int, version: str, path: str) -> socket.socket:
    """A connection on which a GET was sent, for tests that read its answer in their own way, or not."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    return connection


class Wire:
    """A TCP relay to Cassandra: the server behind it is real, the network between can fail.

    `hold()` lets nothing through to the client until `release()`, or for some seconds; `cut()` closes every
    connection and takes no new ones until `mend()`.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self.bytes_to_client = 0
        self.accepted = 0
        self._listener: socket.socket | None = None
        self.mend()

    def hold(self, seconds: float | None = None) -> None:
        self._open.clear()
        if seconds is not None:
            threading.Timer(seconds, self.release).start()

    def release(self) -> None:
        self._open.set()

    def cut(self) -> None:
        if self._listener is not None:
            # close() alone leaves the port open while accept() waits on it.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._lock:
            connections, self._connections = self._connections, []
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.set()

    def mend(self) -> None:
        wait_for(lambda: port_is_free("127.0.0.1", self.port), what="the wire's port")
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    close = cut

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self.accepted += 1
                self._connections += [client, server]
            threading.Thread(target=self._relay, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, True), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, to_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if to_client:
                    self.bytes_to_client += len(data)
                    self._open.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def rows_left(session: Any, settings: Settings) -> list[Any]:
    """The time to live, in seconds, of each row in the diagnostics' table."""
    return list(session.execute(f"SELECT TTL(name) FROM {settings.cassandra_keyspace}.diagnostics"))
