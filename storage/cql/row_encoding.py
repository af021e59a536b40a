"""Rows as tuples or as JSON strings.

Only this module chooses whether Cassandra or the service writes the JSON.

Forwarding the string that `SELECT JSON` returns costs a third as much as building JSON from values
(docs/performance.md). Cassandra encodes the rows of a statement with `json_rows` if its JSON has the same values as
ours for every type that the statement returns. `json_values` encodes all other rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple, Protocol

import orjson
from cassandra.cluster import Session

from storage.cql.driver import result_types
from storage.cql.json_values import encoder, rfc3339
from storage.cql.options import QueryOptions
from storage.cql.prepared_cache import prepared_cache
from storage.cql.statement import Statement
from storage.cql.types import CqlType

# Types for which SELECT JSON returns the same values. Not boolean: Cassandra fails to read a row with a boolean of zero
# bytes. Not float: Cassandra does not always write the shortest form. docs/types.md gives the reasons for the others.
_TEXTS = frozenset({"ascii", "text"})
_PROVEN = _TEXTS | {"tinyint", "smallint", "int", "double", "uuid", "timeuuid", "timestamp"}

# What a cast of a timestamp to text returns. Years outside 0000 to 9999 have a sign.
_RFC3339 = r'"(\d{4}|[+-]\d{4,})-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"'


class RowFormat(Protocol):
    """How the rows of a statement become tuples or JSON objects.

    :ivar statement: the statement to execute instead of the original one.
    """

    @property
    def statement(self) -> Statement: ...

    def decode(self, rows: list[Any]) -> list[Any]:
        """Convert rows into tuples or JSON objects.

        :param rows: rows that :attr:`statement` returned.
        """


def row_format(session: Session, statement: Statement, options: QueryOptions) -> RowFormat:
    """The form of a statement's rows: JSON strings with `json_rows`, otherwise tuples.

    :raises StorageError: the statement can't be prepared.
    """
    if not statement.json_rows:
        return _Tuples(statement)
    plain = statement._replace(json_rows=False)
    types = result_types(prepared_cache.get(session, plain, options))
    return _json_format(plain, types, _is_cassandra_5(session))


def _is_cassandra_5(session: Session) -> bool:
    """Whether all nodes run Cassandra 5.0 or later."""
    versions = [host.release_version for host in session.cluster.metadata.all_hosts()]
    return all(version and int(version.split(".")[0]) >= 5 for version in versions)


@cache
def _json_format(statement: Statement, types: tuple[CqlType, ...], cassandra_5: bool) -> RowFormat:
    columns = dict(zip(statement.columns, types, strict=True))
    is_proven = all(each.name in _PROVEN or _is_list_of_text(each) for each in types)
    return _CassandraJson(statement, columns, cassandra_5) if is_proven else _ServiceJson(statement, columns)


def _is_list_of_text(cql_type: CqlType) -> bool:
    return cql_type.name == "list" and cql_type.arguments[0].name in _TEXTS


class _Tuples(NamedTuple):
    """Rows as the driver returns them."""

    statement: Statement

    def decode(self, rows: list[Any]) -> list[Any]:
        return rows


class _ServiceJson:
    """Rows that this service encodes."""

    def __init__(self, statement: Statement, columns: Mapping[str, CqlType]) -> None:
        self.statement = statement
        self._columns = [(column, encoder(cql_type)) for column, cql_type in columns.items()]

    def decode(self, rows: list[Any]) -> list[Any]:
        columns = self._columns
        return [
            orjson.dumps({name: encode(value) for (name, encode), value in zip(columns, row, strict=True)}).decode()
            for row in rows
        ]


class _CassandraJson:
    """Rows that Cassandra encodes (`SELECT JSON`), corrected where its JSON differs.

    Cassandra writes timestamps with a space in the middle, but a cast to text writes RFC 3339.

    :param cassandra_5: whether all nodes run Cassandra 5.0 or later.
    """

    def __init__(self, statement: Statement, columns: Mapping[str, CqlType], cassandra_5: bool) -> None:
        if "{columns}" not in statement.cql:
            raise ValueError(f"{statement.name}: a statement with json_rows must select {{columns}}")
        self._timestamps = [column for column, cql_type in columns.items() if cql_type.name == "timestamp"]
        selected = [
            f"CAST({column} AS text) AS {column}" if column in self._timestamps else column for column in columns
        ]
        cql = statement.cql.replace("{columns}", "JSON {columns}", 1)
        self.statement = statement._replace(cql=cql, columns=tuple(selected))
        # Cassandra writes a list that is null as null, but the service reads [].
        self._lists = [column for column, cql_type in columns.items() if cql_type.name == "list"]
        # A row that contains one of these may need a correction.
        self._suspects = [f'"{column}": null' for column in self._lists]
        if not cassandra_5:
            # Cassandra 4.1 casts a timestamp of zero bytes to the text "null", Cassandra 5.0 to null.
            self._suspects += [f'"{column}": "null"' for column in self._timestamps]

    def decode(self, rows: list[Any]) -> list[Any]:
        texts = [row[0] for row in rows]
        if not texts:
            return texts
        if not all(self._has_rfc3339(name, texts) for name in self._timestamps):
            # Not every server casts timestamps to RFC 3339.
            return [self._corrected(text) for text in texts]
        if not self._suspects:
            return texts
        return [self._corrected(text) if any(each in text for each in self._suspects) else text for text in texts]

    @staticmethod
    def _has_rfc3339(name: str, texts: list[str]) -> bool:
        """Whether the server writes this timestamp in RFC 3339, by the first row in which it is not null."""
        first = next((text for text in texts if f'"{name}": null' not in text), None)
        return first is None or re.search(rf'"{name}": {_RFC3339}', first) is not None

    def _corrected(self, text: str) -> str:
        document = orjson.loads(text)
        for name in self._lists:
            if document[name] is None:
                document[name] = []
        for name in self._timestamps:
            if document[name] == "null":
                document[name] = None
            if document[name] is not None and not re.fullmatch(_RFC3339, f'"{document[name]}"'):
                document[name] = rfc3339(datetime.fromisoformat(document[name]))
        return orjson.dumps(document).decode()
