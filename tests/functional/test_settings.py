"""Settings: invalid values prevent the start, .env files, the secret key, and .env.example."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import settings as settings_module
from settings import Settings
from tests.support import PRODUCT, PROJECT, Service, clean_environment, wait_for


def start_with(variables: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(command or ("-c", "from settings import settings_or_exit; settings_or_exit()"))],
        cwd=PROJECT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=30,
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
        ({"GUNICORN_THREADS": "64"}, "GUNICORN_THREADS was removed. Set MAX_REQUESTS_IN_FLIGHT"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"SECRET_KEY_PREVIOUS": "a key that is long enough,short"}, "SECRET_KEY_PREVIOUS"),
        ({"APP_ENV": "production"}, "SECRET_KEY"),
        ({"APP_ENV": "production", "SECRET_KEY": "x" * 16, "DIAGNOSTICS": "1"}, "OPERATOR_TOKEN"),
        ({"APP_ENV": "staging"}, "APP_ENV"),
        ({"CASSANDRA_RECONNECT_MIN": "20"}, "CASSANDRA_RECONNECT_MIN"),
        ({"CASSANDRA_HOST": "10.0.0.1"}, "CASSANDRA_HOST is unknown. Did you mean CASSANDRA_HOSTS?"),
        ({"DRAIN_SECOND": "5"}, "DRAIN_SECONDS"),
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
    for command in (("-m", "gunicorn", "wsgi:app"), ("storage/db_initialize.py",), ("-m", "dev.local_cassandra.run")):
        run = start_with({"APP_ENV": "production"}, *command)
        assert run.returncode != 0
        assert "SECRET_KEY is required" in run.stderr


def test_development_secret_key_is_generated_once(tmp_path: Path) -> None:
    """Concurrent callers all get the same key. Only the owner of the key file can read it."""
    path = tmp_path / "state" / "secret_key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: settings_module._development_key(path), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_workers_and_instances_share_page_states(start: Callable[..., Service]) -> None:
    """An instance accepts another one's page_state if both have the same SECRET_KEY."""
    first, second, other_key = start(), start(), start({"SECRET_KEY": "the secret of somebody else"})
    link = first.client.get("/observers?limit=1").links["next"]["url"]
    for _ in range(10):
        assert second.client.get(link).status_code == 200
    assert other_key.client.get(link).status_code == 400


def test_environment_overrides_the_dotenv_file(tmp_path: Path) -> None:
    """Settings come from the file that ENV_FILE names; environment variables override them."""
    (tmp_path / "env").write_text("CASSANDRA_PORT=1234\nCASSANDRA_KEYSPACE=from_file\nCASSANDRA_USERNAME=\n")
    show = (
        "from settings import get_settings; s = get_settings(); "
        "print(s.cassandra_port, s.cassandra_keyspace, s.cassandra_username)"
    )
    run = start_with({"ENV_FILE": str(tmp_path / "env"), "CASSANDRA_PORT": "4321"}, "-c", show)
    assert run.stdout.split() == ["4321", "from_file", "None"]


def test_misspelled_variable_in_dotenv_prevents_the_start(tmp_path: Path) -> None:
    """A likely misspelling of a variable prevents the start; a variable of another program does not."""
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\nCASANDRA_HOSTS=10.0.0.1\n")
    run = start_with({"ENV_FILE": str(tmp_path / "env")})
    assert run.returncode == 2
    assert "CASANDRA_HOSTS is unknown. Did you mean CASSANDRA_HOSTS?" in run.stderr
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\n")
    assert start_with({"ENV_FILE": str(tmp_path / "env")}).returncode == 0


def test_env_example_lists_every_variable() -> None:
    """.env.example lists every setting with its default value, and no other variable."""
    example = (PROJECT / ".env.example").read_text()
    listed = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert set(listed) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        if name == "cassandra_hosts":
            default = ",".join(default)
        text = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        assert listed[name.upper()] == text.removesuffix(".0"), name


def test_service_runs_with_an_unchanged_env_example(start: Callable[..., Service], environment: dict[str, str]) -> None:
    """The service becomes healthy with an unchanged .env.example."""
    running = start({"ENV_FILE": str(PROJECT / ".env.example"), "SECRET_KEY": ""}, app=PRODUCT)
    wait_for(running.healthy, description="the service to be healthy")
