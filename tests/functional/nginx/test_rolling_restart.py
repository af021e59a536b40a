"""deploy/nginx/rolling_restart.py: it restarts all instances behind a real nginx, and no request fails."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from cassandra.cluster import Session

from dev.local_cassandra.node import free_port
from tests.functional.nginx import restart_instance
from tests.functional.nginx.conftest import BEHIND_NGINX
from tests.nginx import CONFIGURATION, HOST, Nginx
from tests.support import OBSERVER, PROJECT, clean_environment, wait_for

SCRIPT = CONFIGURATION / "rolling_restart.py"
# Seconds for a complete run.
LIMIT = 200


def command(nginx: Nginx, *arguments: str) -> list[str]:
    """The command line of the script for this nginx."""
    options = ["--nginx", shlex.join(nginx.command), "--pid-file", str(nginx.directory / "nginx.pid"), "--host", HOST]
    return [sys.executable, str(SCRIPT), str(nginx.upstream), *options, *arguments]


def run(nginx: Nginx, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(nginx, *arguments), capture_output=True, text=True, check=False, timeout=LIMIT, env=env, cwd=PROJECT
    )


# --- two instances under load ------------------------------------------------------------------------------


class Load:
    """Clients that send requests through nginx until the block ends, each on a new connection.

    :ivar completed: the number of successful requests of each kind.
    :ivar failures: a description of each other request.
    :ivar names: of the rows that were created.
    """

    def __init__(self, nginx: Nginx) -> None:
        self.completed: Counter[str] = Counter()
        self.failures: list[str] = []
        self.names: list[str] = []
        self._nginx = nginx
        self._stop = threading.Event()
        self._changes = 0
        self._changed: httpx.Response | None = None
        actions = [self.get, self.post, self.post, self.post_with_key, self.patch, self.stream]
        self._threads = [threading.Thread(target=self._run, args=(action,)) for action in actions]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_requests(self) -> None:
        """Wait until five more requests of each kind have completed, or one has failed."""
        before = self.completed.copy()
        kinds = ("get", "post", "post_with_key", "patch", "stream")
        wait_for(
            lambda: self.failures or all(self.completed[kind] >= before[kind] + 5 for kind in kinds),
            timeout=90,
            description="requests of each kind",
        )

    def _run(self, action: Callable[[httpx.Client], None]) -> None:
        with self._nginx.client() as client:
            # nginx closes idle connections of clients at each reload, and a client may send a request at that moment.
            client.headers["Connection"] = "close"
            while not self._stop.is_set():
                try:
                    action(client)
                except Exception as error:
                    self.failures.append(f"{action.__name__}: {error!r}")
                else:
                    self.completed[action.__name__] += 1

    def get(self, client: httpx.Client) -> None:
        response = client.get("/find/Quercus/robur")
        assert response.status_code == 200, response.text

    def post(self, client: httpx.Client, **headers: str) -> None:
        name = f"Restart {uuid4()}"
        self.names.append(name)
        response = client.post("/observers", json=OBSERVER | {"name": name}, headers=headers)
        assert response.status_code == 201, response.text

    def post_with_key(self, client: httpx.Client) -> None:
        self.post(client, **{"Idempotency-Key": str(uuid4())})

    def patch(self, client: httpx.Client) -> None:
        """Change a row: 412 if an earlier change was applied, but lost its response."""
        if self._changed is None:
            self._changed = client.post("/observers", json=OBSERVER)
            assert self._changed.status_code == 201, self._changed.text
        self._changes += 1
        changed = client.patch(
            f"/observers/{self._changed.json()['id']}",
            json={"age": self._changes % 100},
            headers={"If-Match": self._changed.headers["ETag"]},
        )
        assert (changed.status_code, changed.json()["age"]) == (200, self._changes % 100), changed.text
        self._changed = changed

    def stream(self, client: httpx.Client) -> None:
        response = client.get("/observers/stream?limit=2000&fetch_size=200")
        assert response.status_code == 200, response.text
        assert len(json.loads(response.text)) == 2000


@contextmanager
def restartable_instances(
    directory: Path, ports: list[int], environment: dict[str, str], stop_signal: str
) -> Iterator[str]:
    """Run an instance on each port until the block ends. Yields the restart command."""
    restart = shlex.join([sys.executable, "-m", restart_instance.__name__, str(directory), stop_signal])
    try:
        for port in ports:
            subprocess.run([*shlex.split(restart), str(port)], check=True, env=environment, cwd=PROJECT)
        for port in ports:
            wait_for(lambda port=port: is_healthy(port), timeout=60, description="the instance")
        yield f"{restart} {{port}}"
    finally:
        for port in ports:
            restart_instance.stop(directory, port)


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def master(directory: Path, port: int) -> str:
    return restart_instance.pid_file(directory, port).read_text()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stop_signal", ["SIGTERM", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_rolling_restart_under_load_loses_no_request(
    environment: dict[str, str],
    nginx_binary: str,
    session: Session,
    add_observers: Callable[[str, int], None],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    stop_signal: str,
) -> None:
    """Every request succeeds, and every POST has created exactly one row.

    SIGKILL shows that an instance has no request when it is restarted: the graceful shutdown would complete them.
    """
    keyspace = environment["CASSANDRA_KEYSPACE"]
    add_observers(keyspace, 2000)
    ports = [free_port(), free_port()]
    nginx = Nginx(nginx_binary, tmp_path, ports)
    variables = clean_environment() | environment | BEHIND_NGINX | {"DRAIN_SECONDS": "1"}
    with restartable_instances(tmp_path, ports, variables, stop_signal) as restart, nginx.run():
        before = [master(tmp_path, port) for port in ports]
        with Load(nginx) as load:
            load.wait_for_requests()
            restarted = run(nginx, "--restart", restart, env=variables)
            load.wait_for_requests()
        after = [master(tmp_path, port) for port in ports]
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(load.completed.items()))
    summary = f"{stop_signal}: {load.completed.total()} requests ({counts}), {len(load.failures)} failed"
    record_property("rolling_restart", summary)
    sys.stderr.write(f"rolling restart: {summary}\n")
    assert restarted.returncode == 0, restarted.stderr
    assert not set(before) & set(after)
    assert load.failures == [], f"{summary}: {load.failures[:10]}\n{restarted.stdout}"
    created = Counter(row[0] for row in session.execute(f"SELECT name FROM {keyspace}.observers"))
    assert {name: created[name] for name in load.names} == dict.fromkeys(load.names, 1)


# --- failures ----------------------------------------------------------------------------------------------


class FakeInstance(ThreadingHTTPServer):
    """Answers the probes of the script. It is ready unless `broken` exists.

    :ivar in_flight: what its metrics say.
    :ivar observed: the number of requests for its metrics.
    """

    daemon_threads = True

    def __init__(self, broken: Path) -> None:
        super().__init__(("127.0.0.1", 0), _FakeHandler)
        self.broken = broken / str(self.server_port)
        self.in_flight = self.observed = 0


class _FakeHandler(BaseHTTPRequestHandler):
    server: FakeInstance

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.server.observed += 1
        text = f'fieldbook_requests_in_flight {self.server.in_flight}.0\nfieldbook_requests_queued{{kind="data"}} 0.0\n'
        self.send_response(503 if self.path == "/health" and self.server.broken.exists() else 200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Setup:
    """Two fake instances behind nginx.

    :ivar restart: a restart command that succeeds; `restarted` are the ports with which it was called.
    """

    def __init__(self, nginx_binary: str, directory: Path, stack: ExitStack) -> None:
        self.broken = directory / "broken"
        self.broken.mkdir()
        self.instances = [stack.enter_context(FakeInstance(self.broken)) for _ in range(2)]
        for instance in self.instances:
            threading.Thread(target=instance.serve_forever, daemon=True).start()
            stack.callback(instance.shutdown)
        self.ports = [instance.server_port for instance in self.instances]
        (directory / "nginx").mkdir()
        self.nginx = Nginx(nginx_binary, directory / "nginx", self.ports)
        stack.enter_context(self.nginx.run())
        self._calls = directory / "restarted"
        self.restart = f"sh -c 'echo {{port}} >> {self._calls}'"

    @property
    def restarted(self) -> list[int]:
        return list(map(int, self._calls.read_text().split())) if self._calls.exists() else []

    def marked(self) -> list[int]:
        """The ports that the upstream file marks as down."""
        lines = self.nginx.upstream.read_text().splitlines()
        return [port for port in self.ports for line in lines if f":{port} " in line and line.endswith(" down;")]


@pytest.fixture
def setup(nginx_binary: str, tmp_path: Path) -> Iterator[Setup]:
    with ExitStack() as stack:
        yield Setup(nginx_binary, tmp_path, stack)


@pytest.mark.parametrize("cause", ["the command fails", "the new release is never ready"])
def test_failed_restart_leaves_the_other_instance_in_service(setup: Setup, cause: str) -> None:
    """The script stops after the first instance. The next run begins with that instance."""
    first, second = setup.ports
    before = setup.nginx.upstream.read_text()
    broken = "false" if cause == "the command fails" else f"touch {setup.broken}/{{port}}"
    failed = run(setup.nginx, "--restart", broken, "--ready-limit", "0.5")
    assert failed.returncode == 1
    assert f"Marked as down: 127.0.0.1:{first}." in failed.stderr
    assert "Traceback" not in failed.stderr
    assert setup.marked() == [first]
    with setup.nginx.client() as client:
        assert client.get("/").status_code == 200

    # The second instance is broken too, and the first is not in service.
    (setup.broken / str(second)).touch()
    refused = run(setup.nginx, "--restart", setup.restart)
    assert (refused.returncode, setup.restarted, setup.marked()) == (1, [], [first])

    for file in setup.broken.iterdir():
        file.unlink()
    # The marked instance comes first, wherever it is in the file.
    lines = before.splitlines(keepends=True)
    numbers = [number for number, line in enumerate(lines) if any(f":{port} " in line for port in setup.ports)]
    lines[numbers[0]], lines[numbers[1]] = lines[numbers[1]], lines[numbers[0]].replace(";", " down;")
    setup.nginx.upstream.write_text("".join(lines))
    resumed = run(setup.nginx, "--restart", setup.restart)
    assert resumed.returncode == 0, resumed.stderr
    assert setup.restarted == [first, second]
    assert setup.marked() == []


def test_nothing_changes_if_no_other_instance_is_ready(setup: Setup) -> None:
    before = setup.nginx.upstream.read_text()
    (setup.broken / str(setup.ports[1])).touch()
    refused = run(setup.nginx, "--restart", setup.restart)
    assert refused.returncode == 1
    assert "no other instance is in service and ready" in refused.stderr
    assert (setup.restarted, setup.nginx.upstream.read_text()) == ([], before)


def test_invalid_configuration_is_not_loaded(setup: Setup) -> None:
    with setup.nginx.upstream.open("a") as file:
        file.write("no_such_directive;\n")
    before = setup.nginx.upstream.read_text()
    refused = run(setup.nginx, "--restart", setup.restart)
    assert refused.returncode == 1
    assert "no_such_directive" in refused.stderr
    assert (setup.restarted, setup.nginx.upstream.read_text()) == ([], before)


def test_process_that_is_not_nginx_gets_no_signal(setup: Setup) -> None:
    """The pid file is stale, and another process has the id."""
    file = setup.nginx.directory / "stale.pid"
    with subprocess.Popen(["sleep", "100"]) as other:
        file.write_text(str(other.pid))
        refused = run(setup.nginx, "--restart", setup.restart, "--pid-file", str(file))
        assert other.poll() is None
        other.terminate()
    assert (refused.returncode, setup.restarted, setup.marked()) == (1, [], [])
    assert "is not the master of nginx" in refused.stderr


def test_second_run_at_the_same_time_is_refused(setup: Setup) -> None:
    directory = os.open(setup.nginx.directory, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        refused = run(setup.nginx, "--restart", setup.restart)
    finally:
        os.close(directory)
    assert (refused.returncode, refused.stderr) == (1, "rolling_restart: another run is in progress\n")
    assert setup.restarted == []


def test_instance_is_restarted_when_it_is_idle(setup: Setup) -> None:
    """The script waits while requests are in flight. SIGTERM ends it, and leaves the instance marked."""
    first, second = setup.instances
    first.in_flight = 1
    restart = f"sh -c 'echo {{port}} >> {setup._calls}; [ {{port}} = {first.server_port} ] || exec sleep 100'"
    with subprocess.Popen(command(setup.nginx, "--restart", restart), stderr=subprocess.PIPE, text=True) as running:
        try:
            wait_for(lambda: first.observed >= 4, description="four observations")
            assert setup.restarted == []
            first.in_flight = 0
            wait_for(lambda: setup.restarted == setup.ports, timeout=30, description="the second restart")
            assert setup.marked() == [second.server_port]
        finally:
            running.send_signal(signal.SIGTERM)
            _, errors = running.communicate(timeout=30)
    assert running.returncode == 1
    marked = f"127.0.0.1:{second.server_port}"
    assert errors == f"rolling_restart: interrupted. Marked as down: {marked}. The next run begins there.\n"


def test_instance_with_a_long_request_is_restarted_after_the_limit(setup: Setup) -> None:
    for instance in setup.instances:
        instance.in_flight = 1
    restarted = run(setup.nginx, "--restart", setup.restart, "--idle-limit", "1")
    assert restarted.returncode == 0, restarted.stderr
    assert restarted.stdout.count("not idle after 1 s (1 requests)") == 2
    assert setup.restarted == setup.ports


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/file"], "No such file or directory"),
        (["empty.conf"], "has no line such as"),
        (["unix.conf"], "must have an address and a port"),
        (["two.conf"], "must have a line of its own"),
        (["upstream.conf", "--pid-file", "no-pid"], "No such file or directory"),
        (["upstream.conf", "--restart", "'"], "No closing quotation"),
    ],
)
def test_wrong_arguments_end_with_status_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "empty.conf").write_text("# server 127.0.0.1:8000;\n")
    (tmp_path / "two.conf").write_text("upstream a {server 127.0.0.1:8000;\n server 127.0.0.1:8001;}\n")
    (tmp_path / "unix.conf").write_text("server unix:/run/fieldbook.sock;\n")
    (tmp_path / "upstream.conf").write_text("server 127.0.0.1:8000;\n")
    (tmp_path / "pid").write_text("1\n")
    refused = subprocess.run(
        [sys.executable, str(SCRIPT), "--pid-file", "pid", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
