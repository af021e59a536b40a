"""A CQL statement with the facts that the engine needs about it."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

# What a statement does; `lwt` is a lightweight transaction.
Kind = Literal["read", "write", "lwt"]


class Statement(NamedTuple):
    """A CQL statement with placeholders.

    The table name is qualified with `{keyspace}`, so that a `USE` on the session does not change the statement.

    :ivar name: label of the query metrics: the operation, in lower case.
    :ivar cql: CQL with `{keyspace}`, and where it needs them `{columns}` (the names, separated by commas), `{values}`
        (a `?` for each column) and `{assignments}` (`name = ?` for each column).
    :ivar columns: names of the columns that the statement selects, inserts or updates.
    :ivar kind: `read`, `write` or `lwt` (a lightweight transaction).
    :ivar idempotent: the statement can be sent more than once with the same effect, so the driver may retry it.
    :ivar json_rows: for a SELECT with `{columns}`: each row is one string, a JSON object. See `row_encoding`.
    """

    name: str
    cql: str
    columns: tuple[str, ...] = ()
    kind: Kind = "read"
    idempotent: bool = True
    json_rows: bool = False


@cache
def cql_text(statement: Statement, keyspace: str) -> str:
    """The CQL without placeholders, as Cassandra receives it."""
    return (
        statement.cql.replace("{keyspace}", keyspace)
        .replace("{columns}", ", ".join(statement.columns))
        .replace("{values}", ", ".join("?" * len(statement.columns)))
        .replace("{assignments}", ", ".join(f"{column} = ?" for column in statement.columns))
    )
