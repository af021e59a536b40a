"""The migration runner on a real node: lock, history, interruptions, errors."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from cassandra import InvalidRequest, OperationTimedOut
from cassandra.cluster import Session
from cassandra.protocol import ConfigurationException

from settings import Settings
from storage.db_connect import open_session
from storage.schema import SchemaError, history, lock, runner
from storage.schema.description import check
from storage.schema.files import MIGRATIONS, read_migrations
from storage.schema.lock import LeaseLost, Lock
from storage.schema.runner import upgrade
from storage.schema.transactions import execute_ddl, has_table
from tests.support import PROJECT, wait_for

# Seconds. Long enough for a busy machine, which renews the lease late.
LEASE = 3

BIRDS = "CREATE TABLE birds (name text PRIMARY KEY);\n"


@pytest.fixture(scope="module")
def admin(settings: Settings) -> Iterator[Session]:
    """A session whose keyspace each test replaces."""
    session = open_session(settings, None)
    yield session
    session.cluster.shutdown()


@pytest.fixture
def empty(admin: Session) -> Iterator[Session]:
    """A session with a new keyspace that has no tables."""
    name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
    admin.execute(
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}", timeout=60
    )
    admin.set_keyspace(name)
    yield admin
    admin.execute(f"DROP KEYSPACE {name}", timeout=60)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., None]:
    """Write migrations: `write("0001_birds", "CREATE …;")`."""

    def write_file(name: str, text: str) -> None:
        (tmp_path / f"{name}.cql").write_text(text)

    return write_file


def apply(session: Session, directory: Path, **arguments: object) -> tuple[list[str], list[str]]:
    """Return the applied files and the printed lines."""
    printed: list[str] = []
    return upgrade(session, read_migrations(directory), printed.append, lease=LEASE, **arguments), printed


def columns(session: Session, table: str) -> set[str]:
    select = "SELECT column_name FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s"
    return {name for (name,) in session.execute(select, (session.keyspace, table))}


# --- order and history -------------------------------------------------------------------------------------


def test_each_migration_is_applied_once_up_to_the_target(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    write("0001_birds", BIRDS)
    # Cassandra requires the line break after the comment.
    write("0002_age", "ALTER TABLE birds ADD age int -- in years\n;\n")
    assert apply(empty, tmp_path, target=1)[0] == ["0001_birds.cql"]
    assert columns(empty, "birds") == {"name"}
    assert apply(empty, tmp_path)[0] == ["0002_age.cql"]
    assert apply(empty, tmp_path)[0] == []
    entries = history.read(empty)
    assert list(entries) == ["0001_birds.cql", "0002_age.cql"]
    for migration in read_migrations(tmp_path):
        entry = entries[migration.name]
        assert entry.sha256 == migration.checksum
        assert entry.applied_by == Lock(empty).instance
        assert entry.duration_ms is not None
        assert entry.applied_at is not None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0001_birds": BIRDS + "-- x\n"}, r"0001_birds\.cql has changed since it was applied"),
        (
            {"0001_birds": None, "0001_owls": BIRDS},
            r"0001_owls\.cql: .* another migration with this number, 0001_birds",
        ),
    ],
    ids=["edited", "renamed"],
)
def test_changed_migrations_are_refused_before_anything_is_applied(
    empty: Session, write: Callable[..., None], tmp_path: Path, files: dict[str, str | None], message: str
) -> None:
    write("0001_birds", BIRDS)
    apply(empty, tmp_path)
    for name, text in files.items():
        if text is None:
            (tmp_path / f"{name}.cql").unlink()
        else:
            write(name, text)
    write("0002_nests", "CREATE TABLE nests (name text PRIMARY KEY);\n")
    with pytest.raises(SchemaError, match=message):
        apply(empty, tmp_path)
    assert not columns(empty, "nests")


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "interrupted"])
def test_a_migration_that_was_applied_in_part_must_keep_its_name(
    empty: Session, write: Callable[..., None], tmp_path: Path, is_refused: bool
) -> None:
    """Under another name, the runner would repeat the statements that are done."""
    write("0001_birds", BIRDS + "ALTER TABLE birds ADD age no_such_type;\n")
    if is_refused:
        with pytest.raises(SchemaError, match="no_such_type"):
            apply(empty, tmp_path)
    else:
        _leave_started(empty, tmp_path, done=0)
    (tmp_path / "0001_birds.cql").unlink()
    write("0001_owls", "CREATE TABLE owls (name text PRIMARY KEY);\n")
    with pytest.raises(SchemaError, match=r"0001_owls\.cql: .* part of another migration .*, 0001_birds\.cql"):
        apply(empty, tmp_path)
    assert not columns(empty, "owls")


def test_a_new_migration_before_an_applied_one_is_refused(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    write("0001_birds", BIRDS)
    write("0002_nests", "CREATE TABLE nests (name text PRIMARY KEY);\n")
    apply(empty, tmp_path)
    empty.execute(f"DELETE FROM {history.TABLE} WHERE name = '0001_birds.cql'")
    with pytest.raises(SchemaError, match=r"0001_birds\.cql was not applied, but 0002_nests\.cql was"):
        apply(empty, tmp_path)


def test_migrations_of_a_newer_version_are_accepted(empty: Session, write: Callable[..., None], tmp_path: Path) -> None:
    """An older version that is deployed again has no file for them."""
    write("0001_birds", BIRDS)
    write("0002_nests", "CREATE TABLE nests (name text PRIMARY KEY);\n")
    apply(empty, tmp_path)
    (tmp_path / "0002_nests.cql").unlink()
    assert apply(empty, tmp_path)[0] == []


def test_the_history_of_version_0_2_0_is_continued(empty: Session, tmp_path: Path) -> None:
    """Its table has three columns and a random id. The migrations of 0.2.0 are the first four."""
    empty.execute("CREATE TABLE schema_migrations (name text PRIMARY KEY, sha256 text, applied_at timestamp)")
    insert = "INSERT INTO schema_migrations (name, sha256, applied_at) VALUES (%s, %s, toTimestamp(now()))"
    migrations = read_migrations()
    for migration in migrations[:4]:
        for statement in migration.statements:
            with suppress(InvalidRequest, ConfigurationException) if statement.optional else nullcontext():
                empty.execute(statement.cql, timeout=60)
        empty.execute(insert, (migration.name, migration.checksum))
    assert apply(empty, MIGRATIONS)[0] == [migration.name for migration in migrations[4:]]
    assert all(entry.is_complete for entry in history.read(empty).values())
    assert check(empty, empty.keyspace).differences == []


@pytest.mark.parametrize("version", range(1, len(read_migrations())))
def test_upgrades_from_each_earlier_version_give_the_same_schema(empty: Session, version: int) -> None:
    apply(empty, MIGRATIONS, target=version)
    applied, _ = apply(empty, MIGRATIONS)
    assert applied == [migration.name for migration in read_migrations()[version:]]
    assert check(empty, empty.keyspace).differences == []


# --- refused statements ------------------------------------------------------------------------------------


def test_a_refused_statement_is_named_and_the_next_run_continues_there(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    """The statements before it are not executed again: `ALTER TABLE … ADD` would fail the second time."""
    text = BIRDS + "ALTER TABLE birds ADD age int;\n\n-- wrong\nALTER TABLE birds ADD size no_such_type;\n"
    write("0001_birds", text)
    with pytest.raises(SchemaError, match=r"^0001_birds\.cql:5: Cassandra refuses the statement: .*no_such_type"):
        apply(empty, tmp_path)
    entry = history.read(empty)["0001_birds.cql"]
    assert not entry.is_complete
    assert (len(entry.done or []), entry.started) == (2, None)
    write("0001_birds", text.replace("no_such_type", "int"))
    assert apply(empty, tmp_path)[0] == ["0001_birds.cql"]
    assert columns(empty, "birds") == {"name", "age", "size"}


def test_a_syntax_error_is_reported_in_one_line(empty: Session, write: Callable[..., None], tmp_path: Path) -> None:
    write("0001_birds", BIRDS + "CREATE TABLE nests (name text PRIMARY KEY) WITH;\n")
    with pytest.raises(SchemaError, match=r"^0001_birds\.cql:2: Cassandra refuses the statement: ") as caught:
        apply(empty, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_existing_table_is_not_mistaken_for_the_result_of_a_migration(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    empty.execute("CREATE TABLE birds (id int PRIMARY KEY)", timeout=60)
    write("0001_birds", BIRDS)
    for _ in range(2):
        with pytest.raises(SchemaError, match=r"0001_birds\.cql:1: Cassandra refuses the statement"):
            apply(empty, tmp_path)


def test_changed_statements_of_an_incomplete_migration_are_refused(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    write("0001_birds", BIRDS + "ALTER TABLE birds ADD a no_such_type;\n")
    with pytest.raises(SchemaError):
        apply(empty, tmp_path)
    write("0001_birds", "CREATE TABLE owls (name text PRIMARY KEY);\n")
    with pytest.raises(SchemaError, match=r"0001_birds\.cql:1: this statement has changed since it was applied"):
        apply(empty, tmp_path)


def test_only_optional_statements_may_be_refused(empty: Session, write: Callable[..., None], tmp_path: Path) -> None:
    index = "CREATE CUSTOM INDEX i ON birds (age) USING 'NoSuchIndex';\n"
    write("0001_birds", BIRDS.replace(");", ", age int);") + "-- skip where refused: a test\n" + index)
    applied, printed = apply(empty, tmp_path)
    assert applied == ["0001_birds.cql"]
    assert any("0001_birds.cql:3: skipped, because this server refuses the statement" in line for line in printed)
    write("0002_index", index)
    with pytest.raises(SchemaError, match=r"0002_index\.cql:1: .*NoSuchIndex"):
        apply(empty, tmp_path)


# --- interruptions -----------------------------------------------------------------------------------------

# A runner in a process of its own. It prints each line of progress at once.
_RUN = """
import sys
from pathlib import Path
from environment import get_settings
from storage.db_connect import open_session
from storage.schema.files import read_migrations
from storage.schema.runner import upgrade
settings = get_settings()
session = open_session(settings, settings.cassandra_keyspace)
print("connected", flush=True)
upgrade(session, read_migrations(Path(sys.argv[1])), lambda line: print(line, flush=True), lease=int(sys.argv[2]))
session.cluster.shutdown()
"""


def run(session: Session, environment: dict[str, str], directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(directory), str(LEASE)],
        cwd=PROJECT,
        env=os.environ | environment | {"CASSANDRA_KEYSPACE": session.keyspace},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_runs_that_are_killed_at_any_time_can_be_repeated(
    empty: Session, environment: dict[str, str], write: Callable[..., None], tmp_path: Path
) -> None:
    """No statement of the file can be executed twice, so each must be applied exactly once over all runs."""
    names = [f"c{number}" for number in range(40)]
    write("0001_birds", BIRDS + "".join(f"ALTER TABLE birds ADD {name} int;\n" for name in names))
    write("0002_nests", "CREATE TABLE nests (name text PRIMARY KEY);\nALTER TABLE nests RENAME name TO place;\n")
    chance, kills = random.Random(15), 0
    while kills < 20:
        with run(empty, environment, tmp_path) as runner:
            assert runner.stdout is not None
            assert runner.stdout.readline() == "connected\n"
            try:
                runner.wait(chance.uniform(0, 0.4))
            except subprocess.TimeoutExpired:
                runner.kill()
                kills += 1
                # Simulate an expired lease. Another test waits for a real one.
                if has_table(empty, lock.TABLE):
                    empty.execute(f"DELETE FROM {lock.TABLE} WHERE name = 'schema'")
                continue
            # The runner finished before it was killed. Begin again with an empty keyspace.
            assert runner.returncode == 0, runner.stdout.read()
        assert columns(empty, "birds") == {"name", *names}
        for table in ("birds", "nests", history.TABLE):
            empty.execute(f"DROP TABLE {table}", timeout=60)
    apply(empty, tmp_path)
    assert all(entry.is_complete for entry in history.read(empty).values())
    assert columns(empty, "birds") == {"name", *names}
    assert columns(empty, "nests") == {"place"}


def test_a_statement_that_took_effect_before_the_interruption_is_not_repeated(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    """The state that a runner leaves when it is killed between a statement and its record."""
    write("0001_birds", BIRDS + "ALTER TABLE birds ADD age int;\nALTER TABLE birds DROP age;\n")
    _leave_started(empty, tmp_path, done=1)
    empty.execute("ALTER TABLE birds ADD age int", timeout=60)
    assert apply(empty, tmp_path)[0] == ["0001_birds.cql"]
    assert columns(empty, "birds") == {"name"}


def test_a_statement_that_had_no_effect_before_the_interruption_is_repeated(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    write("0001_birds", BIRDS + "ALTER TABLE birds ADD age int;\n")
    _leave_started(empty, tmp_path, done=1)
    apply(empty, tmp_path)
    assert columns(empty, "birds") == {"name", "age"}


def test_after_an_unknown_outcome_the_lock_stays_until_its_lease_expires(
    empty: Session, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement may still be in progress. The next run finds that it took effect."""

    def lose_response(session: Session, cql: str) -> None:
        execute_ddl(session, cql)
        raise OperationTimedOut()

    write("0001_birds", BIRDS)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "execute_ddl", lose_response)
        with pytest.raises(SchemaError, match=r"0001_birds\.cql:1: it is not known whether Cassandra executed"):
            apply(empty, tmp_path)
    assert empty.execute(f"SELECT owner FROM {lock.TABLE}").one() is not None
    # As if the lease had expired.
    empty.execute(f"DELETE FROM {lock.TABLE} WHERE name = 'schema'")
    assert apply(empty, tmp_path)[0] == ["0001_birds.cql"]


def test_a_statement_of_an_earlier_run_may_take_effect_late(
    empty: Session, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cassandra executes it after this run has looked for its effect, and then refuses the statement of this run."""

    def late(session: Session, cql: str) -> None:
        session.execute(cql, timeout=60)
        execute_ddl(session, cql)

    write("0001_birds", BIRDS + "ALTER TABLE birds ADD age int;\n")
    _leave_started(empty, tmp_path, done=1)
    monkeypatch.setattr(runner, "execute_ddl", late)
    assert apply(empty, tmp_path)[0] == ["0001_birds.cql"]


def _leave_started(session: Session, directory: Path, done: int) -> None:
    """Apply the first statements of the only migration, and record that the next one was sent."""
    history.create(session)
    (migration,) = read_migrations(directory)
    progress = history.Progress(session, history.read_one(session, migration.name), uuid.uuid4())
    for number, statement in enumerate(migration.statements[:done], 1):
        progress.start(number)
        session.execute(statement.cql, timeout=60)
        progress.done(statement.checksum, 0)
    progress.start(done + 1)


# --- lock --------------------------------------------------------------------------------------------------


def test_the_tables_of_the_runner_have_fixed_ids_and_the_lock_is_released(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    write("0001_birds", BIRDS)
    apply(empty, tmp_path)
    assert empty.execute(f"SELECT owner FROM {lock.TABLE}").one() is None
    select = "SELECT id FROM system_schema.tables WHERE keyspace_name = %s AND table_name = %s"
    for table in (lock.TABLE, history.TABLE):
        expected = uuid.uuid5(uuid.NAMESPACE_OID, f"{empty.keyspace}.{table}")
        assert empty.execute(select, (empty.keyspace, table)).one() == (expected,)


def test_a_runner_without_the_lock_executes_nothing_more(
    empty: Session, write: Callable[..., None], tmp_path: Path
) -> None:
    """Another runner acquires the lock between two migrations of this one."""

    def steal(line: str) -> None:
        if line == "migration 0001_birds.cql: applied":
            empty.execute(f"UPDATE {lock.TABLE} SET owner = uuid() WHERE name = 'schema' IF EXISTS")

    write("0001_birds", BIRDS)
    write("0002_nests", "CREATE TABLE nests (name text PRIMARY KEY);\n")
    with pytest.raises(LeaseLost, match="no longer has the lock"):
        upgrade(empty, read_migrations(tmp_path), steal, lease=LEASE)
    assert not columns(empty, "nests")


def test_only_the_runner_that_claimed_a_migration_last_can_record_progress(empty: Session) -> None:
    history.create(empty)
    unclaimed = history.read_one(empty, "0001_birds.cql")
    first = history.Progress(empty, unclaimed, uuid.uuid4())
    second = history.Progress(empty, history.read_one(empty, "0001_birds.cql"), uuid.uuid4())
    for write in (lambda: first.start(1), first.refused, lambda: first.done("checksum", 0)):
        with pytest.raises(LeaseLost, match="another runner has taken over"):
            write()
    with pytest.raises(LeaseLost, match="another runner has taken over"):
        history.Progress(empty, unclaimed, uuid.uuid4())
    second.start(1)


def test_a_second_runner_waits_for_the_first(empty: Session, write: Callable[..., None], tmp_path: Path) -> None:
    write("0001_birds", BIRDS)
    first = Lock(empty, LEASE)
    printed: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with first.held(print):
            second = pool.submit(upgrade, empty, read_migrations(tmp_path), printed.append, lease=LEASE)
            wait_for(lambda: printed, description="the second runner to wait")
            assert not columns(empty, "birds")
        assert second.result(30) == ["0001_birds.cql"]
    assert printed[0] == f"waiting for {first.instance}, which is changing the schema"


@pytest.mark.slow
def test_the_lease_is_renewed_as_long_as_its_owner_lives(empty: Session) -> None:
    """Two leases later, the lock still has the same owner."""
    owner, other = Lock(empty, LEASE), Lock(empty, LEASE)
    with owner.held(print):
        latest = time.monotonic() + 2 * LEASE
        wait_for(lambda: time.monotonic() > latest, timeout=3 * LEASE, description="two leases")
        owner.verify()
        with pytest.raises(LeaseLost, match="no longer has the lock"):
            other.verify()


@pytest.mark.slow
def test_a_runner_that_was_paused_for_longer_than_its_lease_executes_nothing_more(
    empty: Session, environment: dict[str, str], write: Callable[..., None], tmp_path: Path
) -> None:
    """Pause one runner in the middle of a file. Another one finishes the file. The first one then fails."""
    write("0001_birds", BIRDS)
    write("0002_columns", "".join(f"ALTER TABLE birds ADD c{number} int;\n" for number in range(40)))
    paused = run(empty, environment, tmp_path)
    assert paused.stdout is not None
    with paused:
        for line in paused.stdout:
            if line.startswith("migration 0001_birds.cql: applied"):
                break
        wait_for(lambda: "c1" in columns(empty, "birds"), description="the second statement")
        os.kill(paused.pid, signal.SIGSTOP)
        try:
            assert len(columns(empty, "birds")) < 40
            applied, printed = apply(empty, tmp_path)
            assert applied == ["0002_columns.cql"]
            assert printed[0].startswith("waiting for ")
            empty.execute("ALTER TABLE birds DROP c39", timeout=60)
        finally:
            os.kill(paused.pid, signal.SIGCONT)
        rest = paused.stdout.read()
        assert paused.wait(60) != 0
    assert re.search("LeaseLost|it is not known whether Cassandra executed the statement", rest), rest
    assert columns(empty, "birds") == {"name"} | {f"c{number}" for number in range(39)}
