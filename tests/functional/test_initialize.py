"""storage/db_initialize.py creates the keyspace, the tables and the sample rows.

It is safe to run more than once, and it does not restore deleted rows.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from cassandra.cluster import Session

from settings import Settings
from storage import db_initialize, sample_data
from storage.db_initialize import initialize
from storage.schema import SchemaError
from tests.support import PROJECT, clean_environment
from tests.testbed import sample_data as testbed_samples
from tests.testbed.database import TABLES
from tests.testbed.sample_data.finds import HAWKWEEDS


@pytest.fixture
def missing_keyspace(settings: Settings, session: Session) -> Iterator[Settings]:
    """Settings with the name of a keyspace that does not exist yet.

    It is dropped after the test.
    """
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    yield settings.model_copy(update={"cassandra_keyspace": name})
    session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


@pytest.fixture
def testbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of migrations with the tables of the testbed. `initialize()` inserts the testbed's sample rows."""
    (tmp_path / "0001_testbed.cql").write_text(TABLES.read_text().replace("{keyspace}.", ""))
    monkeypatch.setattr(db_initialize, "sample_data", testbed_samples)
    return tmp_path


def quiet(line: str) -> None:
    """Discard a line of progress output."""


@pytest.mark.parametrize(
    "command",
    [["storage/db_initialize.py"], pytest.param(["-m", "storage.db_initialize"], marks=pytest.mark.slow)],
    ids=["as a file", "as a module"],
)
def test_command_is_safe_to_run_more_than_once(
    missing_keyspace: Settings, session: Session, command: list[str]
) -> None:
    """The command creates keyspace, tables and rows, prints each step, and can be run again."""
    keyspace = missing_keyspace.cassandra_keyspace
    variables = {
        "CASSANDRA_HOSTS": ",".join(missing_keyspace.cassandra_hosts),
        "CASSANDRA_PORT": str(missing_keyspace.cassandra_port),
        "CASSANDRA_KEYSPACE": keyspace,
    }
    for printed in ("created", "exists already"):
        run = subprocess.run(
            [sys.executable, *command],
            cwd=PROJECT,
            env=clean_environment() | variables,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert f"keyspace {keyspace}: {printed}" in run.stdout
        tables = [module.name for module in pkgutil.iter_modules(sample_data.__path__)]
        assert all(f"sample rows of {table}: " in run.stdout for table in tables)
    for table in tables:
        expected = sum(1 for _ in import_module(f"storage.sample_data.{table}").rows())
        stored = session.execute(f"SELECT COUNT(*) FROM {keyspace}.{table}", timeout=30).one()[0]
        assert stored == expected > 0


def test_sample_rows_do_not_overwrite_later_changes(
    missing_keyspace: Settings, session: Session, testbed: Path
) -> None:
    """Sample rows that were deleted or changed stay as they are, even after an interrupted run."""
    initialize(missing_keyspace, say=quiet, directory=testbed)
    keyspace = missing_keyspace.cassandra_keyspace
    session.execute(f"DELETE FROM {keyspace}.finds WHERE genus = 'Quercus' AND species = 'petraea'")
    session.execute(f"UPDATE {keyspace}.finds SET sightings = 999 WHERE genus = 'Quercus' AND species = 'robur'")
    for _ in range(2):
        initialize(missing_keyspace, say=quiet, directory=testbed)
        # Simulate that this run was interrupted before it recorded the sample rows.
        for table in ("finds", "observers"):
            session.execute(f"DELETE FROM {keyspace}.schema_migrations WHERE name = 'sample rows: {table}'")
    oaks = set(session.execute(f"SELECT species, sightings FROM {keyspace}.finds WHERE genus = 'Quercus'"))
    assert oaks == {("robur", 999)}


@pytest.mark.slow
def test_concurrent_runs_insert_all_sample_rows(missing_keyspace: Settings, session: Session, testbed: Path) -> None:
    """Three instances that initialize at the same time leave one keyspace with all sample rows."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: initialize(missing_keyspace, say=quiet, directory=testbed), range(3)))
    finds = session.execute(f"SELECT COUNT(*) FROM {missing_keyspace.cassandra_keyspace}.finds").one()[0]
    assert finds == HAWKWEEDS + 3


def test_missing_astra_keyspace_error_names_the_console(missing_keyspace: Settings, session: Session) -> None:
    """Only the Astra console creates keyspaces, so the error message refers to it."""
    astra = missing_keyspace.model_copy(update={"astra_db_secure_bundle_path": Path("/dev/null")})
    with pytest.raises(SchemaError, match="Astra console"):
        db_initialize.create_keyspace(session, astra, quiet)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"cassandra_port": 1}, "Connection refused"),
        ({"cassandra_hosts": ("no.such.host.invalid",)}, "no address is known for no.such.host.invalid"),
        ({"cassandra_local_dc": "dc9"}, "no node is in CASSANDRA_LOCAL_DC=dc9; the nodes that answer are in "),
    ],
    ids=["port closed", "unknown host name", "unknown data center"],
)
def test_connection_errors_name_their_cause(missing_keyspace: Settings, change: dict[str, object], cause: str) -> None:
    """A failed connection raises SchemaError with the cause in one sentence."""
    with pytest.raises(SchemaError, match=f"can't be reached: .*{cause}"):
        initialize(missing_keyspace.model_copy(update=change), say=quiet)
