"""Test helpers: a clean environment, the service in gunicorn, a TCP proxy to Cassandra."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from auth.access_tokens import AccessTokens
from auth.callers import Scope
from dev.local_cassandra.node import free_port, port_is_free
from settings import Settings
from storage.cql import QueryOptions
from storage.db_connect import Session
from storage.db_io.accounts import Account, create_account

PROJECT = Path(__file__).resolve().parent.parent
OBSERVER = {"name": "Ada", "email": "ada@example.org", "age": 36}

# Observers of the fixture `large_keyspace`: 8 MB as JSON, which do not fit into the buffers of a connection. On the
# loopback interface these hold about 3 MB.
LARGE = 40_000

# The WSGI applications: the product's, and the same with the resources of tests/testbed.
PRODUCT = "wsgi:app"
TESTBED = "tests.testbed.wsgi:app"

# A value for the setting of the same name.
OPERATOR_TOKEN = "the operator token of the tests"

# Settings for the smallest number of threads: one worker with 18.
FEW_THREADS = {
    "WEB_CONCURRENCY": "1",
    "MAX_REQUESTS_IN_FLIGHT": "1",
    "MAX_REQUESTS_QUEUED": "0",
    "MAX_IMPORTS_IN_FLIGHT": "1",
}


def clean_environment() -> dict[str, str]:
    """Return the environment without the service's variables, and with APP_ENV=development.

    No test then depends on what the developer has set. `{"APP_ENV": ""}` unsets it.
    """
    service_variables = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in service_variables} | {
        "ENV_FILE": os.devnull,
        "APP_ENV": "development",
    }


def unmeasured_environment() -> dict[str, str]:
    """Return the clean environment for a process whose coverage is not reported, such as one in a copy of the project.

    Coverage makes a start of the application 1.7 times as long.
    """
    return {name: value for name, value in clean_environment().items() if not name.startswith("COVERAGE_")}


def run_python(directory: Path, *arguments: str, **environment: str) -> str:
    """Run Python in a copy of the project, and return its output. It must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=unmeasured_environment() | environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_project(destination: Path) -> None:
    """Copy the files of the working tree, without those that git ignores, to `destination`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    # A deleted file is listed until the deletion is committed.
    for name in [name for name in listed.split("\0") if (PROJECT / name).is_file()]:
        (destination / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / name, destination / name)


def copy_mypy_cache(destination: Path) -> None:
    """Copy mypy's cache to a copy of the project, where mypy then checks only what differs.

    Without a cache, mypy takes 12 s of processor time. `make lint` has written one before the tests run in CI.
    """
    if (cache := PROJECT / ".mypy_cache").exists():
        shutil.copytree(cache, destination / ".mypy_cache", dirs_exist_ok=True)


def register_testbed(project: Path) -> None:
    """Make the resources of the testbed a part of the product, in a copy of the project."""
    registry = project / "routes" / "__init__.py"
    modules = "".join(f'    "tests.testbed.routes.{name}",\n' for name in ("observers", "finds"))
    registry.write_text(registry.read_text().replace("MODULES = (\n", f"MODULES = (\n{modules}"))
    tables = (project / "tests" / "testbed" / "tables.cql").read_text()
    migrations = project / "storage" / "migrations"
    number = len(list(migrations.glob("*.cql"))) + 1
    (migrations / f"{number:04}_testbed.cql").write_text(tables.replace("{keyspace}.", ""))


def wait_for(condition: Callable[[], Any], timeout: float = 30.0, description: str = "the condition") -> Any:
    """Poll `condition` every 20 ms and return its first true result.

    :param timeout: seconds.
    :param description: names the condition in the error message.
    :raises AssertionError: when the timeout expires.
    """
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"timed out after {timeout} s waiting for {description}")


class Service:
    """A running gunicorn process that serves the application, and an HTTP client for it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def log_text(self) -> str:
        """Return the log. The service writes lines with a delay: return when there was none for 0.1 s, or after 1 s."""
        text = self.log.read_text(errors="replace")
        for _ in range(10):
            time.sleep(0.1)
            before, text = text, self.log.read_text(errors="replace")
            if text == before:
                break
        return text

    def wait_for_log(self, text: str) -> None:
        """Wait until the log contains this text."""
        wait_for(lambda: text in self.log_text(), description=f"{text!r} in the log")

    def healthy(self) -> bool:
        """Return whether the readiness probe, which queries Cassandra, succeeds."""
        try:
            return self.client.get("/health").status_code == 200
        except httpx.TransportError:
            return False

    def live(self) -> bool:
        """Return whether the liveness probe, which does not use Cassandra, succeeds."""
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def workers(self) -> list[int]:
        """Return the process ids of gunicorn's workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def reload(self) -> None:
        """Send SIGHUP, and wait until only new workers run and the service is healthy."""
        old = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self.workers() and not old & set(self.workers()), description="new workers")
        wait_for(lambda: get(self, "/health").status_code == 200, description="the service to be healthy")


@contextmanager
def service(
    environment: dict[str, str], log: Path, *arguments: str, healthy: bool = True, app: str = TESTBED
) -> Iterator[Service]:
    """Run the service in gunicorn on a free port, and stop it when the block ends.

    :param environment: the service's environment variables.
    :param log: the file to which the output is appended.
    :param arguments: additional arguments for gunicorn.
    :param healthy: wait for the readiness probe; if false, wait for the liveness probe only.
    :param app: the WSGI application: `TESTBED` or `PRODUCT`.
    """
    port = free_port()
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", app, *arguments],
            cwd=PROJECT,
            env=clean_environment() | environment | {"PORT": str(port)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Service(process, port, log)
    try:
        wait_for(
            lambda: process.poll() is not None or (running.healthy() if healthy else running.live()),
            description="the service",
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


def access_token(
    settings: Settings, scopes: Iterable[Scope] = ("read", "write"), session: Session | None = None
) -> str:
    """Return an access token of a new account with these scopes and without a password.

    :param session: stores the account, for routes that read it. Without a session, only the token exists.
    """
    email, scopes = f"{uuid4()}@example.org", frozenset(scopes)
    account = Account(email, uuid4(), "none", scopes, False, uuid4(), datetime.now(UTC))
    if session is not None:
        assert create_account(session, account, QueryOptions())
    return AccessTokens(settings).issue(account.id, email, scopes)


def bearer(token: str) -> dict[str, str]:
    """Return the header for an access token or the operator token."""
    return {"Authorization": f"Bearer {token}"}


def get(running: Service, path: str, **headers: str) -> httpx.Response:
    """Send a GET request on a new connection."""
    return httpx.get(f"{running.client.base_url}{path}", timeout=30, headers=headers)


def in_flight(running: Service) -> int:
    """Return the number of requests in flight, as /metrics reports it."""
    return int(get(running, "/metrics").json()["requests_in_flight"])


def metric(running: Service, series: str) -> float:
    """Return the value of a time series, given as /metrics writes it; 0 if there is none yet."""
    lines = get(running, "/metrics", Accept="text/plain").text.splitlines()
    return next((float(line.removeprefix(f"{series} ")) for line in lines if line.startswith(f"{series} ")), 0.0)


def raw_request(port: int, version: str, path: str) -> socket.socket:
    """Send a GET request on a new connection. Return the connection, with the response unread.

    :param version: the HTTP version, "1.0" or "1.1".
    """
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
    return connection


class TcpProxy:
    """A TCP proxy in front of Cassandra, with which tests simulate network failures.

    `pause()` holds back the data that Cassandra sends; `disconnect()` closes every connection and refuses new ones.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.port = free_port()
        self._may_forward = threading.Event()
        self._may_forward.set()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self.bytes_to_client = 0
        self.accepted = 0
        self._listener: socket.socket | None = None
        self.reconnect()

    def pause(self, seconds: float | None = None) -> None:
        """Forward nothing from Cassandra to its clients until `resume()`, or for `seconds`."""
        self._may_forward.clear()
        if seconds is not None:
            threading.Timer(seconds, self.resume).start()

    def resume(self) -> None:
        """Forward what was held back, and everything after it."""
        self._may_forward.set()

    def disconnect(self) -> None:
        """Close every connection, and refuse new ones until `reconnect()`."""
        if self._listener is not None:
            # close() alone leaves the port open while another thread is blocked in accept().
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
        self._may_forward.set()

    def reconnect(self) -> None:
        """Accept connections again, on the same port."""
        wait_for(lambda: port_is_free("127.0.0.1", self.port), description="the proxy's port to be free")
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    close = disconnect

    def _connect(self, client: socket.socket) -> socket.socket:
        """Open the connection to which the data of `client` is forwarded."""
        return socket.create_connection(self._target, timeout=10)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = self._connect(client)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self.accepted += 1
                self._connections += [client, server]
            threading.Thread(target=self._forward, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._forward, args=(server, client, True), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, to_client: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if to_client:
                    self.bytes_to_client += len(data)
                    self._may_forward.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def rows_left(session: Any, settings: Settings) -> list[Any]:
    """Return the rows that remain in the diagnostics table, each as its time to live in seconds."""
    return list(session.execute(f"SELECT TTL(name) FROM {settings.cassandra_keyspace}.diagnostics"))
