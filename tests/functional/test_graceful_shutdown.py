"""Graceful shutdown, and the replacement of workers: no acknowledged write is lost, no request is interrupted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests import support
from tests.support import USER, Service, Wire, copy_project, raw_request, wait_for

TOKEN = "the token of the tests"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


def get(running: Service, path: str, **options: Any) -> httpx.Response:
    return httpx.get(f"{running.client.base_url}{path}", timeout=30, **options)


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- POST /shutdown ----------------------------------------------------------------------------------------


def test_shutdown_requires_the_operator_token(start: Callable[..., Service]) -> None:
    """Without the token, or with another one, the status is 401 with WWW-Authenticate, and the service runs on."""
    running = start({"OPERATOR_TOKEN": TOKEN})
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer another"}):
        refused = running.client.post("/shutdown", headers=headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert refused.headers["Content-Type"] == "application/problem+json"
    assert running.client.get("/health").json()["status"] == "healthy"


def test_no_client_is_an_operator_without_operator_token(live: Service) -> None:
    """Without OPERATOR_TOKEN, the status is 401 for requests without a token and 403 with any token."""
    assert live.client.post("/shutdown").status_code == 401
    assert live.client.post("/shutdown", headers={"Authorization": "Bearer x"}).status_code == 403
    assert live.client.get("/health").status_code == 200


def test_shutdown_is_not_implemented_under_other_servers(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gunicorn the status is 501, and the process runs on."""
    from api import create_app
    from settings import get_settings

    monkeypatch.setenv("OPERATOR_TOKEN", TOKEN)
    get_settings.cache_clear()
    try:
        response = create_app().test_client().post("/shutdown", headers=OPERATOR)
        assert (response.status_code, response.get_json()["status"]) == (501, 501)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


# --- connection draining and stop --------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", ["SIGTERM", "POST /shutdown"])
def test_draining_then_stop(start: Callable[..., Service], trigger: str) -> None:
    """While draining, all requests are served, also on new connections, and /health returns 503; then it stops."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "3", "WEB_CONCURRENCY": "2"})
    workers = running.workers()
    began = time.monotonic()
    if trigger == "SIGTERM":
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: get(running, "/health").status_code == 503, what="status 503")
    else:
        answer = running.client.post("/shutdown", headers=OPERATOR)
        assert answer.status_code == 202
        assert answer.json()["message"].startswith("Shutdown initiated")
        wait_for(lambda: get(running, "/health").status_code == 503, what="status 503")
    rounds = 0
    while time.monotonic() - began < 2.5:
        health = get(running, "/health")
        assert (health.status_code, health.json()["status"], health.json()["cassandra"]) == (
            503,
            "draining",
            "connected",
        )
        assert get(running, "/plant/Quercus/robur").status_code == 200
        assert get(running, "/health/live").status_code == 200
        rounds += 1
    assert rounds
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 3
    assert all(has_ended(worker) for worker in workers)


def test_second_sigterm_ends_draining(start: Callable[..., Service]) -> None:
    """A second SIGTERM stops the service without waiting for the rest of DRAIN_SECONDS."""
    running = start({"DRAIN_SECONDS": "60"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, what="status 503")
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 20


def test_worker_killed_while_draining_is_replaced(start: Callable[..., Service]) -> None:
    """The new worker serves requests, and its /health reports that the instance is draining."""
    running = start({"DRAIN_SECONDS": "30", "WEB_CONCURRENCY": "1"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, what="status 503")
    (worker,) = running.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: running.workers() not in ([], [worker]), what="a new worker")
    wait_for(lambda: get(running, "/plant/Quercus/robur").status_code == 200, what="a response")
    assert get(running, "/health").json()["status"] == "draining"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_in_flight_requests_complete(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """A stream and a slow request complete after SIGTERM; then the service stops without an error in the log."""
    add_users(keyspace, 40_000)
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "1"})
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    with raw_request(running.port, "1.0", "/users/stream?limit=40000") as connection:
        data = connection.recv(1000)
        wait_for(lambda: get(running, "/metrics").json()["requests_in_flight"] == 2, what="two in flight")
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "Handling signal: term" in running.log_text(), what="the signal")
        while part := connection.recv(65536):
            data += part
    assert len(json.loads(data.partition(b"\r\n\r\n")[2])) == 40_000
    thread.join(timeout=30)
    assert slow[0].status_code == 200
    assert running.process.wait(timeout=30) == 0
    assert "Traceback" not in running.log_text()


def test_new_connections_are_refused_while_in_flight_requests_complete(start: Callable[..., Service]) -> None:
    """A new connection is refused at once; it is not accepted and then left without a response."""
    running = start({"WEB_CONCURRENCY": "2"})
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    wait_for(lambda: get(running, "/metrics").json()["requests_in_flight"] == 1, what="one in flight")
    running.process.send_signal(signal.SIGTERM)

    def refused() -> bool:
        try:
            get(running, "/health/live")
        except httpx.TransportError as error:
            # A client that connects while the listeners close may be disconnected; draining is there to avoid that.
            return isinstance(error, httpx.ConnectError)
        return False

    wait_for(refused, timeout=3, what="a refused connection")
    assert slow == []
    thread.join(timeout=30)
    assert slow[0].status_code == 200
    assert running.process.wait(timeout=30) == 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_in_flight_requests_complete_after_aborted_streams(
    start: Callable[..., Service], wire: Wire, keyspace: str, add_users: Callable[[str, int], None], version: str
) -> None:
    """Aborted streams do not break the worker's count of connections: it still waits for in-flight requests."""
    add_users(keyspace, 30_000)
    running = start({"CASSANDRA_KEYSPACE": keyspace, "CASSANDRA_PORT": str(wire.port), "WEB_CONCURRENCY": "1"})
    for _ in range(3):
        with raw_request(running.port, version, "/users/stream?limit=30000") as connection:
            connection.recv(1000)
            wire.cut()
            with suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
        wire.mend()
        wait_for(running.healthy, what="health")
    exposition = get(running, "/metrics", headers={"Accept": "text/plain"}).text
    assert 'fieldbook_streams_ended_total{outcome="aborted",route="/users/stream"} 3.0' in exposition
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    wait_for(lambda: get(running, "/metrics").json()["requests_in_flight"] == 1, what="one in flight")
    running.client.close()
    running.process.send_signal(signal.SIGTERM)
    thread.join(timeout=30)
    assert slow[0].status_code == 200, slow[0].text
    assert running.process.wait(timeout=30) == 0


def test_repeated_shutdown_does_not_shorten_draining(start: Callable[..., Service]) -> None:
    """POST /shutdown is safe to send more than once: each response names the draining time, which stays the same."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "3"})
    began = time.monotonic()
    for _ in range(3):
        answer = httpx.post(f"{running.client.base_url}/shutdown", headers=OPERATOR, timeout=10)
        assert answer.status_code == 202
        assert "for 3 s" in answer.json()["message"]
        wait_for(lambda: get(running, "/health").status_code == 503, what="status 503")
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 3


# --- replacement of workers under load ---------------------------------------------------------------------


@dataclass
class Load:
    """What the writers observed: acknowledged writes (id and email), other responses, and lost connections."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    lost_connections: list[float] = field(default_factory=list)


@contextmanager
def load(running: Service, threads: int = 4) -> Iterator[Load]:
    """Create users until the block ends, each on a new connection."""
    writes = Load()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            email = f"{uuid.uuid4().hex}@example.org"
            try:
                response = httpx.post(f"{running.client.base_url}/users", json=USER | {"email": email}, timeout=30)
            except httpx.TransportError:
                writes.lost_connections.append(time.monotonic())
                continue
            if response.status_code == 201:
                writes.acknowledged[response.json()["id"]] = email
            else:
                writes.errors.append(f"{response.status_code} {response.text}")

    writers = [threading.Thread(target=write) for _ in range(threads)]
    for writer in writers:
        writer.start()
    try:
        wait_for(lambda: len(writes.acknowledged) > 50, what="a steady load")
        yield writes
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=60)


def assert_no_write_is_lost(writes: Load, session: Session, keyspace: str) -> None:
    stored = {str(row[0]): row[1] for row in session.execute(f"SELECT id, email FROM {keyspace}.users")}
    assert {user: stored.get(user) for user in writes.acknowledged} == writes.acknowledged


def test_rolling_restart_under_load(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """During two restarts by SIGHUP, every request is answered, and every acknowledged write is stored."""
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    with load(running) as writes:
        for _ in range(2):
            old, before = set(running.workers()), len(writes.acknowledged)
            running.process.send_signal(signal.SIGHUP)
            wait_for(lambda: len(running.workers()) == 2 and not old & set(running.workers()), what="new workers")  # noqa: B023
            wait_for(lambda: len(writes.acknowledged) > before + 50, what="more writes")  # noqa: B023
    assert writes.errors == []
    assert writes.lost_connections == []
    assert_no_write_is_lost(writes, session, keyspace)


def test_killed_worker_under_load(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """Only the in-flight requests of the killed worker fail, and every acknowledged write is stored."""
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    with load(running) as writes:
        killed = running.workers()[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(set(running.workers()) - {killed}) == 2, what="a new worker")
        before = len(writes.acknowledged)
        wait_for(lambda: len(writes.acknowledged) > before + 50, what="more writes")
    assert writes.errors == []
    # Each of the four writers has at most one request in flight.
    assert len(writes.lost_connections) <= 4
    assert_no_write_is_lost(writes, session, keyspace)


# --- reload of settings and code ---------------------------------------------------------------------------


def test_sighup_applies_new_settings_and_keeps_the_old_when_wrong(
    start: Callable[..., Service], tmp_path: Any, settings: Settings
) -> None:
    """New workers use the changed .env. A wrong .env is reported in the log, and the previous settings stay."""
    env_file = tmp_path / "env"
    env_file.write_text("LOG_LEVEL=INFO\n")
    running = start({"ENV_FILE": str(env_file), "LOG_LEVEL": "", "WEB_CONCURRENCY": "1"})

    def restart() -> None:
        old = running.workers()
        running.process.send_signal(signal.SIGHUP)
        wait_for(lambda: running.workers() and not set(old) & set(running.workers()), what="a new worker")
        wait_for(lambda: get(running, "/health").status_code == 200, what="health")

    env_file.write_text("MAX_BODY_BYTES=1024\n")
    restart()
    too_large = USER | {"name": "x" * 2000}
    assert httpx.post(f"{running.client.base_url}/users", json=too_large).status_code == 413
    env_file.write_text("MAX_BODY_BYTES=lots\n")
    restart()
    assert "MAX_BODY_BYTES" in running.log_text()
    assert httpx.post(f"{running.client.base_url}/users", json=too_large).status_code == 413


ADD_HEADER = 'app.after_request(lambda response: response.headers.set("X-Changed", "1") or response)'


@pytest.mark.parametrize("option", ["", "--preload", "--reload"])
def test_changed_code_is_live_in_new_workers(
    start: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """After SIGHUP, or by itself with --reload, new workers use changed settings, logging and application code.

    The request id in the log shows that the hooks and the log filter use the same copy of observability.logs.
    """
    project = tmp_path / "project"
    copy_project(project)
    monkeypatch.setattr(support, "PROJECT", project)
    running = start({"WEB_CONCURRENCY": "1"}, *filter(None, [option]))
    workers = running.workers()

    def change(name: str, old: str, new: str) -> None:
        text = (project / name).read_text()
        assert text.count(old) == 1
        (project / name).write_text(text.replace(old, new))

    change("settings.py", " = 1024 * 1024\n", " = 1024\n")
    change("observability/logs.py", "%(message)s", "changed format: %(message)s")
    change("wsgi.py", "app = create_app()\n", f"app = create_app()\n{ADD_HEADER}\n")
    if option != "--reload":
        running.process.send_signal(signal.SIGHUP)
    wait_for(lambda: running.workers() and not set(workers) & set(running.workers()), what="a new worker")
    wait_for(lambda: "X-Changed" in get(running, "/health").headers, what="the changed application")
    too_large = USER | {"name": "x" * 2000}
    for request_id in ("first", "second"):
        headers = {"X-Request-ID": request_id}
        refused = httpx.post(f"{running.client.base_url}/users", json=too_large, headers=headers)
        assert refused.status_code == 413
        assert f"[{request_id}] changed format: POST /users 413" in running.log_text()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert "Traceback" not in running.log_text()
