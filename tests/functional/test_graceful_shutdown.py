"""The end of an instance, of its workers, and their replacement: nothing acknowledged is lost, nobody is cut short."""

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
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from settings import Settings
from tests.support import USER, Service, Wire, raw_request, wait_for

TOKEN = "the token of the tests"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}


def get(running: Service, path: str, **options: Any) -> httpx.Response:
    return httpx.get(f"{running.client.base_url}{path}", timeout=30, **options)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- POST /shutdown ----------------------------------------------------------------------------------------


def test_who_may_shut_down(start: Callable[..., Service]) -> None:
    """Without a token 401, with another one 401, and either says how; nothing stops."""
    running = start({"OPERATOR_TOKEN": TOKEN})
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer another"}):
        refused = running.client.post("/shutdown", headers=headers)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert refused.headers["Content-Type"] == "application/problem+json"
    assert running.client.get("/health").json()["status"] == "healthy"


def test_without_a_token_nobody_is_an_operator(live: Service) -> None:
    """A service that was given no token takes none: 401 without, 403 with any."""
    assert live.client.post("/shutdown").status_code == 401
    assert live.client.post("/shutdown", headers={"Authorization": "Bearer x"}).status_code == 403
    assert live.client.get("/health").status_code == 200


def test_a_server_that_can_not_stop(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another server than our gunicorn it is 501, and the process lives."""
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


# --- two phases --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["SIGTERM", "POST /shutdown"])
def test_two_phases(start: Callable[..., Service], how: str) -> None:
    """First all is served, on new connections too, while /health of every worker says 503; then the instance ends."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "3", "WEB_CONCURRENCY": "2"})
    workers = running.workers()
    began = time.monotonic()
    if how == "SIGTERM":
        running.process.send_signal(signal.SIGTERM)
        wait_for(lambda: get(running, "/health").status_code == 503, what="503")
    else:
        answer = running.client.post("/shutdown", headers=OPERATOR)
        assert answer.status_code == 202
        assert answer.json()["message"].startswith("Shutdown initiated")
        wait_for(lambda: get(running, "/health").status_code == 503, what="503")
    seen = 0
    while time.monotonic() - began < 2.5:
        health = get(running, "/health")
        assert (health.status_code, health.json()["status"], health.json()["cassandra"]) == (
            503,
            "draining",
            "connected",
        )
        assert get(running, "/plant/Quercus/robur").status_code == 200
        assert get(running, "/health/live").status_code == 200
        seen += 1
    assert seen
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 3
    assert all(gone(worker) for worker in workers)


def test_a_second_signal_ends_the_first_phase(start: Callable[..., Service]) -> None:
    """Whoever is in a hurry need not wait."""
    running = start({"DRAIN_SECONDS": "60"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, what="503")
    began = time.monotonic()
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began < 20


def test_a_worker_that_dies_while_draining_is_replaced_and_drains(start: Callable[..., Service]) -> None:
    """The first phase serves; a new worker knows that the instance drains."""
    running = start({"DRAIN_SECONDS": "30", "WEB_CONCURRENCY": "1"})
    running.process.send_signal(signal.SIGTERM)
    wait_for(lambda: get(running, "/health").status_code == 503, what="503")
    (worker,) = running.workers()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: running.workers() not in ([], [worker]), what="a new worker")
    wait_for(lambda: get(running, "/plant/Quercus/robur").status_code == 200, what="an answer")
    assert get(running, "/health").json()["status"] == "draining"
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_what_is_in_flight_is_finished(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """A stream and a slow request that run when the instance stops come to their whole end; then the session closes."""
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


def test_nobody_is_left_waiting_in_the_second_phase(start: Callable[..., Service]) -> None:
    """While what is in flight is finished, who connects anew is refused, and not left without an answer."""
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
            # Whoever connects in the very moment of the end may be cut off: that is what the first phase is for.
            return isinstance(error, httpx.ConnectError)
        return False

    wait_for(refused, timeout=3, what="a refusal")
    assert slow == []
    thread.join(timeout=30)
    assert slow[0].status_code == 200
    assert running.process.wait(timeout=30) == 0


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_cut_streams_do_not_shorten_the_end(
    start: Callable[..., Service], wire: Wire, keyspace: str, add_users: Callable[[str, int], None], version: str
) -> None:
    """After streams that were cut, the worker still counts its connections right: it waits for what is in flight."""
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
    assert running.log_text().count("cut after") == 3
    slow: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: slow.append(get(running, "/slow_query")))
    thread.start()
    wait_for(lambda: get(running, "/metrics").json()["requests_in_flight"] == 1, what="one in flight")
    running.client.close()
    running.process.send_signal(signal.SIGTERM)
    thread.join(timeout=30)
    assert slow[0].status_code == 200, slow[0].text
    assert running.process.wait(timeout=30) == 0


def test_a_repeated_shutdown_hurries_nobody(start: Callable[..., Service]) -> None:
    """An operator whose first answer was lost may ask again: the first phase keeps its length, and is named."""
    running = start({"OPERATOR_TOKEN": TOKEN, "DRAIN_SECONDS": "3"})
    began = time.monotonic()
    for _ in range(3):
        answer = httpx.post(f"{running.client.base_url}/shutdown", headers=OPERATOR, timeout=10)
        assert answer.status_code == 202
        assert "for 3 s" in answer.json()["message"]
        wait_for(lambda: get(running, "/health").status_code == 503, what="503")
    assert running.process.wait(timeout=30) == 0
    assert time.monotonic() - began >= 3


# --- workers are replaced under load -----------------------------------------------------------------------


@dataclass
class Load:
    """Writers that each remember what was acknowledged, and what else they heard."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    lost_connections: list[float] = field(default_factory=list)


@contextmanager
def load(running: Service, threads: int = 4) -> Iterator[Load]:
    """Users are created, each on a connection of its own as through a balancer, until the block ends."""
    found = Load()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            email = f"{uuid.uuid4().hex}@example.org"
            try:
                response = httpx.post(f"{running.client.base_url}/users", json=USER | {"email": email}, timeout=30)
            except httpx.TransportError:
                found.lost_connections.append(time.monotonic())
                continue
            if response.status_code == 201:
                found.acknowledged[response.json()["id"]] = email
            else:
                found.errors.append(f"{response.status_code} {response.text}")

    writers = [threading.Thread(target=write) for _ in range(threads)]
    for writer in writers:
        writer.start()
    try:
        wait_for(lambda: len(found.acknowledged) > 50, what="a steady load")
        yield found
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=60)


def assert_nothing_is_lost(found: Load, session: Session, keyspace: str) -> None:
    stored = {str(row[0]): row[1] for row in session.execute(f"SELECT id, email FROM {keyspace}.users")}
    assert {user: stored.get(user) for user in found.acknowledged} == found.acknowledged


def test_a_rolling_restart_under_load(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """SIGHUP, twice: every request is answered, by the old workers or the new, and every answer holds."""
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    with load(running) as found:
        for _ in range(2):
            old, before = set(running.workers()), len(found.acknowledged)
            running.process.send_signal(signal.SIGHUP)
            wait_for(lambda: len(running.workers()) == 2 and not old & set(running.workers()), what="new workers")  # noqa: B023
            wait_for(lambda: len(found.acknowledged) > before + 50, what="more writes")  # noqa: B023
    assert found.errors == []
    assert found.lost_connections == []
    assert_nothing_is_lost(found, session, keyspace)


def test_a_killed_worker_under_load(start: Callable[..., Service], session: Session, keyspace: str) -> None:
    """Only requests of the killed worker are cut short, without a word; no other hears of it, and no answer is lost."""
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    with load(running) as found:
        killed = running.workers()[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(set(running.workers()) - {killed}) == 2, what="a new worker")
        before = len(found.acknowledged)
        wait_for(lambda: len(found.acknowledged) > before + 50, what="more writes")
    assert found.errors == []
    # At most what the four writers had in flight.
    assert len(found.lost_connections) <= 4
    assert_nothing_is_lost(found, session, keyspace)


def test_sighup_takes_new_settings_and_survives_wrong_ones(
    start: Callable[..., Service], tmp_path: Any, settings: Settings
) -> None:
    """A changed .env is taken by the new workers; one that is wrong is named in the log, and the service runs on."""
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
