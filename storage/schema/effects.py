"""Whether a statement of a migration took effect.

A runner that was interrupted does not know whether Cassandra executed its last statement. The next runner reads
`system_schema`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from cassandra.cluster import Session

from storage.schema.transactions import column_names, has_table, query

_WORD = r'(?:\w++|"(?:[^"]|"")++")'
# Without a keyspace: migrations apply to CASSANDRA_KEYSPACE.
_NAME = rf"(?P<name>{_WORD})(?! ?\.)"
_TABLE = rf"{_WORD}(?! ?\.)"
_IF_NOT_EXISTS, _IF_EXISTS = r"(?:IF NOT EXISTS ?)?", r"(?:IF EXISTS ?)?"
_COLUMN = rf"\(? ?(?P<column>{_WORD})"

_SELECT_TYPE = "SELECT field_names FROM system_schema.types WHERE keyspace_name = %s AND type_name = %s"


class Effect(NamedTuple):
    """What a statement changes in `system_schema`.

    :ivar kind: `table`, `type`, `index` or `view`, which exists after the statement or is gone; `column` of a table;
        `field` of a type; None for a statement that can be executed again with the same result.
    :ivar name: of the table, type, index or view, as `system_schema` has it.
    :ivar member: of the column or field.
    :ivar exists: whether it exists after the statement.
    """

    kind: str | None
    name: str = ""
    member: str = ""
    exists: bool = True

    def is_there(self, session: Session) -> bool:
        """Whether the statement took effect; False if it can be executed again. One or two queries."""
        return self.kind is not None and _FINDERS[self.kind](session, self) == self.exists


_PATTERNS: tuple[tuple[str, Callable[[dict[str, str]], Effect]], ...] = (
    (rf"CREATE TABLE {_IF_NOT_EXISTS}{_NAME}", lambda found: Effect("table", found["name"])),
    (rf"CREATE TYPE {_IF_NOT_EXISTS}{_NAME}", lambda found: Effect("type", found["name"])),
    (
        rf"CREATE (?:CUSTOM )?INDEX {_IF_NOT_EXISTS}(?!ON\b){_NAME} ON {_TABLE}",
        lambda found: Effect("index", found["name"]),
    ),
    (
        rf"CREATE MATERIALIZED VIEW {_IF_NOT_EXISTS}{_NAME} AS SELECT\b[^']*?\bFROM {_TABLE}",
        lambda found: Effect("view", found["name"]),
    ),
    (rf"DROP TABLE {_IF_EXISTS}{_NAME}", lambda found: Effect("table", found["name"], exists=False)),
    (rf"DROP TYPE {_IF_EXISTS}{_NAME}", lambda found: Effect("type", found["name"], exists=False)),
    (rf"DROP INDEX {_IF_EXISTS}{_NAME}", lambda found: Effect("index", found["name"], exists=False)),
    (rf"DROP MATERIALIZED VIEW {_IF_EXISTS}{_NAME}", lambda found: Effect("view", found["name"], exists=False)),
    (
        rf"ALTER TABLE {_IF_EXISTS}{_NAME} ADD ?{_IF_NOT_EXISTS}{_COLUMN}",
        lambda found: Effect("column", found["name"], found["column"]),
    ),
    (
        rf"ALTER TABLE {_IF_EXISTS}{_NAME} DROP ?{_IF_EXISTS}{_COLUMN}",
        lambda found: Effect("column", found["name"], found["column"], exists=False),
    ),
    (
        rf"ALTER TABLE {_IF_EXISTS}{_NAME} RENAME {_IF_EXISTS}{_COLUMN}",
        lambda found: Effect("column", found["name"], found["column"], exists=False),
    ),
    (
        rf"ALTER TYPE {_IF_EXISTS}{_NAME} ADD ?{_IF_NOT_EXISTS}{_COLUMN}",
        lambda found: Effect("field", found["name"], found["column"]),
    ),
    (
        rf"ALTER TYPE {_IF_EXISTS}{_NAME} RENAME {_IF_EXISTS}{_COLUMN}",
        lambda found: Effect("field", found["name"], found["column"], exists=False),
    ),
    (rf"ALTER (?:TABLE|MATERIALIZED VIEW) {_IF_EXISTS}{_NAME} WITH\b", lambda found: Effect(None)),
    (rf"INSERT INTO {_TABLE}", lambda found: Effect(None)),
    (rf"DELETE\b(?:'(?:[^']|'')*'|[^'])*?\bFROM {_TABLE}", lambda found: Effect(None)),
)


def effect_of(bare: str) -> Effect:
    """The effect of a statement.

    :param bare: the statement without comments, with one space between words.
    :raises ValueError: another statement than those above; the message says what migrations can contain.
    """
    if re.match(r"CREATE (?:CUSTOM )?INDEX (?:IF NOT EXISTS )?ON\b", bare, re.IGNORECASE):
        raise ValueError("an index in a migration needs a name: CREATE INDEX name ON table (column).")
    for pattern, effect in _PATTERNS:
        if matched := re.match(pattern, bare, re.IGNORECASE):
            return effect({group: _as_stored(name) for group, name in matched.groupdict().items()})
    raise ValueError(
        f"migrations can't contain this statement: {bare[:60]}. They can contain CREATE, ALTER and DROP of tables, "
        "types, indexes and materialized views, without the name of a keyspace, and INSERT and DELETE."
    )


def _as_stored(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _exists_in(table: str, column: str) -> Callable[[Session, Effect], bool]:
    select = f"SELECT {column} FROM system_schema.{table} WHERE keyspace_name = %s"
    return lambda session, effect: effect.name in {name for (name,) in query(session, select, (session.keyspace,))}


def _has_field(session: Session, effect: Effect) -> bool:
    row = query(session, _SELECT_TYPE, (session.keyspace, effect.name)).one()
    return row is not None and effect.member in row[0]


_FINDERS: dict[str, Callable[[Session, Effect], bool]] = {
    "table": lambda session, effect: has_table(session, effect.name),
    "type": _exists_in("types", "type_name"),
    "index": _exists_in("indexes", "index_name"),
    "view": _exists_in("views", "view_name"),
    "column": lambda session, effect: effect.member in column_names(session, effect.name),
    "field": _has_field,
}
