"""Migrations: numbered `.cql` files, split into statements.

A file is named `NNNN_name.cql`. The numbers begin at 1 and have no gaps. Each statement ends with a semicolon. The
comment `-- skip where refused: REASON` before or in a statement marks it as optional: a server that refuses the
statement does not fail the migration.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from storage.schema import SchemaError
from storage.schema.effects import Effect, effect_of

MIGRATIONS = Path(__file__).resolve().parents[1] / "migrations"

FILE_NAME = re.compile(r"(\d{4,})_\w+\.cql", re.ASCII)
_OPTIONAL = "-- skip where refused"

# The tokens that decide where a statement ends. An opening quote or comment that none of these closes is an error.
_TOKEN = re.compile(
    r"""
    (?P<comment> --[^\n]* | //[^\n]* | /\*.*?\*/ )
    | (?P<quoted> '(?:[^']|'')*' | "(?:[^"]|"")*" | \$\$.*?\$\$ )
    | (?P<unclosed> /\* | ' | " | \$\$ )
    | (?P<end> ; )
    | (?P<space> \s+ )
    | (?P<other> [^\s;'"$/-]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)


class MigrationStatement:
    """One statement of a migration.

    :ivar cql: the text, with its comments and without its semicolon.
    :ivar bare: the text without comments, with one space between words. Quoted text is unchanged.
    :ivar optional: servers that refuse the statement do not fail the migration.
    :ivar line: number of its first line in the file.
    """

    def __init__(self, cql: str, bare: str, optional: bool, line: int) -> None:
        self.cql, self.bare, self.optional, self.line = cql, bare, optional, line

    @property
    def checksum(self) -> str:
        """SHA-256 of the statement without comments."""
        return hashlib.sha256(self.bare.encode()).hexdigest()

    @cached_property
    def effect(self) -> Effect:
        """How to find out whether the statement took effect.

        :raises ValueError: migrations can't contain this kind of statement.
        """
        return effect_of(self.bare)


class Migration(NamedTuple):
    """One file of `storage/migrations/`.

    :ivar checksum: SHA-256 of the text, in hexadecimal digits. CRLF counts as LF, and a byte order mark is ignored.
    """

    number: int
    name: str
    checksum: str
    statements: tuple[MigrationStatement, ...]


def read_migrations(directory: Path = MIGRATIONS) -> list[Migration]:
    """All migrations, in the order of their numbers.

    :raises SchemaError: a name, a number or a statement is wrong. The message names the file, and the line.
    """
    numbered: dict[int, str] = {}
    for path in sorted(directory.glob("*.cql")):
        matched = FILE_NAME.fullmatch(path.name)
        if matched is None:
            raise SchemaError(f"{path.name}: the name of a migration is NNNN_name.cql, for example 0001_birds.cql.")
        number = int(matched[1])
        if number in numbered:
            raise SchemaError(f"{numbered[number]} and {path.name} have the same number: renumber the newer one.")
        numbered[number] = path.name
    for expected, number in enumerate(sorted(numbered), 1):
        if number != expected:
            raise SchemaError(f"{numbered[number]}: there is no migration {expected:04}. Numbers must have no gaps.")
    return [_read(directory / name, number) for number, name in sorted(numbered.items())]


def _read(path: Path, number: int) -> Migration:
    try:
        text = path.read_text(encoding="utf-8-sig")  # removes a byte order mark, and turns CRLF into LF
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path.name}: the file is not UTF-8 ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise SchemaError(f"{path.name}: the file can't be read ({error.strerror}).") from error
    statements = tuple(parse_migration(text, path.name))
    if not statements:
        raise SchemaError(f"{path.name}: the file has no statement.")
    for statement in statements:
        try:
            _ = statement.effect
        except ValueError as error:
            raise SchemaError(f"{path.name}:{statement.line}: {error}") from error
    return Migration(number, path.name, hashlib.sha256(text.encode()).hexdigest(), statements)


def parse_migration(text: str, name: str) -> Iterator[MigrationStatement]:
    """The statements of a migration.

    :param name: of the file, for errors.
    :raises SchemaError: a string or a comment is not closed, or a statement is empty or has no semicolon.
    """
    start, line, bare, optional, first_line = 0, 1, "", False, 0
    for token in _TOKEN.finditer(text):
        if token["unclosed"]:
            raise SchemaError(f"{name}:{line}: {token[0]} is never closed.")
        if token["end"]:
            if not bare:
                raise SchemaError(f"{name}:{line}: there is no statement before this semicolon.")
            # Cassandra needs the line break after a comment that is the last line of the statement.
            cql = text[start : token.start()].lstrip()
            yield MigrationStatement(cql, bare.rstrip(), optional, first_line)
            start, bare, optional = token.end(), "", False
        elif token["comment"] or token["space"]:
            optional = optional or token[0].startswith(_OPTIONAL)
            if bare and not bare.endswith(" "):
                bare += " "
        else:
            if not bare:
                first_line = line
            bare += token[0]
        line += token[0].count("\n")
    if bare:
        raise SchemaError(f"{name}:{first_line}: the statement has no semicolon at its end.")
