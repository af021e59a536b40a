"""storage/db_initialize.py: creates what is missing, any number of times, and brings nothing back."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cassandra.cluster import Session

from settings import Settings
from storage import db_initialize, sample_data
from storage.db_initialize import InitializeError, initialize, parse_migration
from tests.support import PROJECT, clean_environment


@pytest.fixture
def empty(settings: Settings, session: Session) -> Iterator[Settings]:
    """Settings with the name of a keyspace that does not exist yet."""
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    yield settings.model_copy(update={"cassandra_keyspace": name})
    session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


def quiet(line: str) -> None:
    """Takes a line of progress and drops it."""


@pytest.mark.parametrize("command", [["storage/db_initialize.py"], ["-m", "storage.db_initialize"]])
def test_as_a_command(empty: Settings, session: Session, command: list[str]) -> None:
    """Run as a file and as a module it makes keyspace, tables and rows, says what it does, and can be repeated."""
    keyspace = empty.cassandra_keyspace
    variables = {
        "CASSANDRA_HOSTS": ",".join(empty.cassandra_hosts),
        "CASSANDRA_PORT": str(empty.cassandra_port),
        "CASSANDRA_KEYSPACE": keyspace,
    }
    for said in ("created", "there already"):
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
        assert f"keyspace {keyspace}: {said}" in run.stdout
        assert "sample rows" in run.stdout
    animals = list(session.execute(f"SELECT genus, taxonomy FROM {keyspace}.animals"))
    assert len(animals) >= 20
    assert len({genus for genus, _ in animals}) >= 8
    assert all(taxonomy for _, taxonomy in animals)
    hawkweeds = session.execute(f"SELECT COUNT(*) FROM {keyspace}.plants WHERE genus = 'Hieracium'").one()[0]
    assert hawkweeds == sample_data.HAWKWEEDS >= 10_000


def test_samples_do_not_undo_what_was_done_since(empty: Settings, session: Session) -> None:
    """A row that was deleted or changed stays so, also when an interrupted run is finished later."""
    initialize(empty, say=quiet)
    keyspace = empty.cassandra_keyspace
    session.execute(f"DELETE FROM {keyspace}.animals WHERE genus = 'Lynx' AND species = 'lynx'")
    session.execute(f"UPDATE {keyspace}.plants SET sightings = 999 WHERE genus = 'Quercus' AND species = 'robur'")
    for _ in range(2):
        initialize(empty, say=quiet)
        # As if the run before had not come to its end.
        session.execute(f"DELETE FROM {keyspace}.schema_migrations WHERE name = 'sample rows'")
    lynxes = {row[0] for row in session.execute(f"SELECT species FROM {keyspace}.animals WHERE genus = 'Lynx'")}
    assert lynxes == {"pardinus", "rufus", "canadensis"}
    oaks = session.execute(f"SELECT sightings FROM {keyspace}.plants WHERE genus = 'Quercus' AND species = 'robur'")
    assert oaks.one()[0] == 999


def test_two_at_the_same_time(empty: Settings, session: Session) -> None:
    """Instances that are deployed together and initialize together end with one schema that works."""
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: initialize(empty, say=quiet), range(3)))
    assert len(list(session.execute(f"SELECT genus FROM {empty.cassandra_keyspace}.animals"))) >= 20


def test_a_changed_migration_is_refused(
    empty: Settings, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that was applied and then edited is named; nothing is applied after it."""
    monkeypatch.setattr(db_initialize, "MIGRATIONS", tmp_path)
    (tmp_path / "0001_birds.cql").write_text("CREATE TABLE IF NOT EXISTS birds (name text PRIMARY KEY);\n")
    initialize(empty, samples=False, say=quiet)
    (tmp_path / "0001_birds.cql").write_text("CREATE TABLE IF NOT EXISTS birds (name text PRIMARY KEY, age int);\n")
    (tmp_path / "0002_nests.cql").write_text("CREATE TABLE IF NOT EXISTS nests (name text PRIMARY KEY);\n")
    with pytest.raises(InitializeError, match=r"0001_birds\.cql"):
        initialize(empty, samples=False, say=quiet)
    tables = session.execute(
        "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (empty.cassandra_keyspace,)
    )
    assert "nests" not in {name for (name,) in tables}


def test_what_a_server_may_refuse(
    empty: Settings, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement marked as optional is skipped aloud where the server refuses it; another stops the run."""
    monkeypatch.setattr(db_initialize, "MIGRATIONS", tmp_path)
    table = "CREATE TABLE IF NOT EXISTS birds (name text PRIMARY KEY, age int);\n"
    index = "CREATE CUSTOM INDEX IF NOT EXISTS birds_age ON birds (age) USING 'NoSuchIndex';\n"
    (tmp_path / "0001_birds.cql").write_text(table + "-- skip where refused: for the test\n" + index)
    said: list[str] = []
    initialize(empty, samples=False, say=said.append)
    assert any(line.startswith("skipped, this server refuses it") for line in said)
    assert "migration 0001_birds.cql: applied" in said
    (tmp_path / "0002_more.cql").write_text(index)
    with pytest.raises(Exception, match="NoSuchIndex"):
        initialize(empty, samples=False, say=quiet)


def test_the_keyspace_is_not_made_on_astra(empty: Settings, session: Session) -> None:
    """Where only the console makes keyspaces, a missing one is a sentence about what to do."""
    astra = empty.model_copy(update={"astra_db_secure_bundle_path": Path("/dev/null")})
    with pytest.raises(InitializeError, match="Astra console"):
        db_initialize.create_keyspace(session, astra, quiet)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"cassandra_port": 1}, "Connection refused"),
        ({"cassandra_hosts": ("no.such.host.invalid",)}, "no address is known for no.such.host.invalid"),
        ({"cassandra_local_dc": "dc9"}, "no node is in CASSANDRA_LOCAL_DC=dc9; those that answer are in "),
    ],
)
def test_cassandra_that_is_not_there(empty: Settings, change: dict[str, object], reason: str) -> None:
    """Who can't connect is told why, in a sentence."""
    with pytest.raises(InitializeError, match=f"can't be reached: .*{reason}"):
        initialize(empty.model_copy(update=change), say=quiet)


def test_parsing_of_migrations() -> None:
    """Statements end with a semicolon at the end of a line; comments stay; the mark belongs to its statement."""
    text = "-- a; comment;\nCREATE TABLE a (\n  -- in it;\n  b int\n);\n\n"
    text += "-- skip where refused: x\nCREATE INDEX i;\nDROP TABLE a;\n"
    statements = list(parse_migration(text))
    assert [statement.optional for statement in statements] == [False, True, False]
    assert statements[0].cql.endswith("b int\n);")


@pytest.mark.parametrize("text", ["CREATE TABLE a;\nCREATE TABLE b", "CREATE TABLE a"])
def test_a_statement_without_an_end(text: str) -> None:
    """A statement that would be left out in silence is an error."""
    with pytest.raises(InitializeError, match="semicolon"):
        list(parse_migration(text))
    assert len(list(parse_migration("CREATE TABLE a; -- for birds\n-- the end\n"))) == 1
