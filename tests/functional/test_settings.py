"""Settings: a wrong or missing value stops the start and names itself; the documents list them all."""

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
from tests.support import PROJECT, Service, clean_environment, wait_for


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
        ({"SECRET_KEY": "short"}, "SECRET_KEY"),
        ({"APP_ENV": "production"}, "SECRET_KEY"),
        ({"APP_ENV": "production", "SECRET_KEY": "x" * 16, "DIAGNOSTICS": "1"}, "OPERATOR_TOKEN"),
        ({"APP_ENV": "staging"}, "APP_ENV"),
        ({"CASSANDRA_RECONNECT_MIN": "20"}, "CASSANDRA_RECONNECT_MIN"),
        ({"CASSANDRA_HOST": "10.0.0.1"}, "CASSANDRA_HOST is unknown; CASSANDRA_HOSTS is meant"),
        ({"DRAIN_SECOND": "5"}, "DRAIN_SECONDS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_names_itself(variables: dict[str, str], name: str) -> None:
    """The start ends with status 2 and a sentence that names the variable, without a traceback or a secret."""
    run = start_with(variables)
    assert run.returncode == 2
    assert name in run.stderr
    assert "Traceback" not in run.stderr
    assert "short" not in run.stderr or name != "SECRET_KEY"


def test_gunicorn_and_the_initializer_refuse_too() -> None:
    """Every way to start checks the settings first."""
    for command in (("-m", "gunicorn", "wsgi:app"), ("storage/db_initialize.py",), ("-m", "dev.local_cassandra.run")):
        run = start_with({"APP_ENV": "production"}, *command)
        assert run.returncode != 0
        assert "SECRET_KEY is required" in run.stderr


def test_development_keeps_a_generated_key(tmp_path: Path) -> None:
    """All processes of a checkout get the same key, readable by its owner only, though they make it at once."""
    path = tmp_path / "state" / "secret_key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: settings_module._development_key(path), range(8)))
    assert len(keys) == 1
    assert len(keys.pop()) >= 32
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_workers_and_instances_share_page_states(start: Callable[..., Service]) -> None:
    """A page_state of one instance is good at another with the same SECRET_KEY, and refused with another key."""
    first, second, stranger = start(), start(), start({"SECRET_KEY": "the secret of somebody else"})
    link = first.client.get("/users?limit=1").links["next"]["url"]
    for _ in range(10):
        assert second.client.get(link).status_code == 200
    assert stranger.client.get(link).status_code == 400


def test_dotenv_file(tmp_path: Path) -> None:
    """ENV_FILE is read, and a variable in the environment wins over it."""
    (tmp_path / "env").write_text("CASSANDRA_PORT=1234\nCASSANDRA_KEYSPACE=from_file\nCASSANDRA_USERNAME=\n")
    show = (
        "from settings import get_settings; s = get_settings(); "
        "print(s.cassandra_port, s.cassandra_keyspace, s.cassandra_username)"
    )
    run = start_with({"ENV_FILE": str(tmp_path / "env"), "CASSANDRA_PORT": "4321"}, "-c", show)
    assert run.stdout.split() == ["4321", "from_file", "None"]


def test_a_slip_of_the_pen_in_dotenv(tmp_path: Path) -> None:
    """A name that is nearly one of ours stops the start; one of another program does not."""
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\nCASANDRA_HOSTS=10.0.0.1\n")
    run = start_with({"ENV_FILE": str(tmp_path / "env")})
    assert run.returncode == 2
    assert "CASANDRA_HOSTS is unknown; CASSANDRA_HOSTS is meant?" in run.stderr
    (tmp_path / "env").write_text("COMPOSE_PROJECT=x\n")
    assert start_with({"ENV_FILE": str(tmp_path / "env")}).returncode == 0


def test_the_example_lists_every_variable() -> None:
    """.env.example has every setting, once, with its default, and no other."""
    example = (PROJECT / ".env.example").read_text()
    listed = dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", example, re.MULTILINE))
    assert set(listed) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        default = field.default
        if name == "cassandra_hosts":
            default = ",".join(default)
        text = "" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        assert listed[name.upper()] == text.removesuffix(".0"), name


def test_the_service_runs_on_the_example(start: Callable[..., Service], environment: dict[str, str]) -> None:
    """A copy of .env.example is a .env that works."""
    running = start({"ENV_FILE": str(PROJECT / ".env.example"), "SECRET_KEY": ""})
    wait_for(running.healthy, what="health")
