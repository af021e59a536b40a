"""Ranges of rows within a partition, by the first clustering column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from storage.cql.statement import Statement
from storage.cql.table import Table


class KeyRange(NamedTuple):
    """A range over the first clustering column, and the order of its rows.

    :ivar lower: the lower bound, inclusive; None for no bound.
    :ivar upper: the upper bound, exclusive; None for no bound.
    :ivar descending: the order of the rows; None for the order of the table.
    """

    lower: Any = None
    upper: Any = None
    descending: bool | None = None


_WHOLE_PARTITION = KeyRange()


def in_range(
    table: Table[Any], statement: Statement, values: Sequence[Any], key_range: KeyRange
) -> tuple[Statement, Sequence[Any]]:
    """Restrict a SELECT of one partition to a range, and order its rows.

    For one SELECT this returns at most eight different statements, so the cache of prepared statements stays small.

    :param statement: ends with the conditions on the whole partition key.
    :param values: one for each `?` of the statement.
    """
    if key_range == _WHOLE_PARTITION:
        return statement, values
    cql = statement.cql
    values = list(values)
    column, own_order = next(iter(table.clustering_key.items()))
    for operator, bound in ((">=", key_range.lower), ("<", key_range.upper)):
        if bound is not None:
            cql += f" AND {column} {operator} ?"
            values.append(bound)
    if key_range.descending is not None and key_range.descending != (own_order == "desc"):
        # Cassandra can read a partition only in the table's order or in its exact reverse.
        cql += f" ORDER BY {column} {'DESC' if key_range.descending else 'ASC'}"
    return statement._replace(cql=cql), values
