"""Rows as JSON strings, which Cassandra itself encodes (`SELECT JSON`).

Statements with `json_rows` use it. Forwarding the string costs a third as much as building JSON from values
(docs/performance.md). Only timestamps need a change: `SELECT JSON` writes them with a space in the middle, but a cast
to text writes RFC 3339.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson
from cassandra.cluster import Session

from storage.cql.driver import timestamp_columns
from storage.cql.options import QueryOptions
from storage.cql.prepared_cache import prepared_cache
from storage.cql.statement import Statement

_RFC3339 = r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"'


def rfc3339(moment: datetime) -> str:
    """The time in RFC 3339, for example `2026-11-21T06:50:04.610Z`.

    :param moment: a time without a zone is in UTC, as the driver returns it.
    """
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


class JsonSelect:
    """The `SELECT JSON` form of a statement.

    :ivar statement: the statement to execute instead of the original one.
    """

    def __init__(self, statement: Statement, timestamps: tuple[str, ...]) -> None:
        """Derive the form.

        :param statement: the original statement.
        :param timestamps: names of the columns of type `timestamp`.
        """
        self.statement, self._timestamps = _with_json(statement, timestamps), timestamps

    def decode(self, rows: Sequence[Sequence[Any]]) -> list[str]:
        """The rows as JSON objects, with timestamps in RFC 3339.

        :param rows: rows that :attr:`statement` returned.
        """
        texts = [row[0] for row in rows]
        if not texts or all(re.search(rf'"{name}": {_RFC3339}', texts[0]) for name in self._timestamps):
            return texts
        # Either the server casts timestamps to another format, or a null in the first row does not show the format.
        return [self._rewrite(text) for text in texts]

    def _rewrite(self, text: str) -> str:
        document = orjson.loads(text)
        for name in self._timestamps:
            if document[name] is not None:
                document[name] = rfc3339(datetime.fromisoformat(document[name]))
        return orjson.dumps(document).decode()


def json_select(session: Session, statement: Statement, options: QueryOptions) -> JsonSelect:
    """The `SELECT JSON` form of a statement with `json_rows`.

    :raises StorageError: the statement can't be prepared.
    """
    plain = statement._replace(json_rows=False)
    return _json_select(statement, timestamp_columns(prepared_cache.get(session, plain, options)))


@cache
def _json_select(statement: Statement, timestamps: tuple[str, ...]) -> JsonSelect:
    return JsonSelect(statement, timestamps)


def _with_json(statement: Statement, timestamps: tuple[str, ...]) -> Statement:
    if "{columns}" not in statement.cql:
        raise ValueError(f"{statement.name}: a statement with json_rows must select {{columns}}")
    selected = [f"CAST({name} AS text) AS {name}" if name in timestamps else name for name in statement.columns]
    cql = statement.cql.replace("{columns}", "JSON {columns}", 1)
    return statement._replace(cql=cql, columns=tuple(selected), json_rows=False)
