"""`make run` and the Makefile: the programs that they start and stop, and their output."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from dev.local_cassandra import node
from dev.local_cassandra.jars import DEFAULT_VERSION
from dev.local_cassandra.node import free_port, port_is_free, speaks_cql
from routes import RESOURCES
from tests.support import OBSERVER, PROJECT, copy_project, register_testbed, unmeasured_environment, wait_for


class Run:
    """A running `python -m dev.local_cassandra.run`, the command that `make run` calls."""

    def __init__(self, directory: Path, log: Path, arguments: tuple[str, ...], variables: dict[str, str]) -> None:
        self.port = free_port()
        self.log = log
        self.variables = variables
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dev.local_cassandra.run", *arguments],
                cwd=directory,
                env=unmeasured_environment() | {"PORT": str(self.port), "APP_ENV": ""} | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        wait_for(lambda: "Ctrl-C to stop" in self.text() or self.process.poll() is not None, 90, "the URL")
        assert self.process.poll() is None, self.text()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def wait_for_responses(self, expected: Callable[[httpx.Response], bool], path: str = "/health/live") -> None:
        """Wait until ten responses in a row are as expected, so that all workers have the change."""

        def all_expected() -> bool:
            assert self.process.poll() is None, self.text()
            try:
                return all(expected(self.get(path)) for _ in range(10))
            except httpx.TransportError:
                return False

        wait_for(all_expected, description=f"the expected response in {self.text()[-3000:]}")

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start the command of `make run`: `run(directory, "--reload", PORT="8001")`.

    Stop it after the test.
    """
    runs: list[Run] = []

    def start(directory: Path = PROJECT, *arguments: str, **variables: str) -> Run:
        runs.append(Run(directory, tmp_path / f"run-{len(runs)}.log", arguments, variables))
        return runs[-1]

    yield start
    for started in runs:
        if started.process.poll() is None:
            started.interrupt()
        if keyspace := started.variables.get("CASSANDRA_KEYSPACE"):
            shutil.rmtree(PROJECT / ".fieldbook" / "jobs" / keyspace, ignore_errors=True)


def test_run_uses_the_cassandra_in_cassandra_hosts(
    run: Callable[..., Run], environment: dict[str, str], keyspace: str
) -> None:
    """With CASSANDRA_HOSTS set, `make run` uses that Cassandra and does not stop it on Ctrl-C.

    A warning about a variable of another program appears once, not once for each command that `make run` starts.
    """
    running = run(**environment | {"CASSANDRA_KEYSPACE": keyspace, "CASSANDRAS_PORT": "tcp://10.0.0.1"})
    running.wait_until_ready()
    assert running.text().count("Warning: ") == 1
    assert "\nUsing the Cassandra that CASSANDRA_HOSTS names" in running.text()
    assert "Starting Cassandra" not in running.text()
    lines = [line for line in running.text().splitlines() if line.startswith("  curl ")]
    assert all(f"http://127.0.0.1:{running.port}" in line for line in lines)
    examples = [resource.example for resource in RESOURCES if resource.example]
    assert lines == [f"  curl {example}".replace("{url}", f"http://127.0.0.1:{running.port}") for example in examples]
    assert f"http://127.0.0.1:{running.port}/docs" in running.text()
    for resource in RESOURCES:
        assert resource.sample_path is None or running.get(resource.sample_path).json()
    # The job worker and beat are started again when they die, and end before Cassandra.
    wait_for(lambda: "The job worker is ready" in running.text(), 60, "the job worker")
    files = (node.job_worker_pid_file(running.port), node.beat_pid_file(running.port))
    killed = [process_of(file) for file in files]
    for process in killed:
        process.kill()
    again = [
        wait_for(lambda file=file, process=process: (found := process_of(file)) != process and found, 60, file.name)
        for file, process in zip(files, killed, strict=True)
    ]
    wait_for(lambda: running.text().count("The job worker is ready") == 2, 60, "messages for the job worker")
    running.interrupt()
    assert "pidfile" not in running.text()
    assert not [process for process in again if process.is_running()]
    assert not [file for file in files if file.exists()]
    assert port_is_free("127.0.0.1", running.port)
    assert speaks_cql(environment["CASSANDRA_HOSTS"], int(environment["CASSANDRA_PORT"]))


def process_of(path: Path) -> psutil.Process:
    """Return the process of a pid file, when it is written."""
    return psutil.Process(int(wait_for(lambda: path.exists() and path.read_text(), description="the pid file")))


def test_production_without_a_broker_has_no_job_worker(
    run: Callable[..., Run], environment: dict[str, str], keyspace: str
) -> None:
    running = run(**environment | {"CASSANDRA_KEYSPACE": keyspace, "APP_ENV": "production"})
    running.wait_until_ready()
    running.interrupt()
    assert "job worker" not in running.text()


@pytest.mark.slow
def test_run_uses_a_running_cassandra(run: Callable[..., Run], environment: dict[str, str], keyspace: str) -> None:
    """When a Cassandra already listens on CASSANDRA_PORT, `make run` uses it and starts none."""
    if environment["CASSANDRA_HOSTS"] != "127.0.0.1":
        pytest.skip("the tests use a Cassandra on another machine")
    running = run(CASSANDRA_PORT=environment["CASSANDRA_PORT"], CASSANDRA_KEYSPACE=keyspace)
    running.wait_until_ready()
    assert running.text().startswith("Using the Cassandra that already runs on 127.0.0.1:")
    running.interrupt()


def test_run_reports_occupied_ports(run: Callable[..., Run], environment: dict[str, str]) -> None:
    """If another program uses the HTTP port or the Cassandra port, `make run` names the port and ends."""
    taken = environment["CASSANDRA_PORT"]
    http = run(**environment, PORT=taken)
    assert http.process.wait(timeout=30) != 0
    assert f"Port {taken} on 127.0.0.1 can't be used: Address already in use" in http.text()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = str(listener.getsockname()[1])
        cassandra = run(CASSANDRA_PORT=other)
        assert cassandra.process.wait(timeout=30) != 0
        assert f"Cassandra needs port {other} on 127.0.0.1: Address already in use" in cassandra.text()


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_run_starts_and_stops_its_own_cassandra(run: Callable[..., Run], tmp_path: Path) -> None:
    """In a fresh clone, `make run` starts a node and a service, and Ctrl-C stops both.

    The next run has the same data.
    """
    if not port_is_free("127.0.0.1", 7000):
        pytest.skip("a development node is running: two nodes would need the same port")
    clone = tmp_path / "clone"
    copy_project(clone)
    register_testbed(clone)
    port = str(free_port())
    first = run(clone, CASSANDRA_PORT=port)
    first.wait_until_ready()
    assert first.text().startswith(f"Starting Cassandra on 127.0.0.1:{port}")
    created = httpx.post(f"http://127.0.0.1:{first.port}/observers", json=OBSERVER)
    assert created.status_code == 201
    first.interrupt()
    assert "Cassandra stopped" in first.text()
    assert port_is_free("127.0.0.1", int(port))
    assert port_is_free("127.0.0.1", first.port)
    second = run(clone, CASSANDRA_PORT=port)
    second.wait_until_ready()
    assert second.get(created.headers["Location"]).json() == created.json()
    # A closed terminal sends SIGHUP. SIGTERM during the cleanup must not interrupt it.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
        second.process.send_signal(number)
    second.process.wait(timeout=60)
    assert port_is_free("127.0.0.1", int(port))
    assert port_is_free("127.0.0.1", second.port)
    # After `kill -9` of `make run`, the node and the service keep running. `make stop` stops both.
    third = run(clone, CASSANDRA_PORT=port)
    third.wait_until_ready()
    # Written a moment after the service is ready.
    worker = process_of(clone / ".fieldbook" / f"job-worker-{third.port}.pid")
    third.process.kill()
    third.process.wait()
    assert third.get("/health/live").status_code == 200
    subprocess.run([sys.executable, "-m", "dev.local_cassandra", "stop"], cwd=clone, timeout=60, check=True)
    wait_for(lambda: port_is_free("127.0.0.1", third.port), description="the end of the service")
    assert not worker.is_running()
    assert port_is_free("127.0.0.1", int(port))


def make(*arguments: str, cwd: Path = PROJECT, path: str = os.defpath) -> subprocess.CompletedProcess[str]:
    # `make test PYTHON=…` puts its variables into the environment of pytest. Do not pass them on to this make.
    environment = {
        name: value for name, value in unmeasured_environment().items() if name not in ("MAKEFLAGS", "PYTHON")
    }
    environment["PATH"] = path
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def makefile_directory(tmp_path: Path) -> Path:
    """A directory with the files that `make .venv/ready` reads, and without a .venv."""
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy2(PROJECT / name, tmp_path / name)
    return tmp_path


def fake_python(path: Path, version: str) -> Path:
    """Write an executable that reports a Python version and fails to create a virtual environment."""
    as_tuple = f"({version.replace('.', ', ')})"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        "#!/bin/sh\n"
        f'[ "$1" = --version ] && echo Python {version} && exit\n'
        f'[ "$1" = -c ] && exec {sys.executable} -c "import sys; sys.version_info = {as_tuple}; $2"\n'
        'echo "venv of $0"; exit 1\n'
    )
    path.chmod(0o755)
    return path


def test_make_refuses_an_old_python(makefile_directory: Path) -> None:
    """`make` refuses Python 3.10 before it creates anything, and names the versions that work."""
    old = fake_python(makefile_directory / "python3.10", "3.10.13")
    rejected = make("run", f"PYTHON={old}", cwd=makefile_directory)
    assert rejected.returncode != 0
    assert "Fieldbook needs Python 3.11, 3.12, 3.13 or 3.14" in rejected.stdout
    assert "Found: Python 3.10.13" in rejected.stdout
    assert "venv of" not in rejected.stdout
    assert not (makefile_directory / ".venv").exists()


@pytest.mark.parametrize(("version", "warns"), [("3.11.0", False), ("3.14.2", False), ("3.15.0", True)])
def test_make_warns_about_an_untested_python(makefile_directory: Path, version: str, warns: bool) -> None:
    """`make` uses Python 3.11 to 3.14 without a warning, and a newer Python with a warning."""
    python = fake_python(makefile_directory / "python", version)
    tried = make("run", f"PYTHON={python}", cwd=makefile_directory)
    assert (f"Warning: Fieldbook is not tested on Python {version}" in tried.stdout) is warns
    assert f"venv of {python}" in tried.stdout


def test_make_prefers_a_tested_python(makefile_directory: Path) -> None:
    """`make` uses python3 if its version is tested, else the newest tested version, else a newer version."""
    names = {"python3": "3.15.1", "python3.15": "3.15.0", "python3.14": "3.10.0", "python3.13": "3.13.1"}
    for name in ("python3.12", "python3.11"):
        fake_python(makefile_directory / "bin" / name, "3.10.0")
    for name, version in names.items():
        fake_python(makefile_directory / "bin" / name, version)
    path = f"{makefile_directory / 'bin'}:{os.defpath}"
    assert f"venv of {makefile_directory / 'bin'}/python3.13" in make("run", cwd=makefile_directory, path=path).stdout
    fake_python(makefile_directory / "bin" / "python3.13", "3.10.0")
    assert f"venv of {makefile_directory / 'bin'}/python3\n" in make("run", cwd=makefile_directory, path=path).stdout
    fake_python(makefile_directory / "bin" / "python3", "3.12.1")
    fake_python(makefile_directory / "bin" / "python3.13", "3.13.1")
    assert f"venv of {makefile_directory / 'bin'}/python3\n" in make("run", cwd=makefile_directory, path=path).stdout


def test_make_uses_uv_where_it_is_installed(makefile_directory: Path) -> None:
    """With uv on PATH, `make` creates .venv and installs the same pinned versions with uv."""
    (makefile_directory / "bin").mkdir()
    uv = makefile_directory / "bin" / "uv"
    uv.write_text('#!/bin/sh\necho "uv $*"; mkdir -p .venv\n')
    uv.chmod(0o755)
    path = f"{makefile_directory / 'bin'}:{os.defpath}"
    made = make(".venv/ready", f"PYTHON={sys.executable}", cwd=makefile_directory, path=path).stdout
    assert f"uv venv --quiet --clear --seed --python {sys.executable} .venv" in made
    assert "uv pip install --quiet --python .venv/bin/python -r requirements.txt -r requirements-dev.txt" in made


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        (["test", "CASSANDRA_VERSION="], DEFAULT_VERSION),
        (["test", "CASSANDRA_VERSION=4.1.9"], "4.1.9"),
        (["test-cassandra-4"], "4.1.10"),
    ],
)
def test_make_test_names_the_version_of_cassandra(arguments: list[str], version: str) -> None:
    printed = make("--dry-run", *arguments, "TEST_CASSANDRA_HOSTS=").stdout
    assert f'--- functional tests on Cassandra {version}"' in printed


def test_make_without_a_target_lists_targets() -> None:
    """`make` without a target lists all targets."""
    listed = make().stdout
    for target in ("run", "test", "test-cassandra-4", "node", "stop", "clean", "lint"):
        assert f"make {target} " in listed


def test_stop_ignores_processes_of_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stale and empty pid files do not make `make stop` signal another program's process."""
    monkeypatch.setattr(node, "STATE", tmp_path)
    other = subprocess.Popen([sys.executable, "-c", "input()", "wsgi:app"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "gunicorn-8000.pid").write_text(str(other.pid))
        (tmp_path / "gunicorn-8001.pid").write_text("")
        (tmp_path / "job-worker-8000.pid").write_text(str(other.pid))
        assert node.stop_services() == 0
        assert other.poll() is None
        assert list(tmp_path.iterdir()) == []
    finally:
        other.communicate(b"\n", timeout=10)


@pytest.fixture
def reloading(run: Callable[..., Run], environment: dict[str, str], keyspace: str, tmp_path: Path) -> Run:
    """`make run RELOAD=1` in a copy of the project, whose directory is `tmp_path / "copy"`."""
    copy_project(tmp_path / "copy")
    register_testbed(tmp_path / "copy")
    running = run(tmp_path / "copy", "--reload", **environment | {"CASSANDRA_KEYSPACE": keyspace})
    running.wait_until_ready()
    return running


def route_module(project: Path) -> tuple[Path, str]:
    """Return the module with the route /health/live, and its text."""
    return next((path, path.read_text()) for path in (project / "routes").glob("*.py") if '"alive"' in path.read_text())


@pytest.mark.slow
def test_reload_uses_a_changed_route_module(reloading: Run, tmp_path: Path) -> None:
    """`make run RELOAD=1` restarts the workers when a route module changes."""
    module, text = route_module(tmp_path / "copy")
    assert reloading.get("/health/live").json() == {"status": "alive"}
    module.write_text(text.replace('"alive"', '"alive and changed"'))
    reloading.wait_for_responses(lambda response: response.json() == {"status": "alive and changed"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("routes/health.py", "def broken(:\n"),
        ("routes/health.py", "import no_such_module\n"),
        ("settings.py", "def broken(:\n"),
        ("storage/cql/streams.py", "def broken(:\n"),
    ],
    ids=[
        "syntax error in a route module",
        "import error in a route module",
        "syntax error in settings.py",
        "syntax error in a storage module",
    ],
)
def test_reload_survives_a_broken_module(reloading: Run, tmp_path: Path, name: str, mistake: str) -> None:
    """After a mistake in a module, the service returns 500 until a change corrects the mistake."""
    module = tmp_path / "copy" / name
    text = module.read_text()
    module.write_text(text + mistake)
    reloading.wait_for_responses(lambda response: response.status_code == 500)
    module.write_text(text)
    reloading.wait_for_responses(lambda response: response.status_code == 200)


@pytest.mark.slow
def test_reload_uses_changed_settings(reloading: Run, tmp_path: Path) -> None:
    """`make run RELOAD=1` restarts the workers when a default in settings.py changes."""
    module = tmp_path / "copy" / "settings.py"
    text = module.read_text()
    changed = text.replace("max_body_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024", "max_body_bytes: int = 1024")
    assert changed != text
    url = f"http://127.0.0.1:{reloading.port}/observers"
    body = b'{"name": "' + b"a" * 2000 + b'"}'

    def rejects_2000_bytes() -> bool:
        with suppress(httpx.TransportError):
            headers = {"Content-Type": "application/json"}
            return {httpx.post(url, content=body, headers=headers).status_code for _ in range(10)} == {413}
        return False

    module.write_text(changed)
    wait_for(rejects_2000_bytes, description="the new default")
