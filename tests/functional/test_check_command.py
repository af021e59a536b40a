"""`flask --app api check`: its lines, its exit status and its JSON document, against a real Cassandra."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cassandra.cluster import Session

from settings import Settings
from storage.schema.files import read_migrations
from tests.support import PROJECT, clean_environment

# A run of the command with these variables.
Run = Callable[..., subprocess.CompletedProcess[str]]

CHECKS = ["settings", "connection", "consistency", "schema", "accounts", "clocks"]


@pytest.fixture(scope="module")
def variables(settings: Settings, migrated: str, session: Session) -> Iterator[dict[str, str]]:
    """Environment variables of a release without a finding, and an account in its keyspace."""
    table = f"{migrated}.accounts"
    session.execute(f"INSERT INTO {table} (email) VALUES ('check@example.org')")
    yield {
        "APP_ENV": "production",
        "SECRET_KEY": "the secret of the tests",
        "OPERATOR_TOKEN": "the token of operators",
        "TRUSTED_PROXIES": "1",
        "TRUSTED_HOSTS": "field.example.org",
        "CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "CASSANDRA_PORT": str(settings.cassandra_port),
        "CASSANDRA_KEYSPACE": migrated,
    }
    session.execute(f"DELETE FROM {table} WHERE email = 'check@example.org'")


def check(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "check", *arguments],
        cwd=PROJECT,
        env=clean_environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def findings(run: subprocess.CompletedProcess[str], status: str) -> list[str]:
    """The findings with this status, each as check and message."""
    document = json.loads(run.stdout)
    return [f"{each['check']}: {each['message']}" for each in document["findings"] if each["status"] == status]


@contextmanager
def altered(session: Session, keyspace: str, options: str) -> Iterator[None]:
    """Change the options of the keyspace until the block ends."""
    session.execute(f"ALTER KEYSPACE {keyspace} WITH {options}", timeout=60)
    try:
        yield
    finally:
        replication = "{'class': 'NetworkTopologyStrategy', 'datacenter1': 1}"
        session.execute(
            f"ALTER KEYSPACE {keyspace} WITH replication = {replication} AND durable_writes = true", timeout=60
        )


def test_lines_are_aligned_and_one_replica_is_only_a_warning(variables: dict[str, str]) -> None:
    run = check(variables)
    assert (run.returncode, run.stderr) == (0, "")
    *lines, total = run.stdout.splitlines()
    assert {line[:9] for line in lines} == {"ok       ", "warning  "}
    assert list(dict.fromkeys(line[9:22].strip() for line in lines)) == CHECKS
    warnings = [line for line in lines if line.startswith("warning")]
    assert [line[22:].split(",")[0] for line in warnings] == [
        "CELERY_BROKER_URL is not set",
        "LOCAL_QUORUM can be met",
        "LOCAL_SERIAL can be met",
    ]
    assert total == "failures: 0, warnings: 3"


def test_json_is_one_document(variables: dict[str, str]) -> None:
    run = check(variables, "--json")
    document = json.loads(run.stdout)
    assert (run.returncode, document["result"]) == (0, "warning")
    assert {each["check"] for each in document["findings"]} == set(CHECKS)


def test_wrong_settings_have_exit_status_2_and_no_traceback(variables: dict[str, str]) -> None:
    run = check(variables | {"CASSANDRA_PORT": "x", "WEB_CONCURRENCY": "0"}, "--json")
    assert (run.returncode, run.stdout) == (2, "")
    assert "CASSANDRA_PORT" in run.stderr
    assert "WEB_CONCURRENCY" in run.stderr
    assert "Traceback" not in run.stderr


def test_missing_secret_key_and_misspelled_variables_are_findings(variables: dict[str, str]) -> None:
    run = check(variables | {"SECRET_KEY": "", "CASANDRA_HOSTS": "x"}, "--json")
    assert run.returncode == 1
    (failure,) = findings(run, "failure")
    assert failure.startswith("settings: SECRET_KEY is required")
    assert any("Did you mean CASSANDRA_HOSTS?" in warning for warning in findings(run, "warning"))


def test_without_cassandra_the_other_checks_are_skipped(variables: dict[str, str]) -> None:
    run = check(variables | {"CASSANDRA_PORT": "1"}, "--json")
    assert run.returncode == 1
    (failure,) = findings(run, "failure")
    assert failure.startswith("connection: Cassandra at ")
    assert [line.split(":")[0] for line in findings(run, "skipped")] == CHECKS[2:]


def test_a_silent_cassandra_ends_the_checks_after_the_time_limit(variables: dict[str, str]) -> None:
    """Contact points that accept connections and never answer. The time limit is shortened here."""
    code = (
        "import sys, commands.check as check; check.TIME_LIMIT = 3.0; "
        "sys.argv = ['flask', '--app', 'api', 'check', '--json']; from flask.cli import main; main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        changed = {"CASSANDRA_HOSTS": "127.0.0.1", "CASSANDRA_PORT": str(silent.getsockname()[1])}
        run = subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            env=clean_environment() | variables | changed | {"CASSANDRA_CONNECT_TIMEOUT": "3600"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert run.returncode == 1
    assert findings(run, "failure") == [
        "connection: Cassandra did not answer all checks within 3 s. Check the nodes (nodetool status)"
    ]


def test_a_missing_keyspace_is_a_failure(variables: dict[str, str]) -> None:
    run = check(variables | {"CASSANDRA_KEYSPACE": "no_such_keyspace"}, "--json")
    assert run.returncode == 1
    assert findings(run, "failure") == [
        "schema: There is no keyspace no_such_keyspace. Run: flask --app api db upgrade"
    ]
    assert findings(run, "skipped") == ["consistency: needs the keyspace", "accounts: needs the keyspace"]


def test_pending_and_interrupted_migrations_are_failures(
    variables: dict[str, str], migrated: str, session: Session
) -> None:
    names = [migration.name for migration in read_migrations()][-2:]
    before, last = names
    table = f"{migrated}.schema_migrations"
    select = f"SELECT sha256 FROM {table} WHERE name = %s"
    saved = {name: session.execute(select, (name,)).one()[0] for name in names}
    try:
        session.execute(f"UPDATE {table} SET sha256 = null, started = 1 WHERE name = %s", (before,))
        session.execute(f"DELETE FROM {table} WHERE name = %s", (last,))
        run = check(variables, "--json")
    finally:
        for name, sha256 in saved.items():
            session.execute(f"UPDATE {table} SET sha256 = %s, started = null WHERE name = %s", (sha256, name))
    assert run.returncode == 1
    assert findings(run, "failure") == [
        f"schema: migration {before} was interrupted. Run: flask --app api db upgrade",
        f"schema: migration {last} is pending. Run: flask --app api db upgrade",
    ]


def test_a_dropped_column_is_a_failure(variables: dict[str, str], migrated: str, session: Session) -> None:
    session.execute(f"ALTER TABLE {migrated}.idempotency_keys DROP finished", timeout=60)
    try:
        run = check(variables, "--json")
    finally:
        session.execute(f"ALTER TABLE {migrated}.idempotency_keys ADD finished boolean", timeout=60)
    assert run.returncode == 1
    assert findings(run, "failure")[0].startswith("schema: table idempotency_keys: column finished is missing")


def test_replication_that_cannot_meet_the_level_is_a_failure(
    variables: dict[str, str], migrated: str, session: Session
) -> None:
    """The keyspace has three replicas on one node."""
    replication = "replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 3}"
    with altered(session, migrated, f"{replication} AND durable_writes = false"):
        run = check(variables | {"CASSANDRA_CONSISTENCY_LEVEL": "ONE"}, "--json")
    replicas, serial = findings(run, "failure")
    assert replicas.startswith("consistency: The keyspace has 3 replicas in datacenter1, which has 1 nodes")
    assert serial.startswith("consistency: LOCAL_SERIAL can't be met with these replicas: 3 in datacenter1")
    assert findings(run, "skipped") == [f"{each}: needs a majority of the replicas" for each in ("schema", "accounts")]
    assert any("durable_writes = false" in warning for warning in findings(run, "warning"))


# Python runs this module at its start, if its directory is on PYTHONPATH.
AHEAD = """
import time
now = time.time
time.time = lambda: now() + {seconds}
"""


@pytest.mark.parametrize(("seconds", "status"), [(1.5, "warning"), (-60, "failure")])
def test_a_clock_that_differs_is_reported(
    variables: dict[str, str], tmp_path: Path, seconds: float, status: str
) -> None:
    """The command runs in a process whose clock is ahead of the node's or behind it."""
    (tmp_path / "sitecustomize.py").write_text(AHEAD.format(seconds=seconds))
    run = check(variables | {"PYTHONPATH": str(tmp_path)}, "--json")
    assert run.returncode == (1 if status == "failure" else 0)
    (line,) = [line for line in findings(run, status) if line.startswith("clocks")]
    sign = "-" if seconds > 0 else "+"
    assert f": {sign}" in line
    assert "Synchronize the clocks" in line
