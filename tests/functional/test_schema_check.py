"""storage/schema.json matches the migrations, and `check` reports each difference of a keyspace from it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from cassandra.cluster import Session

from dev.schema import STALE, VERSION, as_text, generate, release_version, stale
from storage.cql import Statement
from storage.db_io import idempotency
from storage.schema import SchemaError
from storage.schema.description import SCHEMA_FILE, Description, check, compare, describe, read

# Makes a keyspace with a table `schema_migrations` and the result of these statements. Each ends with a semicolon.
MakeKeyspace = Callable[[str], Session]


@pytest.fixture
def make(session: Session) -> Iterator[MakeKeyspace]:
    with ExitStack() as stack:

        def make_keyspace(statements: str) -> Session:
            name = f"fieldbook_test_{uuid.uuid4().hex[:12]}"
            own = stack.enter_context(session.cluster.connect())
            replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
            own.execute(f"CREATE KEYSPACE {name} WITH replication = {replication}", timeout=60)
            stack.callback(session.execute, f"DROP KEYSPACE {name}", timeout=60)
            own.set_keyspace(name)
            run(own, f"CREATE TABLE schema_migrations (name text PRIMARY KEY); {statements}")
            return own

        yield make_keyspace


def run(session: Session, statements: str) -> None:
    for statement in statements.split(";")[:-1]:
        session.execute(statement, timeout=60)


def described(session: Session) -> Description:
    """The description of the session's keyspace, as storage/schema.json would have it."""
    return json.loads(as_text(describe(session, session.keyspace)))


def test_schema_file_is_not_stale(session: Session) -> None:
    generated, written = generate(session.cluster), read()
    is_exact = release_version(session.cluster).startswith(VERSION)
    assert not stale(generated, written, is_exact), STALE
    assert SCHEMA_FILE.read_text() == as_text(written), STALE
    # A file that lacks an option that a migration sets is stale.
    del written["tables"]["idempotency_keys"]["options"]["speculative_retry"]
    assert stale(generated, written, is_exact)


def test_a_new_keyspace_has_no_differences(migrated: str, session: Session) -> None:
    assert check(session, migrated).differences == []


def test_check_reports_a_missing_column_and_the_statements_that_use_it(migrated: str, session: Session) -> None:
    session.execute(f"ALTER TABLE {migrated}.idempotency_keys DROP finished", timeout=60)
    try:
        found = check(session, migrated).differences
    finally:
        session.execute(f"ALTER TABLE {migrated}.idempotency_keys ADD finished boolean", timeout=60)
    column, *statements = found
    assert column == (
        "table idempotency_keys: column finished is missing in the keyspace, boolean in storage/schema.json"
    )
    assert len(statements) == 2
    for name, sentence in zip(("select_idempotency_key", "finish_idempotency_key"), statements, strict=True):
        start = f"statement {name} of storage.db_io.idempotency: the server refuses it: Undefined column name finished"
        assert sentence.startswith(start)
        assert "\n" not in sentence


def test_check_prepares_statements_in_collections_and_objects(
    migrated: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Queries:
        def __init__(self) -> None:
            self.select = Statement("in_an_object", "SELECT a FROM {keyspace}.idempotency_keys")

    Queries.__module__ = idempotency.__name__
    in_a_dict = {"key": (Statement("in_a_dict", "SELECT b FROM {keyspace}.idempotency_keys"),)}
    monkeypatch.setattr(idempotency, "QUERIES", [in_a_dict, Queries()], raising=False)
    monkeypatch.setattr(
        idempotency, "INVALID", Statement("invalid", "SELEC c FROM {keyspace}.idempotency_keys"), raising=False
    )
    found = check(session, migrated).differences
    assert [sentence.split()[1] for sentence in found] == ["in_a_dict", "in_an_object", "invalid"]


def test_each_difference_is_reported_by_one_sentence(make: MakeKeyspace) -> None:
    expected = make(
        """
        CREATE TYPE size (width int, height int);
        CREATE TYPE color (name text);
        CREATE TABLE columns (id uuid PRIMARY KEY, removed text, age int, tags frozen<list<text>>, size frozen<size>);
        CREATE TABLE keys (a int, b int, PRIMARY KEY ((a, b)));
        CREATE TABLE orders (a int, b int, c int, d int, PRIMARY KEY (a, b, c));
        CREATE TABLE indexes (id uuid PRIMARY KEY, a int, b int, c int);
        CREATE INDEX removed ON indexes (a);
        CREATE INDEX changed ON indexes (b);
        CREATE TABLE options (id uuid PRIMARY KEY, a int) WITH gc_grace_seconds = 3600
            AND compaction = {'class': 'TimeWindowCompactionStrategy'} AND speculative_retry = '50ms';
        CREATE TABLE removed (id uuid PRIMARY KEY);
        """
    )
    found = make(
        """
        CREATE TYPE size (width bigint, depth int);
        CREATE TYPE shape (name text);
        CREATE TABLE columns (id uuid PRIMARY KEY, added text, age bigint, tags list<text>, size frozen<size>);
        CREATE TABLE keys (a int, b int, PRIMARY KEY ((b, a)));
        CREATE TABLE orders (a int, b int, c int, d int static, PRIMARY KEY (a, b, c))
            WITH CLUSTERING ORDER BY (b DESC, c ASC);
        CREATE TABLE indexes (id uuid PRIMARY KEY, a int, b int, c int);
        CREATE INDEX added ON indexes (a);
        CREATE INDEX changed ON indexes (c);
        CREATE TABLE options (id uuid PRIMARY KEY, a int) WITH default_time_to_live = 60
            AND compression = {'enabled': 'false'};
        CREATE TABLE added (id uuid PRIMARY KEY);
        """
    )
    sentences = [
        "table added is in the keyspace, but not in storage/schema.json",
        "table columns: column added is text in the keyspace, missing in storage/schema.json",
        "table columns: column age is bigint in the keyspace, int in storage/schema.json",
        "table columns: column removed is missing in the keyspace, text in storage/schema.json",
        "table columns: column tags is list<text> in the keyspace, frozen<list<text>> in storage/schema.json",
        "table indexes: index added is kind COMPOSITES, target a in the keyspace, missing in storage/schema.json",
        "table indexes: index changed is kind COMPOSITES, target c in the keyspace, kind COMPOSITES, target b in "
        "storage/schema.json",
        "table indexes: index removed is missing in the keyspace, kind COMPOSITES, target a in storage/schema.json",
        "table keys: partition key is (b, a) in the keyspace, (a, b) in storage/schema.json",
        "table options: option compaction.class is the server's default in the keyspace, TimeWindowCompactionStrategy "
        "in storage/schema.json",
        "table options: option compression.chunk_length_in_kb is not set in the keyspace, the server's default in "
        "storage/schema.json",
        "table options: option compression.class is not set in the keyspace, the server's default in "
        "storage/schema.json",
        "table options: option compression.enabled is false in the keyspace, the server's default in "
        "storage/schema.json",
        "table options: option default_time_to_live is 60 in the keyspace, the server's default in storage/schema.json",
        "table options: option gc_grace_seconds is the server's default in the keyspace, 3600 in storage/schema.json",
        "table options: option speculative_retry is the server's default in the keyspace, 50ms in storage/schema.json",
        "table orders: clustering key is (b DESC, c ASC) in the keyspace, (b ASC, c ASC) in storage/schema.json",
        "table orders: column d is int static in the keyspace, int in storage/schema.json",
        "table removed is in storage/schema.json, but not in the keyspace",
        "type color is in storage/schema.json, but not in the keyspace",
        "type shape is in the keyspace, but not in storage/schema.json",
        "type size: field depth is int in the keyspace, missing in storage/schema.json",
        "type size: field height is missing in the keyspace, int in storage/schema.json",
        "type size: field width is bigint in the keyspace, int in storage/schema.json",
    ]
    found_differences, notes = compare(described(expected), described(found))
    assert found_differences == sentences
    assert notes == []
    assert compare(described(expected), described(expected)) == ([], [])


def test_the_tables_of_the_runner_are_not_compared_but_required(make: MakeKeyspace) -> None:
    own = make("CREATE TABLE schema_lock (name text PRIMARY KEY);")
    assert described(own)["tables"] == {}
    run(own, "DROP TABLE schema_migrations;")
    with pytest.raises(SchemaError, match="has no table schema_migrations: apply the migrations first"):
        check(own, own.keyspace)


def test_an_unreadable_schema_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text("{")
    for name in ("schema.json", "missing.json"):
        with pytest.raises(SchemaError, match=rf"{name} can't be read: .*`make schema` writes it"):
            read(tmp_path / name)


BIRDS = "CREATE TABLE birds (name text PRIMARY KEY, age int, nick text);\n"
OPTIONAL = "-- skip where refused: for the test\n"


def test_missing_optional_items_are_notes(session: Session, make: MakeKeyspace, tmp_path: Path) -> None:
    optional = f"{OPTIONAL}CREATE INDEX birds_age ON birds (age);\n"
    optional += f"{OPTIONAL}CREATE TABLE eggs (name text PRIMARY KEY);\n"
    optional += f"{OPTIONAL}CREATE CUSTOM INDEX refused ON birds (nick) USING 'NoSuchIndex';\n"
    (tmp_path / "0001_birds.cql").write_text(BIRDS + optional)
    refused: list[str] = []
    expected = generate(session.cluster, tmp_path, say=refused.append)
    assert expected["optional"] == ["table birds: index birds_age", "table eggs"]
    (line,) = refused
    assert line.startswith("0001_birds.cql:7: this server refuses an optional statement: Unable to find custom indexer")

    own = make(BIRDS)
    differences, (index, table) = compare(expected, described(own))
    assert differences == []
    assert table == "table eggs is missing in the keyspace; it is optional, because some servers refuse it"
    sentence, _, cql = index.partition(". To create it: ")
    assert sentence == (
        "table birds: index birds_age is missing in the keyspace; it is optional, because some servers refuse it"
    )
    assert cql == "CREATE INDEX IF NOT EXISTS birds_age ON birds (age);"
    run(own, cql)
    assert compare(expected, described(own)) == ([], [table])
    run(own, "DROP INDEX birds_age; CREATE INDEX birds_age ON birds (nick);")
    assert len(compare(expected, described(own)).differences) == 1


@pytest.mark.parametrize(
    ("statements", "message"),
    [
        (
            f"{OPTIONAL}CREATE TABLE eggs (name text PRIMARY KEY);\nALTER TABLE eggs ADD age int;\n",
            r"^0001_birds\.cql:4: Cassandra refuses this statement, without the statements marked `skip where refused`:"
            r"\nALTER TABLE eggs ADD age int\n",
        ),
        (
            f"{OPTIONAL}ALTER TABLE birds DROP nick;\n",
            "^table birds: column nick is text only where the statements marked `skip where refused` are refused",
        ),
    ],
    ids=["depends on an optional statement", "drops a column"],
)
def test_migrations_that_schema_json_cannot_describe_are_errors(
    session: Session, tmp_path: Path, statements: str, message: str
) -> None:
    (tmp_path / "0001_birds.cql").write_text(BIRDS + statements)
    with pytest.raises(SchemaError, match=message):
        generate(session.cluster, tmp_path)
