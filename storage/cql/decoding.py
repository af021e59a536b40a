"""Values of result rows: from bytes of the native protocol to Python.

The driver's own decoding fails for some values that Cassandra stores (timestamps outside the years 1 to 9999, decimals
with more than 4,300 digits) and changes others (the order of a set). Formats: "CQL binary protocol v5", section 6, and
for vectors the class `VectorType` of Cassandra 5. docs/types.md lists the Python type of each CQL type.

Cassandra allows a value of zero bytes for most types. It is null here, but "" for the types for which Cassandra's own
JSON has "" (see `row_encoding`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import cache
from struct import Struct
from typing import Any
from uuid import UUID

from cassandra.util import Duration

from storage.cql.types import CqlType

Decoder = Callable[[bytes], Any]

_INT, _LONG = Struct(">i"), Struct(">q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAYS = date(1970, 1, 1).toordinal()
_DAY_MS = 86_400_000
# Decimal arithmetic without rounding.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
# Types whose values all have the same number of bytes, for vectors: `valueLengthIfFixed` in Cassandra's source.
_FIXED_SIZES = {
    "boolean": 1,
    "double": 8,
    "float": 4,
    "bigint": 8,
    "int": 4,
    "timestamp": 8,
    "timeuuid": 16,
    "uuid": 16,
}


def decode_rows(data: bytes, decoders: Sequence[Decoder]) -> list[tuple[Any, ...]]:
    """The rows of a result.

    :param data: number of rows, then for each cell its size and value.
    :param decoders: one for each column.
    """
    (count,) = _INT.unpack_from(data, 0)
    position = _INT.size
    rows = []
    for _ in range(count):
        row = []
        for decode in decoders:
            value, position = _read(data, position, decode)
            row.append(value)
        rows.append(tuple(row))
    return rows


def _read(data: bytes, position: int, decode: Decoder) -> tuple[Any, int]:
    """The value at a position, and the position after it. A negative size stands for null."""
    (size,) = _INT.unpack_from(data, position)
    position += _INT.size
    if size < 0:
        return None, position
    return decode(data[position : position + size]), position + size


@cache
def decoder(cql_type: CqlType) -> Decoder:
    """The function that decodes values of a type. Values of an unknown type stay bytes."""
    inner = [decoder(argument) for argument in cql_type.arguments]
    match cql_type.name:
        case "list" | "set":
            return lambda data: [value for (value,) in decode_rows(data, inner)] if data else None
        case "map":
            return lambda data: _dict(decode_rows(data, inner)) if data else None
        case "tuple":
            return lambda data: tuple(_fields(data, inner)) if data else None
        case "udt":
            names = cql_type.field_names
            return lambda data: dict(zip(names, _fields(data, inner), strict=True)) if data else None
        case "vector":
            if cql_type.arguments[0].name in ("float", "double"):
                # Embeddings have hundreds of elements.
                code = "f" if cql_type.arguments[0].name == "float" else "d"
                unpack = Struct(f">{cql_type.dimension}{code}").unpack
                return lambda data: list(unpack(data)) if data else None
            size = fixed_size(cql_type.arguments[0])
            return lambda data: _vector(data, inner[0], cql_type.dimension, size) if data else None
    return _SCALARS.get(cql_type.name, bytes)


def fixed_size(cql_type: CqlType) -> int | None:
    """Number of bytes of each value of a type inside a vector, or None if it varies."""
    if cql_type.name == "vector":
        size = fixed_size(cql_type.arguments[0])
        return None if size is None else size * cql_type.dimension
    return _FIXED_SIZES.get(cql_type.name)


def _dict(pairs: list[tuple[Any, ...]]) -> Any:
    """A dict, or the pairs if a key has no hash or two keys are equal in Python."""
    try:
        values = dict(pairs)
    except TypeError:
        return pairs
    return values if len(values) == len(pairs) else pairs


def _fields(data: bytes, decoders: Sequence[Decoder]) -> list[Any]:
    """The fields of a tuple or user-defined type.

    Fields that were added to the type after the value was written are null.
    """
    fields: list[Any] = []
    position = 0
    for decode in decoders:
        value = None
        if position < len(data):
            value, position = _read(data, position, decode)
        fields.append(value)
    return fields


def _vector(data: bytes, decode: Decoder, dimension: int, size: int | None) -> list[Any]:
    elements = []
    position = 0
    for _ in range(dimension):
        length = size
        if length is None:
            length, position = _unsigned_vint(data, position)
        elements.append(decode(data[position : position + length]))
        position += length
    return elements


def _unsigned_vint(data: bytes, position: int) -> tuple[int, int]:
    """An integer of variable size, and the position after it.

    The number of leading one bits in the first byte is the number of further bytes.
    """
    first = data[position]
    extra = 8 - (~first & 0xFF).bit_length()
    value = first & (0xFF >> (extra + 1) if extra < 8 else 0)
    for byte in data[position + 1 : position + 1 + extra]:
        value = value << 8 | byte
    return value, position + 1 + extra


def _signed_vint(data: bytes, position: int) -> tuple[int, int]:
    """An integer of variable size in zigzag encoding, and the position after it."""
    value, position = _unsigned_vint(data, position)
    return value >> 1 ^ -(value & 1), position


def _number(code: str, zero_bytes: str | None = None) -> Decoder:
    unpack = Struct(">" + code).unpack
    return lambda data: unpack(data)[0] if data else zero_bytes


def _boolean(data: bytes) -> bool | None:
    return data != b"\0" if data else None


def _varint(data: bytes) -> int | None:
    return int.from_bytes(data, "big", signed=True) if data else None


def _decimal(data: bytes) -> Decimal | None:
    if not data:
        return None
    unscaled = Decimal(int.from_bytes(data[4:], "big", signed=True))
    return unscaled.scaleb(-_INT.unpack_from(data)[0], _EXACT)


def _timestamp(data: bytes) -> datetime | str | None:
    if not data:
        return None
    (milliseconds,) = _LONG.unpack(data)
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        days, rest = divmod(milliseconds, _DAY_MS)
        time = (_EPOCH + timedelta(milliseconds=rest)).isoformat(timespec="milliseconds")[10:23]
        return f"{_iso_date(days)}{time}Z"


def _date(data: bytes) -> date | str | None:
    if not data:
        return None
    days = int.from_bytes(data, "big") - 2**31
    ordinal = days + _EPOCH_DAYS
    return date.fromordinal(ordinal) if 1 <= ordinal <= date.max.toordinal() else _iso_date(days)


def _iso_date(days: int) -> str:
    """A date outside the years 1 to 9999 in ISO 8601, as Java writes it: `-0044-03-15`.

    :param days: since 1970-01-01.
    """
    # The Gregorian calendar repeats every 400 years, which have 146,097 days.
    cycles, rest = divmod(days + _EPOCH_DAYS - 1, 146_097)
    same = date.fromordinal(rest + 1)
    year = same.year + 400 * cycles
    sign = "-" if year < 0 else "+" if year > 9999 else ""
    return f"{sign}{abs(year):04}-{same.month:02}-{same.day:02}"


def _time(data: bytes) -> str | None:
    if not data:
        return None
    seconds, nanoseconds = divmod(_LONG.unpack(data)[0], 10**9)
    fraction = f".{nanoseconds:09}".rstrip("0") if nanoseconds else ""
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{fraction}"


def _duration(data: bytes) -> Duration | None:
    if not data:
        return None
    months, position = _signed_vint(data, 0)
    days, position = _signed_vint(data, position)
    nanoseconds, _ = _signed_vint(data, position)
    return Duration(months, days, nanoseconds)


def _inet(data: bytes) -> str | None:
    return socket.inet_ntop(socket.AF_INET6 if len(data) == 16 else socket.AF_INET, data) if data else None


def _uuid(data: bytes) -> UUID | str:
    return UUID(bytes=data) if data else ""


_SCALARS: dict[str, Decoder] = {
    "ascii": bytes.decode,
    "text": bytes.decode,
    "blob": bytes,
    "boolean": _boolean,
    "tinyint": _number("b"),
    "smallint": _number("h"),
    "int": _number("i", zero_bytes=""),
    "bigint": _number("q"),
    "counter": _number("q"),
    "varint": _varint,
    "decimal": _decimal,
    "float": _number("f"),
    "double": _number("d", zero_bytes=""),
    "timestamp": _timestamp,
    "date": _date,
    "time": _time,
    "duration": _duration,
    "inet": _inet,
    "uuid": _uuid,
    "timeuuid": _uuid,
}
