"""Example values of each type, for the sample rows and the tests of a new resource."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Any, NamedTuple

from dev.resource.columns import Column
from storage.cql.types import CqlType


class _Examples(NamedTuple):
    """Examples of a scalar type.

    :ivar json: three values in Cassandra's order, as in JSON. Sets have the order of the Python values, so both agree.
    :ivar wrong: a JSON value that is not of the type.
    :ivar python: Python source of a value, given the JSON value.
    """

    json: tuple[Any, ...]
    wrong: Any
    python: Callable[[Any], str] = repr


class _Vector(list[float]):
    """A vector of equal elements, with short Python source even for hundreds of elements."""

    def __repr__(self) -> str:
        return f"[{self[0]}] * {len(self)}"


def _datetime(text: str) -> str:
    year, month, day, hour, minute = map(int, re.findall(r"\d+", text)[:5])
    return f"datetime({year}, {month}, {day}, {hour}, {minute}, tzinfo=UTC)"


def _date(text: str) -> str:
    return "date({}, {}, {})".format(*map(int, text.split("-")))


def _uuid(text: str) -> str:
    return f'UUID("{text}")'


_DURATIONS = {
    "P1M": "Duration(1, 0, 0)",
    "P2DT3H": "Duration(0, 2, 3 * 3600 * 10**9)",
    "PT45S": "Duration(0, 0, 45 * 10**9)",
}

_WHOLE = _Examples((12, 25, 40), "twelve")
_WHOLE_TEXT = _Examples(("12", "25", "40"), "twelve", str)
_REAL = _Examples((0.5, 12.25, 80.0), "half")

_SCALARS = {
    "ascii": _Examples(("A1", "B2", "C3"), 7),
    "bigint": _WHOLE_TEXT,
    "blob": _Examples(("AAEC", "AQID", "CAkK"), "not base64!", lambda text: repr(b64decode(text))),
    "boolean": _Examples((False, True), "yes"),
    "date": _Examples(("2026-03-01", "2026-04-15", "2026-05-30"), "2026-02-30", _date),
    "decimal": _Examples(("0.50", "12.250", "80.0"), "half", lambda text: f'Decimal("{text}")'),
    "double": _REAL,
    "duration": _Examples(("P1M", "P2DT3H", "PT45S"), "one day", _DURATIONS.__getitem__),
    "float": _REAL,
    "inet": _Examples(("192.0.2.10", "192.0.2.20", "192.0.2.30"), "localhost"),
    "int": _WHOLE,
    "smallint": _WHOLE,
    "text": _Examples(("first", "second", "third"), 7),
    "time": _Examples(("06:00:00", "12:30:00", "23:59:59.5"), "24:00:00"),
    "timestamp": _Examples(
        ("2026-03-01T06:00:00.000Z", "2026-04-15T12:30:00.000Z", "2026-05-30T18:45:00.000Z"), "yesterday", _datetime
    ),
    "timeuuid": _Examples(
        (
            "1c94b2a0-1533-11f1-8000-00000000002a",
            "5b3d07e0-38c6-11f1-8000-00000000002a",
            "a9731e00-5c57-11f1-8000-00000000002a",
        ),
        "none",
        _uuid,
    ),
    "tinyint": _WHOLE,
    "uuid": _Examples(
        (
            "0b1d5a36-6c0f-4d2b-9d1e-3f3a5b7f9c10",
            "5e8c1f04-2b7a-4c61-8f0d-7a1b2c3d4e5f",
            "c4a90d72-93e5-4b18-a6c7-1d2e3f405162",
        ),
        "none",
        _uuid,
    ),
    "varint": _WHOLE_TEXT,
}


def json_value(column: Column, number: int) -> Any:
    """An example of a column as JSON.

    :param number: 0, 1 or 2. The values are in Cassandra's order, and different except for booleans.
    """
    return _json(column.type, number, _text_of(column))


def python_value(column: Column, number: int) -> str:
    """Python source of the same value, as a row has it."""
    return _python(column.type, number, _text_of(column))


def path_value(column: Column, number: int) -> str:
    """The same value as part of a path."""
    value = json_value(column, number)
    return value if isinstance(value, str) else json.dumps(value)


def wrong_value(column: Column) -> Any:
    """A JSON value that the column's field rejects."""
    match column.type.name:
        case "map":
            return []
        case "list" | "set":
            return {}
        case "vector":
            return []
        case name:
            return _SCALARS[name].wrong


def _text_of(column: Column) -> Callable[[int], str]:
    """Example text of a column. A key has no spaces, so that it reads well in a URL."""
    if column.is_key:
        return lambda number: f"{column.name.replace('_', '-')}-{number + 1}"
    return lambda number: f"{column.noun.capitalize()} {number + 1}"


def _json(cql_type: CqlType, number: int, text_of: Callable[[int], str] | None = None) -> Any:
    match cql_type.name:
        case "map":
            key, value = cql_type.arguments
            key_json = _json(key, number)
            return {key_json if isinstance(key_json, str) else json.dumps(key_json): _json(value, number)}
        case "list" | "set":
            return _elements(cql_type, number, _json)
        case "vector":
            return _Vector([number + 0.25] * cql_type.dimension)
        case "text" if text_of is not None:
            return text_of(number)
        case name:
            values = _SCALARS[name].json
            return values[number % len(values)]


def _python(cql_type: CqlType, number: int, text_of: Callable[[int], str] | None = None) -> str:
    match cql_type.name:
        case "map":
            key, value = cql_type.arguments
            return f"{{{_python(key, number)}: {_python(value, number)}}}"
        case "list" | "set":
            return f"[{', '.join(_elements(cql_type, number, _python))}]"
        case "vector" | "text":
            return repr(_json(cql_type, number, text_of))
        case name:
            return _SCALARS[name].python(_json(cql_type, number))


def _elements(cql_type: CqlType, number: int, value: Callable[[CqlType, int], Any]) -> list[Any]:
    """One or two examples of the elements of a list or set, in order. Lists of greater numbers are greater."""
    (element,) = cql_type.arguments
    count = 2 if "boolean" in str(element) else 3
    first = number % count
    return [value(element, each) for each in range(first, min(first + 2, count))]
