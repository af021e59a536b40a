"""Migration files: names, numbers, statements, and the effects of statements."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.schema import SchemaError
from storage.schema.effects import Effect, effect_of
from storage.schema.files import parse_migration, read_migrations

BIRDS = "CREATE TABLE birds (name text PRIMARY KEY);\n"


def statements(text: str) -> list[str]:
    return [statement.bare for statement in parse_migration(text, "0001_birds.cql")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"birds.cql": BIRDS}, r"birds\.cql: the name of a migration is NNNN_name\.cql"),
        ({"0001_a.cql": BIRDS, "0003_c.cql": BIRDS}, r"0003_c\.cql: there is no migration 0002"),
        ({"0002_a.cql": BIRDS}, r"0002_a\.cql: there is no migration 0001"),
        ({"0001_a.cql": BIRDS, "0001_b.cql": BIRDS}, r"0001_a\.cql and 0001_b\.cql have the same number"),
        ({"0001_a.cql": ""}, r"0001_a\.cql: the file has no statement"),
        ({"0001_a.cql": "-- later;\n/* ; */\n"}, r"0001_a\.cql: the file has no statement"),
        ({"0001_a.cql": BIRDS + "\n;\n"}, r"0001_a\.cql:3: there is no statement before this semicolon"),
        ({"0001_a.cql": BIRDS + "-- b\n\nDROP TABLE\nbirds"}, r"0001_a\.cql:4: the statement has no semicolon"),
        ({"0001_a.cql": BIRDS + "\nINSERT INTO birds (name) VALUES ('x;"}, r"0001_a\.cql:3: ' is never closed"),
        ({"0001_a.cql": "/* \n" + BIRDS}, r"0001_a\.cql:1: /\* is never closed"),
        ({"0001_a.cql": BIRDS + "USE other;\n"}, r"0001_a\.cql:2: migrations can't contain this statement: USE other"),
        ({"0001_a.cql": "CREATE TABLE ks.birds (a int PRIMARY KEY);"}, r"0001_a\.cql:1: .* name of a keyspace"),
        ({"0001_a.cql": "UPDATE birds SET n = n + 1 WHERE name = '';"}, r"0001_a\.cql:1: .*: UPDATE birds"),
        ({"0001_a.cql": "CREATE INDEX i ON ks.birds (age);"}, r"0001_a\.cql:1: .* name of a keyspace"),
        ({"0001_a.cql": "INSERT INTO ks.birds (a) VALUES (1);"}, r"0001_a\.cql:1: .* name of a keyspace"),
        ({"0001_a.cql": "DELETE b['FROM c'] FROM ks . birds WHERE a = 1;"}, r"0001_a\.cql:1: .* name of a keyspace"),
        (
            {"0001_a.cql": "CREATE MATERIALIZED VIEW v AS SELECT a FROM ks.b WHERE a = 1 PRIMARY KEY (a);"},
            r"0001_a\.cql:1: .* name of a keyspace",
        ),
        (
            {"0001_a.cql": BIRDS + "CREATE INDEX ON birds (age);"},
            r"0001_a\.cql:2: an index in a migration needs a name",
        ),
        ({"0001_a.cql": BIRDS + "CREATE INDEX\nIF NOT EXISTS ON birds (age);"}, r"0001_a\.cql:2: .* needs a name"),
    ],
)
def test_invalid_files_are_rejected_with_file_and_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SchemaError, match=message):
        read_migrations(tmp_path)


def test_a_file_that_is_not_utf8_is_rejected_by_name(tmp_path: Path) -> None:
    (tmp_path / "0001_birds.cql").write_bytes(b"-- caf\xe9\n" + BIRDS.encode())
    with pytest.raises(SchemaError, match=r"0001_birds\.cql: the file is not UTF-8"):
        read_migrations(tmp_path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "0001_birds.cql").mkdir()
    with pytest.raises(SchemaError, match=r"0001_birds\.cql: the file can't be read \(Is a directory\)"):
        read_migrations(tmp_path)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    found = []
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "0001_birds.cql").write_bytes(mark + BIRDS.encode())
        (migration,) = read_migrations(tmp_path)
        found.append((migration.checksum, [each.cql for each in migration.statements]))
    assert found[0] == found[1]


def test_line_endings_do_not_change_statements_and_checksums(tmp_path: Path) -> None:
    """A checkout on Windows must not look like a changed migration."""
    text = "-- Birds;\nCREATE TABLE birds (\n    name text PRIMARY KEY\n);\nDROP TABLE birds;\n"
    found = []
    for directory, ending in (("lf", "\n"), ("crlf", "\r\n")):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "0001_birds.cql").write_bytes(text.replace("\n", ending).encode())
        (migration,) = read_migrations(tmp_path / directory)
        found.append((migration.checksum, [(each.bare, each.line) for each in migration.statements]))
    assert found[0] == found[1]
    assert [line for _, line in found[0][1]] == [2, 5]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO birds (name) VALUES ('a; -- b')",
        "INSERT INTO birds (name) VALUES ('it''s; /* not a comment')",
        'INSERT INTO birds ("a;b") VALUES (1)',
        "INSERT INTO birds (name) VALUES ($$a; 'b$$)",
    ],
)
def test_semicolons_and_comment_marks_in_quotes_belong_to_the_statement(text: str) -> None:
    assert statements(f"{text};DROP TABLE birds;") == [text, "DROP TABLE birds"]


@pytest.mark.parametrize("comment", ["-- a; b\n", "// a; 'b\n", "/* a;\n 'b */"])
def test_semicolons_and_quotes_in_comments_are_ignored(comment: str) -> None:
    assert statements(f"{comment}DROP {comment}TABLE birds;{comment}") == ["DROP TABLE birds"]


def test_the_mark_of_an_optional_statement_applies_to_one_statement() -> None:
    text = "DROP TABLE a;\n-- skip where refused: ScyllaDB has none.\nCREATE INDEX i ON b (c);\nDROP TABLE d;\n"
    assert [each.optional for each in parse_migration(text, "0001_a.cql")] == [False, True, False]


def test_the_mark_of_an_optional_statement_is_a_comment() -> None:
    """In a string it is data."""
    text = "INSERT INTO a (b) VALUES ('\n-- skip where refused: x\n');"
    assert not next(parse_migration(text, "0001_a.cql")).optional


def test_spaces_are_kept_in_quotes_only() -> None:
    assert statements("""ALTER  TABLE/* */t\nADD "a  b"  int;""") == ['ALTER TABLE t ADD "a  b" int']


def test_comments_do_not_change_the_checksum_of_a_statement() -> None:
    plain, commented = (
        next(parse_migration(text, "0001_a.cql")) for text in (BIRDS, "-- why\n" + BIRDS.replace(" (", " -- all\n("))
    )
    assert plain.checksum == commented.checksum


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        ("CREATE TABLE IF NOT EXISTS Birds (a int PRIMARY KEY)", Effect("table", "birds")),
        ('create table "Birds" (a int PRIMARY KEY)', Effect("table", "Birds")),
        ("CREATE TYPE place (x int)", Effect("type", "place")),
        ("CREATE CUSTOM INDEX IF NOT EXISTS i ON birds (a) USING 'sai'", Effect("index", "i")),
        ("CREATE INDEX on_age ON birds (age)", Effect("index", "on_age")),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM birds", Effect("view", "v")),
        ("DROP TABLE IF EXISTS birds", Effect("table", "birds", exists=False)),
        ("DROP INDEX i", Effect("index", "i", exists=False)),
        ("ALTER TABLE birds ADD (a int, b int)", Effect("column", "birds", "a")),
        ("ALTER TABLE birds ADD(a int)", Effect("column", "birds", "a")),
        ("ALTER TABLE birds ADD IF NOT EXISTS a int", Effect("column", "birds", "a")),
        ("ALTER TABLE birds DROP a", Effect("column", "birds", "a", exists=False)),
        ("ALTER TABLE birds RENAME a TO b", Effect("column", "birds", "a", exists=False)),
        ("ALTER TYPE place ADD y int", Effect("field", "place", "y")),
        ("ALTER TYPE place RENAME x TO y", Effect("field", "place", "x", exists=False)),
        ("ALTER TABLE birds WITH comment = 'x'", Effect(None)),
        ("INSERT INTO birds (a) VALUES (1)", Effect(None)),
        ("DELETE FROM birds WHERE a = 1", Effect(None)),
        ("DELETE tags['a.b'] FROM birds WHERE a = 'FROM b.c'", Effect(None)),
    ],
)
def test_the_effect_of_a_statement_is_found_in_its_text(statement: str, effect: Effect) -> None:
    assert effect_of(statement) == effect
