"""JSON values of each CQL type. docs/types.md defines them."""

from __future__ import annotations

import math
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import cache
from struct import Struct
from typing import Any
from uuid import UUID

import orjson

from storage.cql.types import CqlType

Encoder = Callable[[Any], Any]

_FLOAT = Struct("f")
# Types whose Python values are JSON values already. orjson writes a UUID as a string.
_SAME = frozenset({"ascii", "text", "boolean", "tinyint", "smallint", "int", "inet", "time", "uuid", "timeuuid"})


def rfc3339(moment: datetime) -> str:
    """The time in RFC 3339, for example `2026-11-21T06:50:04.610Z`.

    :param moment: a time without a zone is in UTC.
    """
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def base64url(value: bytes) -> str:
    """Bytes in base64url without padding, for URLs and keys of maps."""
    return urlsafe_b64encode(value).rstrip(b"=").decode()


def same(value: Any) -> Any:
    """Return the value unchanged: it needs no conversion."""
    return value


@cache
def encoder(cql_type: CqlType) -> Encoder:
    """The function that converts Python values of a type for `orjson`.

    Null stays None, but a list or set that is null becomes `[]`, and a map `{}`.
    """
    if cql_type.name in _SAME:
        return same
    inner = [encoder(argument) for argument in cql_type.arguments]
    match cql_type.name:
        case "list":
            return lambda value: [inner[0](each) for each in value or ()]
        case "set":
            is_nested = bool(cql_type.arguments[0].arguments)
            return lambda value: _sorted(value or (), inner[0], is_nested)
        case "map":
            key_text = base64url if cql_type.arguments[0].name == "blob" else lambda key: _key(inner[0](key))
            return lambda value: _by_key({key_text(key): inner[1](each) for key, each in _pairs(value or {})})
        case "vector":
            return _nullable(lambda value: [inner[0](each) for each in value])
        case "tuple":
            return _nullable(lambda value: [encode(each) for encode, each in zip(inner, value, strict=True)])
        case "udt":
            fields = list(zip(cql_type.field_names, inner, strict=True))
            return _nullable(lambda value: {name: encode(value[name]) for name, encode in fields})
    return _nullable(_ENCODERS.get(cql_type.name, _blob))


def _nullable(encode: Encoder) -> Encoder:
    return lambda value: None if value is None else encode(value)


def _sorted(values: Any, encode: Encoder, is_nested: bool) -> list[Any]:
    """The elements of a set in ascending order.

    The order that Cassandra returns is not known before the row is read, but the response to a write needs it.

    :param is_nested: the elements are collections, whose own order is known only after they are encoded.
    """
    if is_nested:
        return sorted(map(encode, values), key=orjson.dumps)
    try:
        return [encode(each) for each in sorted(values)]
    except TypeError:
        # Some timestamps or dates are text, because Python has no value for them.
        return sorted(map(encode, values))


def _by_key(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: entries[key] for key in sorted(entries)}


def _pairs(value: Any) -> Any:
    """Keys and values of a map. `storage.cql.decoding` returns some maps as lists of pairs."""
    return value.items() if isinstance(value, dict) else value


def _key(value: Any) -> str:
    """A key of a JSON object: text unchanged, other values as JSON."""
    if isinstance(value, (str, UUID)):
        return str(value)
    return orjson.dumps(value).decode()


def _float(value: float) -> float | None:
    """The shortest number that reads back as the same 32-bit float (IEEE 754).

    For example 21.35, not 21.350000381469727.
    """
    if not math.isfinite(value):
        return None
    packed = _FLOAT.pack(value)
    candidates = (float(f"{value:.{digits}g}") for digits in range(6, 10))
    return next(each for each in candidates if _FLOAT.pack(each) == packed)


def _double(value: float | str) -> float | str | None:
    # "" is a value of zero bytes.
    return value if isinstance(value, str) or math.isfinite(value) else None


def _integer(value: int) -> str:
    # str() refuses integers with more than 4,300 digits.
    return str(Decimal(value))


def _timestamp(value: datetime | str) -> str:
    return value if isinstance(value, str) else rfc3339(value)


def _date(value: date | str) -> str:
    return value if isinstance(value, str) else value.isoformat()


def _duration(value: Any) -> str:
    """A duration in ISO 8601: `P1Y2M3DT4H5M6.5S`.

    All parts have the same sign, which is written once.
    """
    months, days, nanoseconds = abs(value.months), abs(value.days), abs(value.nanoseconds)
    sign = "-" if min(value.months, value.days, value.nanoseconds) < 0 else ""
    seconds, fraction = divmod(nanoseconds, 10**9)
    parts = [(months // 12, "Y"), (months % 12, "M"), (days, "D")]
    date_part = "".join(f"{count}{unit}" for count, unit in parts if count)
    time_part = "".join(
        f"{count}{unit}" for count, unit in [(seconds // 3600, "H"), (seconds // 60 % 60, "M")] if count
    )
    if seconds % 60 or fraction:
        time_part += f"{seconds % 60}" + (f".{fraction:09}".rstrip("0") if fraction else "") + "S"
    if not date_part and not time_part:
        return "PT0S"
    return f"{sign}P{date_part}" + (f"T{time_part}" if time_part else "")


def _blob(value: bytes) -> str:
    return b64encode(value).decode()


_ENCODERS: dict[str, Encoder] = {
    "bigint": str,
    "counter": str,
    "varint": _integer,
    "decimal": str,
    "float": _float,
    "double": _double,
    "timestamp": _timestamp,
    "date": _date,
    "duration": _duration,
    "blob": _blob,
}
