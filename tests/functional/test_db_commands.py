"""`flask --app api db`: output, exit status and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from cassandra.cluster import Session
from click.testing import CliRunner

from commands import db
from settings import Settings
from storage.db_initialize import admin_session
from storage.schema import SchemaError
from storage.schema.files import read_migrations
from tests.support import PRODUCT, PROJECT, Service, clean_environment, wait_for

NAMES = [migration.name for migration in read_migrations()]


@pytest.fixture
def variables(settings: Settings, session: Session) -> Iterator[dict[str, str]]:
    """Environment variables that name a keyspace that does not exist yet."""
    name = f"fieldbook_test_{uuid4().hex[:12]}"
    yield {
        "CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "CASSANDRA_PORT": str(settings.cassandra_port),
        "CASSANDRA_KEYSPACE": name,
    }
    session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


def flask(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flask --app api db …` in production, where a server would need SECRET_KEY."""
    return subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "db", *arguments],
        cwd=PROJECT,
        env=clean_environment() | {"APP_ENV": "production"} | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def document(run: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return json.loads(run.stdout)


@pytest.mark.slow
def test_commands_report_a_missing_a_partial_and_a_current_schema(variables: dict[str, str]) -> None:
    before = document(flask(variables, "current", "--json"))
    place = {
        "keyspace": variables["CASSANDRA_KEYSPACE"],
        "server": f"{variables['CASSANDRA_HOSTS']}:{variables['CASSANDRA_PORT']}",
    }
    assert before == {**place, "current": None, "pending": NAMES, "interrupted": []}
    heading = "keyspace {keyspace} at {server}".format(**place)
    first = flask(variables, "upgrade", "1")
    assert (first.returncode, first.stderr) == (0, "")
    assert f"migration {NAMES[0]}: applied\n" in first.stdout
    assert flask(variables, "current").stdout.splitlines() == [
        heading,
        NAMES[0],
        *(f"pending: {name}" for name in NAMES[1:]),
    ]
    rest = flask(variables, "upgrade", "--json")
    assert document(rest) == {"applied": NAMES[1:]}
    assert f"migration {NAMES[1]}: applied\n" in rest.stderr
    assert flask(variables, "current").stdout == f"{heading}\n{NAMES[-1]} (head)\n"
    migrations = document(flask(variables, "history", "--json"))["migrations"]
    assert [each["name"] for each in migrations] == NAMES
    assert all(each["applied_at"] and each["applied_by"] and each["duration_ms"] is not None for each in migrations)
    assert flask(variables, "history").stdout.count(" s  ") == len(NAMES)
    assert document(flask(variables, "check", "--json"))["differences"] == []


@pytest.mark.slow
def test_check_fails_for_a_keyspace_that_differs(variables: dict[str, str], session: Session) -> None:
    """A keyspace without the last migration, and with one more column."""
    assert flask(variables, "check").returncode == 1
    assert flask(variables, "upgrade", str(len(NAMES) - 1)).returncode == 0
    session.execute(f"ALTER TABLE {variables['CASSANDRA_KEYSPACE']}.diagnostics ADD extra int", timeout=60)
    run = flask(variables, "check")
    assert run.returncode == 1
    assert f"migration {NAMES[-1]} is pending" in run.stdout
    assert "table diagnostics: column extra is int in the keyspace, missing in storage/schema.json" in run.stdout


@pytest.mark.parametrize(
    ("arguments", "changed", "status", "message"),
    [
        (["upgrade", "99"], {}, 1, "There is no migration 99"),
        (["upgrade", "last"], {}, 2, "expected `head` or the number of a migration"),
        (["upgrade"], {"CASSANDRA_PORT": "1"}, 1, "can't be reached"),
        (["upgrade"], {"CASSANDRA_PORT": "x"}, 2, "CASSANDRA_PORT"),
        (["revision"], {}, 2, "--message"),
        (["revision", "-m", "!"], {}, 2, "it needs a letter or a digit"),
    ],
)
def test_errors_are_one_message_on_standard_error(
    variables: dict[str, str], arguments: list[str], changed: dict[str, str], status: int, message: str
) -> None:
    run = flask(variables | changed, *arguments)
    assert run.returncode == status, run.stderr
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_with_json_an_error_is_a_document(variables: dict[str, str]) -> None:
    run = flask(variables | {"CASSANDRA_PORT": "1"}, "upgrade", "--json")
    assert run.returncode == 1
    assert "can't be reached" in str(document(run)["error"])


def test_a_new_revision_gets_the_next_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file has no statement yet, so no upgrade applies it by mistake."""
    (tmp_path / "0001_birds.cql").write_text("CREATE TABLE birds (name text PRIMARY KEY);\n")
    monkeypatch.setattr(db, "MIGRATIONS", tmp_path)
    result = CliRunner().invoke(db.group, ["revision", "-m", "Add an age, in years", "--json"])
    assert json.loads(result.stdout) == {"created": "0002_add_an_age_in_years.cql"}
    assert (tmp_path / "0002_add_an_age_in_years.cql").read_text().startswith("-- Add an age, in years\n")
    with pytest.raises(SchemaError, match=r"0002_add_an_age_in_years\.cql: the file has no statement"):
        read_migrations(tmp_path)


@pytest.mark.slow
def test_a_service_with_an_older_schema_reports_pending_migrations(
    start: Callable[..., Service], variables: dict[str, str]
) -> None:
    """It serves, warns in the log, and notices the upgrade without a restart."""
    assert flask(variables, "upgrade", str(len(NAMES) - 1)).returncode == 0
    running = start(variables, app=PRODUCT)
    health = running.client.get("/health")
    assert (health.status_code, health.json()["pending_migrations"]) == (200, NAMES[-1:])
    wait_for(lambda: "flask --app api db upgrade" in running.log_text(), description="the command in the log")
    assert flask(variables, "upgrade").returncode == 0
    wait_for(
        lambda: running.client.get("/health").json()["pending_migrations"] == [], description="the schema to be current"
    )


def test_errors_of_the_driver_become_errors_of_the_command(settings: Settings) -> None:
    with pytest.raises(SchemaError, match=r"does not answer as expected: .*no_such"), admin_session(settings) as admin:
        admin.execute("SELECT * FROM no_such.table_at_all")


def test_only_commands_of_the_service_need_no_secret_key() -> None:
    """`flask run` serves requests, so it refuses to start without SECRET_KEY."""
    run = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "api", "run", "--port", "0"],
        cwd=PROJECT,
        env=clean_environment() | {"APP_ENV": "production"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode != 0
    assert "SECRET_KEY is required when APP_ENV=production" in run.stderr
