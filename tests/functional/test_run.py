"""`make run`: it says what it uses, starts what is missing, and stops what it started and nothing else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dev.local_cassandra import node
from dev.local_cassandra.node import free_port, port_is_free, speaks_cql
from tests.support import PROJECT, clean_environment, copy_project, wait_for


class Run:
    """`make run` without make: the command that it ends in."""

    def __init__(self, directory: Path, log: Path, variables: dict[str, str]) -> None:
        self.port = free_port()
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dev.local_cassandra.run"],
                cwd=directory,
                env=clean_environment() | {"PORT": str(self.port)} | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        wait_for(lambda: "Ctrl-C stops" in self.text() or self.process.poll() is not None, 90, "the URL")
        assert self.process.poll() is None, self.text()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(directory: Path = PROJECT, **variables: str) -> Run:
        runs.append(Run(directory, tmp_path / f"run-{len(runs)}.log", variables))
        return runs[-1]

    yield start
    for started in runs:
        if started.process.poll() is None:
            started.interrupt()


def test_a_cassandra_that_is_named(run: Callable[..., Run], environment: dict[str, str], keyspace: str) -> None:
    """With CASSANDRA_HOSTS that one is used, which is said before anything else; Ctrl-C leaves it alone."""
    running = run(**environment | {"CASSANDRA_KEYSPACE": keyspace})
    running.wait_until_ready()
    assert running.text().startswith("Using the Cassandra that CASSANDRA_HOSTS names")
    assert "Starting Cassandra" not in running.text()
    lines = [line for line in running.text().splitlines() if line.startswith("  curl ")]
    assert len(lines) == 3
    assert all(f"http://127.0.0.1:{running.port}" in line for line in lines)
    assert running.get("/animal/Vulpes").json()
    running.interrupt()
    assert port_is_free("127.0.0.1", running.port)
    assert speaks_cql(environment["CASSANDRA_HOSTS"], int(environment["CASSANDRA_PORT"]))


def test_a_cassandra_that_is_there(run: Callable[..., Run], environment: dict[str, str], keyspace: str) -> None:
    """A Cassandra on the port is used, and none is started."""
    if environment["CASSANDRA_HOSTS"] != "127.0.0.1":
        pytest.skip("the suite's Cassandra is not on this machine")
    running = run(CASSANDRA_PORT=environment["CASSANDRA_PORT"], CASSANDRA_KEYSPACE=keyspace)
    running.wait_until_ready()
    assert running.text().startswith("Using the Cassandra that answers on 127.0.0.1:")
    running.interrupt()


def test_a_port_that_is_taken(run: Callable[..., Run], environment: dict[str, str]) -> None:
    """A taken HTTP port, and a Cassandra port with something else on it, end the start with a sentence."""
    taken = environment["CASSANDRA_PORT"]
    http = run(**environment, PORT=taken)
    assert http.process.wait(timeout=30) != 0
    assert f"Port {taken} on 127.0.0.1 can't be used: Address already in use" in http.text()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = str(listener.getsockname()[1])
        cassandra = run(CASSANDRA_PORT=other)
        assert cassandra.process.wait(timeout=30) != 0
        assert f"Cassandra needs port {other} on 127.0.0.1: Address already in use" in cassandra.text()


@pytest.mark.timeout(300)
def test_a_cassandra_of_its_own(run: Callable[..., Run], tmp_path: Path) -> None:
    """In a clone with nothing, it starts a node; Ctrl-C stops both; the next time the data is there again."""
    if not port_is_free("127.0.0.1", 7000):
        pytest.skip("a development node runs: two would need the same port")
    clone = tmp_path / "clone"
    copy_project(clone)
    port = str(free_port())
    first = run(clone, CASSANDRA_PORT=port)
    first.wait_until_ready()
    assert first.text().startswith(f"Starting Cassandra on 127.0.0.1:{port}")
    fox = {"genus": "Vulpes", "species": "macrotis", "sightings": 5}
    assert httpx.post(f"http://127.0.0.1:{first.port}/animal", json=fox).status_code == 201
    first.interrupt()
    assert "Cassandra stopped" in first.text()
    assert port_is_free("127.0.0.1", int(port))
    assert port_is_free("127.0.0.1", first.port)
    second = run(clone, CASSANDRA_PORT=port)
    second.wait_until_ready()
    assert second.get("/animal/Vulpes/macrotis").json()["sightings"] == 5
    # A terminal that is closed, and then somebody who asks again.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        second.process.send_signal(number)
    second.process.wait(timeout=60)
    assert port_is_free("127.0.0.1", int(port))
    assert port_is_free("127.0.0.1", second.port)
    # One that was killed leaves both behind; `make stop` ends them.
    third = run(clone, CASSANDRA_PORT=port)
    third.wait_until_ready()
    third.process.kill()
    third.process.wait()
    assert third.get("/health/live").status_code == 200
    subprocess.run([sys.executable, "-m", "dev.local_cassandra", "stop"], cwd=clone, timeout=60, check=True)
    wait_for(lambda: port_is_free("127.0.0.1", third.port), what="the service's end")
    assert port_is_free("127.0.0.1", int(port))


def make(*arguments: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"PATH": os.defpath}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_python_that_does_not_fit(tmp_path: Path) -> None:
    """Another Python is refused with a sentence that says which ones do, before anything is made."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.13\nexit 1\n')
    old.chmod(0o755)
    refused = make("run", f"PYTHON={old}", cwd=tmp_path)
    assert refused.returncode != 0
    assert "Fieldbook needs Python 3.11, 3.12 or 3.13" in refused.stdout
    assert "Found: Python 3.10.13" in refused.stdout
    assert not (tmp_path / ".venv").exists()


def test_make_lists_its_targets() -> None:
    """`make` alone says what there is."""
    listed = make().stdout
    for target in ("run", "test", "node", "stop", "clean", "lint"):
        assert f"make {target} " in listed


def test_stop_ends_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pid file that is older than the process with its number, or empty, ends nobody."""
    monkeypatch.setattr(node, "STATE", tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()", "wsgi:app"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "gunicorn-8000.pid").write_text(str(other.pid))
        (tmp_path / "gunicorn-8001.pid").write_text("")
        assert node.stop_services() == 0
        assert other.poll() is None
        assert list(tmp_path.iterdir()) == []
    finally:
        other.communicate(b"\n", timeout=10)
