"""Settings: invalid values prevent the start, .env files, the secret key, and .env.example."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import environment as environment_module
import settings as settings_module
from dev.local_cassandra.node import free_port
from tests.support import OBSERVER, PRODUCT, PROJECT, Service, clean_environment, wait_for

# Commands, as arguments of Python.
GUNICORN = ("-m", "gunicorn", "wsgi:app")
MAKE_RUN = ("-m", "dev.local_cassandra.run")


def start_with(
    variables: dict[str, str], *command: str, pass_fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(command or ("-c", "from environment import settings_or_exit; settings_or_exit()"))],
        cwd=PROJECT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=30,
        pass_fds=pass_fds,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"CASSANDRA_PORT": "ninety"}, "CASSANDRA_PORT"),
        ({"CASSANDRA_PORT": "0"}, "CASSANDRA_PORT"),
        ({"PORT": "70000"}, "PORT"),
        ({"CASSANDRA_HOSTS": " , "}, "CASSANDRA_HOSTS"),
        ({"CASSANDRA_KEYSPACE": "a; DROP"}, "CASSANDRA_KEYSPACE"),
        ({"CASSANDRA_CONSISTENCY_LEVEL": "MOST"}, "CASSANDRA_CONSISTENCY_LEVEL"),
        ({"CASSANDRA_TLS": "perhaps"}, "CASSANDRA_TLS"),
        ({"CASSANDRA_TLS": "true", "CASSANDRA_TLS_CA": "/no/such/file"}, "CASSANDRA_TLS_CA"),
        ({"CASSANDRA_TLS_CA": __file__}, "CASSANDRA_TLS"),
        ({"CASSANDRA_TLS": "true", "CASSANDRA_TLS_CA": __file__}, "CASSANDRA_TLS_CA"),
        ({"CASSANDRA_HOSTS": "127.0.0.1:9042"}, "CASSANDRA_PORT"),
        ({"ENV_FILE": "/no/such/file"}, "ENV_FILE"),
        ({"ENV_FILE": "/"}, "ENV_FILE"),
        ({"ASTRA_DB_APPLICATION_TOKEN": "t", "ASTRA_DB_SECURE_BUNDLE_PATH": __file__}, "ASTRA_DB_SECURE_BUNDLE_PATH"),
        ({"CASSANDRA_USERNAME": "ada"}, "CASSANDRA_PASSWORD"),
        ({"ASTRA_DB_APPLICATION_TOKEN": "AstraCS:x"}, "ASTRA_DB_SECURE_BUNDLE_PATH"),
        (
            {"ASTRA_DB_APPLICATION_TOKEN": "t", "ASTRA_DB_SECURE_BUNDLE_PATH": "/no/bundle"},
            "ASTRA_DB_SECURE_BUNDLE_PATH",
        ),
        ({"WEB_CONCURRENCY": "0"}, "WEB_CONCURRENCY"),
        ({"MAX_STREAMS_IN_FLIGHT": "48"}, "MAX_STREAMS_IN_FLIGHT must be less than MAX_REQUESTS_IN_FLIGHT (48)"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY_PREVIOUS": "a key that is long enough,short"}, "SECRET_KEY_PREVIOUS"),
        ({"APP_ENV": "production", "SECRET_KEY": "x" * 16, "DIAGNOSTICS": "1"}, "OPERATOR_TOKEN"),
        ({"APP_ENV": "staging"}, "APP_ENV"),
        ({"CASSANDRA_RECONNECT_MIN": "20"}, "CASSANDRA_RECONNECT_MIN"),
        ({"TRUSTED_PROXIES": "1"}, "TRUSTED_HOSTS is required when TRUSTED_PROXIES is above 0"),
        ({"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": " , "}, "TRUSTED_HOSTS is required"),
        ({"TRUSTED_HOSTS": "example.org,https://example.org"}, "'https://example.org' is not a host name"),
        ({"TRUSTED_HOSTS": "example.org:443"}, "without scheme, port, path or *"),
        ({"TRUSTED_HOSTS": "*.example.org"}, "a name that begins with a period includes its subdomains"),
        ({"TRUSTED_HOSTS": "example.org/field"}, "TRUSTED_HOSTS"),
        ({"TRUSTED_HOSTS": "[::1]"}, "TRUSTED_HOSTS"),
        ({"TRUSTED_HOSTS": f"{'a' * 64}.org"}, "TRUSTED_HOSTS"),
        ({"RATE_LIMIT": "many"}, "'many' is not a rate limit"),
        ({"SIGN_IN_LIMIT_ACCOUNT": "10 per minute; 0 per day"}, "SIGN_IN_LIMIT_ACCOUNT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_value_prevents_the_start(variables: dict[str, str], name: str) -> None:
    """The exit status is 2.

    The message names the variable and contains no traceback and no secret.
    """
    run = start_with(variables)
    assert run.returncode == 2
    assert name in run.stderr
    assert "Traceback" not in run.stderr
    assert "short" not in run.stderr or name != "SECRET_KEY"


def test_every_command_checks_the_settings() -> None:
    """gunicorn, db_initialize.py and `make run` do not start with invalid settings."""
    for command in (GUNICORN, ("storage/db_initialize.py",), MAKE_RUN):
        run = start_with({"CASSANDRA_PORT": "ninety"}, *command)
        assert run.returncode == 2
        assert "CASSANDRA_PORT: Input should be a valid integer" in run.stderr


def test_likely_mistakes_in_the_environment_are_warnings() -> None:
    """Names in the environment may belong to other programs, for example to Kubernetes."""
    run = start_with({"CASSANDRA_HOST": "10.0.0.1", "CASSANDRAS_PORT": "tcp://10.0.0.1", "GUNICORN_THREADS": "64"})
    assert (run.returncode, run.stdout) == (0, "")
    ignored = "The service ignores this environment variable."
    assert sorted(run.stderr.splitlines()) == [
        f"Warning: CASSANDRAS_PORT is unknown. Did you mean CASSANDRA_PORT? {ignored}",
        f"Warning: CASSANDRA_HOST is unknown. Did you mean CASSANDRA_HOSTS? {ignored}",
        f"Warning: GUNICORN_THREADS was removed. {environment_module._REMOVED['GUNICORN_THREADS']} {ignored}",
    ]


# --- production is the default -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", [GUNICORN, MAKE_RUN])
def test_secret_key_is_required_in_production(command: tuple[str, ...]) -> None:
    """Without settings, gunicorn runs in production. It does not start, and says what a developer can do."""
    variables = {"APP_ENV": "production"} if command == MAKE_RUN else {"APP_ENV": ""}
    run = start_with(variables, *command)
    assert (run.returncode, run.stdout) == (2, "")
    (message,) = run.stderr.splitlines()
    assert message.startswith("SECRET_KEY is required when APP_ENV=production, which is the default.")
    assert "use `make run` or set APP_ENV=development" in message


def test_commands_for_the_schema_need_no_secret_key(environment: dict[str, str]) -> None:
    """`db_initialize.py` and `make node` also work in production without SECRET_KEY."""
    variables = environment | {"APP_ENV": "", "SECRET_KEY": ""}
    run = start_with(variables, "storage/db_initialize.py", "--no-samples")
    assert (run.returncode, run.stderr) == (0, "")
    if environment["CASSANDRA_HOSTS"] == "127.0.0.1":
        run = start_with(variables, "-m", "dev.local_cassandra", "start")
        # Another program's node, or the development node of this directory.
        assert re.search(r"already runs on 127\.0\.0\.1|127\.0\.0\.1:\d+ is already running", run.stderr + run.stdout)


@pytest.mark.parametrize(
    ("variable", "line", "expected"),
    [
        ("", "", "development"),
        ("", "APP_ENV=", "development"),
        ("", "app_env=production", "production"),
        ("production", "", "production"),
        ("production", "APP_ENV=development", "production"),
        ("development", "APP_ENV=production", "development"),
    ],
)
def test_make_run_uses_development_unless_app_env_is_set(
    tmp_path: Path, variable: str, line: str, expected: str
) -> None:
    """The environment or .env can set APP_ENV; an empty value counts as not set."""
    (tmp_path / "env").write_text(line)
    show = "from environment import *; default_to_development(); print(get_settings().app_env)"
    run = start_with({"ENV_FILE": str(tmp_path / "env"), "APP_ENV": variable}, "-c", show)
    assert (run.stdout.strip(), run.stderr) == (expected, "")


@pytest.fixture
def inherited_socket() -> Iterator[socket.socket]:
    """A socket that listens on all addresses, for a child process."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.set_inheritable(True)
        yield listener


@pytest.mark.parametrize(
    ("variables", "bind"),
    [
        ({"HOST": "0.0.0.0"}, []),
        ({"HOST": "::"}, []),
        ({}, ["0.0.0.0:{port}"]),
        ({}, ["127.0.0.1:{port}", "unix:{socket}", "[::]:{other_port}"]),
        ({}, ["fd://{fd}"]),
        ({"GUNICORN_CMD_ARGS": "--reuse-port"}, ["0.0.0.0:{port}"]),
    ],
    ids=str,
)
def test_development_is_refused_on_addresses_that_other_machines_reach(
    tmp_path: Path, inherited_socket: socket.socket, variables: dict[str, str], bind: list[str]
) -> None:
    """gunicorn ends before its first worker, leaves no file, and its message names both possible solutions."""
    port, fd = free_port(), inherited_socket.fileno()
    values = {"port": port, "other_port": free_port(), "socket": tmp_path / "socket", "fd": fd}
    arguments = [f"--pid={tmp_path / 'pid'}", *(f"--bind={each.format(**values)}" for each in bind)]
    run = start_with({"PORT": str(port)} | variables, *GUNICORN, *arguments, pass_fds=(fd,))
    assert run.returncode == 2
    assert len(re.findall("With APP_ENV=development, the service listens on loopback addresses only", run.stderr)) == 1
    assert "Set APP_ENV=production, or ALLOW_REMOTE_DEVELOPMENT=1" in run.stderr
    assert "Booting worker" not in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_run_refuses_remote_development_before_it_starts_cassandra() -> None:
    run = start_with({"APP_ENV": "", "HOST": "0.0.0.0"}, *MAKE_RUN)
    assert (run.returncode, run.stdout) == (2, "")
    (message,) = run.stderr.splitlines()
    assert "loopback addresses only, not on 0.0.0.0. Set APP_ENV=production, or ALLOW_REMOTE_DEVELOPMENT=1" in message


def test_development_listens_on_loopback_addresses_and_unix_sockets(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    port, path = free_port(), tmp_path / "socket"
    bind = (f"--bind=127.0.0.1:{port}", f"--bind=[::1]:{port}", f"--bind=[::ffff:127.0.0.2]:{port}")
    with subprocess.Popen(
        [sys.executable, *GUNICORN, *bind, f"--bind=unix:{path}"],
        cwd=PROJECT,
        env=clean_environment(),
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_for(lambda: path.exists() or process.poll() is not None, description="the socket")
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), timeout=30) as client:
                assert client.get("http://localhost/health/live").status_code == 200
            for host in ("127.0.0.1", "[::1]", "127.0.0.2"):
                assert httpx.get(f"http://{host}:{port}/health/live", timeout=30).status_code == 200
        finally:
            process.terminate()


def test_remote_development_can_be_allowed(start: Callable[..., Service]) -> None:
    """The warning about a variable of another program appears once, not once for each worker."""
    variables = {"HOST": "0.0.0.0", "ALLOW_REMOTE_DEVELOPMENT": "1", "CASSANDRAS_PORT": "tcp://10.0.0.1:9042"}
    running = start(variables | {"WEB_CONCURRENCY": "2"})
    assert running.log_text().count("Warning: CASSANDRAS_PORT is unknown. Did you mean CASSANDRA_PORT?") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("APP_ENV=production\nHOST=0.0.0.0\n", "APP_ENV=development\nHOST=0.0.0.0\nMAX_BODY_BYTES=1024\n"),
        ("APP_ENV=development\n", "APP_ENV=development\nHOST=0.0.0.0\nMAX_BODY_BYTES=1024\n"),
    ],
    ids=["APP_ENV", "HOST"],
)
def test_reload_does_not_open_development_to_other_machines(
    start: Callable[..., Service], tmp_path: Path, before: str, after: str
) -> None:
    """After SIGHUP with such settings, the previous settings stay in use."""
    env_file = tmp_path / "env"
    env_file.write_text(before)
    running = start({"ENV_FILE": str(env_file), "APP_ENV": "", "WEB_CONCURRENCY": "1", "DRAIN_SECONDS": "0"})

    def is_too_large() -> bool:
        observer = OBSERVER | {"name": "x" * 2000}
        return httpx.post(f"{running.client.base_url}/observers", json=observer).status_code == 413

    env_file.write_text(after)
    running.reload()
    running.wait_for_log("The previous settings stay in use: With APP_ENV=development, the service listens on loopback")
    assert not is_too_large()
    if "0.0.0.0" in before:
        env_file.write_text(f"{after}ALLOW_REMOTE_DEVELOPMENT=1\n")
        running.reload()
        assert is_too_large()


# --- secret key --------------------------------------------------------------------------------------------


def test_development_secret_key_is_generated_once(tmp_path: Path) -> None:
    """Concurrent callers all get the same key. Only the owner of the key file can read it."""
    path = tmp_path / "state" / "secret_key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: settings_module._development_key(path), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_environment_overrides_the_dotenv_file(tmp_path: Path) -> None:
    """Settings come from the file that ENV_FILE names; environment variables override them."""
    (tmp_path / "env").write_text("CASSANDRA_PORT=1234\nCASSANDRA_KEYSPACE=from_file\nCASSANDRA_USERNAME=\n")
    show = (
        "from environment import get_settings; s = get_settings(); "
        "print(s.cassandra_port, s.cassandra_keyspace, s.cassandra_username)"
    )
    run = start_with({"ENV_FILE": str(tmp_path / "env"), "CASSANDRA_PORT": "4321"}, "-c", show)
    assert run.stdout.split() == ["4321", "from_file", "None"]


# --- .env ----------------------------------------------------------------------------------------------------


def test_misspelled_or_removed_variable_in_dotenv_prevents_the_start(tmp_path: Path) -> None:
    """A likely misspelling of a variable prevents the start; a variable of another program does not."""
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\nCASANDRA_HOSTS=10.0.0.1\n")
    run = start_with({"ENV_FILE": str(tmp_path / "env")})
    assert run.returncode == 2
    assert "CASANDRA_HOSTS is unknown. Did you mean CASSANDRA_HOSTS?" in run.stderr
    (tmp_path / "env").write_text("GUNICORN_THREADS=64\n")
    run = start_with({"ENV_FILE": str(tmp_path / "env")})
    assert run.returncode == 2
    assert "GUNICORN_THREADS was removed. Set MAX_REQUESTS_IN_FLIGHT" in run.stderr
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\n")
    assert start_with({"ENV_FILE": str(tmp_path / "env")}).returncode == 0


def test_service_runs_with_an_unchanged_env_example(start: Callable[..., Service], environment: dict[str, str]) -> None:
    """The service becomes healthy with an unchanged .env.example."""
    running = start({"ENV_FILE": str(PROJECT / ".env.example"), "SECRET_KEY": ""}, app=PRODUCT)
    wait_for(running.healthy, description="the service to be healthy")
