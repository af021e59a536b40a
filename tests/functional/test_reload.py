"""Replacement of workers after SIGHUP, --reload or a crash: no write is lost, and new code is used."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests import support
from tests.support import OBSERVER, PRODUCT, Service, copy_project, get, metric, register_testbed, wait_for

# --- replacement of workers under load ---------------------------------------------------------------------


@dataclass
class Load:
    """Acknowledged writes (id and email), other responses, and lost connections."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    lost_connections: list[float] = field(default_factory=list)


@contextmanager
def load(running: Service, threads: int = 4) -> Iterator[Load]:
    """Create observers until the block ends, each on a new connection."""
    writes = Load()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            email = f"{uuid.uuid4().hex}@example.org"
            try:
                observer = OBSERVER | {"email": email}
                response = httpx.post(f"{running.client.base_url}/observers", json=observer, timeout=30)
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
        wait_for(lambda: len(writes.acknowledged) > 50, description="a steady load")
        yield writes
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=60)


def assert_no_write_is_lost(writes: Load, session: Session, keyspace: str) -> None:
    stored = {str(row[0]): row[1] for row in session.execute(f"SELECT id, email FROM {keyspace}.observers")}
    assert {each: stored.get(each) for each in writes.acknowledged} == writes.acknowledged


@pytest.mark.slow
def test_reload_loses_no_request(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """During two SIGHUPs, all requests get responses and all acknowledged writes are stored."""
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "2"})
    with load(running) as writes:
        for _ in range(2):
            old, before = set(running.workers()), len(writes.acknowledged)
            running.process.send_signal(signal.SIGHUP)
            wait_for(
                lambda: len(running.workers()) == 2 and not old & set(running.workers()),  # noqa: B023
                description="new workers",
            )
            wait_for(lambda: len(writes.acknowledged) > before + 50, description="more writes")  # noqa: B023
    assert writes.errors == []
    assert writes.lost_connections == []
    assert_no_write_is_lost(writes, session, keyspace)


@pytest.mark.slow
def test_killed_worker_loses_only_its_in_flight_requests(
    start: Callable[..., Service], session: Session, keyspace: str
) -> None:
    """Only in-flight requests of the killed worker fail; acknowledged writes are stored."""
    running = start({"CASSANDRA_KEYSPACE": keyspace, "WEB_CONCURRENCY": "2"})
    with load(running) as writes:
        killed = running.workers()[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(set(running.workers()) - {killed}) == 2, description="a new worker")
        before = len(writes.acknowledged)
        wait_for(lambda: len(writes.acknowledged) > before + 50, description="more writes")
    assert writes.errors == []
    # Each of the four writers has at most one request in flight.
    assert len(writes.lost_connections) <= 4
    assert_no_write_is_lost(writes, session, keyspace)


# --- reload of settings and code ---------------------------------------------------------------------------


def test_sighup_switches_the_read_only_mode(start: Callable[..., Service], tmp_path: Path) -> None:
    """In read-only mode, writes of every kind return 503 with Retry-After and change nothing; reads continue.

    A request with an idempotency key does not claim it: after the maintenance, the key can be used with another body.
    """
    env_file = tmp_path / "env"
    env_file.write_text("READ_ONLY=1\n")
    token = "the token of an operator"
    running = start({"ENV_FILE": str(env_file), "WEB_CONCURRENCY": "1", "OPERATOR_TOKEN": token})
    client = running.client
    observer, key = f"/observers/{uuid.uuid4()}", {"Idempotency-Key": uuid.uuid4().hex}
    writes: list[tuple[str, str, Any]] = [
        ("POST", "/observers", OBSERVER),
        ("POST", "/observers/batch", [OBSERVER]),
        ("PUT", observer, OBSERVER),
        ("PATCH", observer, {"age": 1}),
        ("DELETE", observer, None),
        ("POST", "/find", {"genus": "Quercus", "species": "new"}),
        ("DELETE", "/find/Quercus/robur", None),
        # Rejected before the service looks at the body.
        ("POST", "/observers", "not an observer"),
    ]
    for method, path, body in writes:
        rejected = client.request(method, path, json=body, headers=key | {"X-Request-ID": "write"})
        assert (rejected.status_code, rejected.headers.get("Retry-After")) == (503, "30"), (method, path)
        problem = rejected.json()
        assert problem["request_id"] == rejected.headers["X-Request-ID"] == "write"
        assert "read-only mode" in problem["detail"]
    assert client.get("/find/Quercus/robur").status_code == 200
    assert client.head("/find/Quercus/robur").status_code == 200
    assert client.options("/observers").status_code == 200
    assert client.get("/find/Quercus/new").status_code == 404
    health = client.get("/health")
    assert (health.status_code, health.json()["read_only"]) == (200, True)
    assert metric(running, "fieldbook_workers_read_only") == 1
    assert metric(running, 'fieldbook_requests_total{method="POST",route="/observers",status="503"}') == 2
    client.close()
    env_file.write_text("READ_ONLY=0\n")
    running.reload()
    url = f"{client.base_url}/observers"
    assert httpx.post(url, json=OBSERVER | {"name": "Another"}, headers=key).status_code == 201
    assert metric(running, "fieldbook_workers_read_only") == 0
    env_file.write_text("READ_ONLY=1\n")
    running.reload()
    assert httpx.post(url, json=OBSERVER).status_code == 503
    # POST /shutdown writes nothing.
    shutdown = f"{client.base_url}/shutdown"
    assert httpx.post(shutdown, headers={"Authorization": f"Bearer {token}"}).status_code == 202
    assert running.process.wait(timeout=45) == 0


def test_sighup_applies_valid_settings_and_ignores_invalid_ones(
    start: Callable[..., Service], tmp_path: Any, settings: Settings
) -> None:
    """New workers use a changed .env.

    An invalid .env is logged, and the old settings stay in use.
    """
    env_file = tmp_path / "env"
    env_file.write_text("LOG_LEVEL=INFO\n")
    running = start({"ENV_FILE": str(env_file), "LOG_LEVEL": "", "WEB_CONCURRENCY": "1"})
    env_file.write_text("MAX_BODY_BYTES=1024\n")
    running.reload()
    too_large = OBSERVER | {"name": "x" * 2000}
    assert httpx.post(f"{running.client.base_url}/observers", json=too_large).status_code == 413
    env_file.write_text("MAX_BODY_BYTES=lots\n")
    running.reload()
    running.wait_for_log("MAX_BODY_BYTES")
    assert httpx.post(f"{running.client.base_url}/observers", json=too_large).status_code == 413


ADD_HEADER = 'app.after_request(lambda response: response.headers.set("X-Changed", "1") or response)'


@pytest.mark.slow
@pytest.mark.parametrize("option", ["", "--preload", "--reload"])
def test_new_workers_use_changed_code(
    start: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """New workers use changed settings, logging and application code.

    They start after SIGHUP, or by themselves with --reload. The request id in the log shows that the worker and the log
    filter use the same copy of observability.logs.
    """
    project = tmp_path / "project"
    copy_project(project)
    register_testbed(project)
    monkeypatch.setattr(support, "PROJECT", project)
    running = start({"WEB_CONCURRENCY": "1"}, *filter(None, [option]), app=PRODUCT)
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
    wait_for(lambda: running.workers() and not set(workers) & set(running.workers()), description="a new worker")
    wait_for(lambda: "X-Changed" in get(running, "/health").headers, description="the changed application")
    too_large = OBSERVER | {"name": "x" * 2000}
    for request_id in ("first", "second"):
        headers = {"X-Request-ID": request_id}
        rejected = httpx.post(f"{running.client.base_url}/observers", json=too_large, headers=headers)
        assert rejected.status_code == 413
        running.wait_for_log(f"[{request_id}] changed format: POST /observers 413")
    running.process.send_signal(signal.SIGTERM)
    # The master ends after graceful_timeout (30 s) at the latest. test_graceful_shutdown.py tests faster ends.
    assert running.process.wait(timeout=45) == 0
    assert "Traceback" not in running.log_text()
