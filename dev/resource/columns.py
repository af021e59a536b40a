"""Columns of a new resource: their arguments `name:type`, and their CQL and Python code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from dev.resource.names import Refused, check_column_name
from storage.cql.types import CqlType, parse_type

# The field type of schemas/fields.py and schemas/parameters.py, and the Python type of a value.
_SCALARS = {
    "ascii": ("Ascii", "str"),
    "bigint": ("BigInt", "int"),
    "blob": ("Blob", "bytes"),
    "boolean": ("Boolean", "bool"),
    "date": ("Date", "date"),
    "decimal": ("Decimal", "Decimal"),
    "double": ("Double", "float"),
    "duration": ("Duration", "Duration"),
    "float": ("Float", "float"),
    "inet": ("Inet", "str"),
    "int": ("Int", "int"),
    "smallint": ("SmallInt", "int"),
    "text": ("Text", "str"),
    "time": ("Time", "str"),
    "timestamp": ("Timestamp", "datetime"),
    "timeuuid": ("TimeUuid", "UUID"),
    "tinyint": ("TinyInt", "int"),
    "uuid": ("Uuid", "UUID"),
    "varint": ("VarInt", "int"),
}
# Types whose values do not all fit into a URL, each with its field type for a column of the primary key.
_SEGMENTS = {"ascii": "AsciiSegment", "blob": "BlobSegment", "text": "Segment"}
_COLLECTIONS = frozenset(["list", "set", "map"])
_NOT_SUPPORTED = {
    "counter": "counters need tables of their own, which the generator does not write",
    "tuple": "the generator supports neither tuples nor user-defined types; use columns or a map instead",
}
# Cassandra's limit.
_MAX_VECTOR = 8192
# Three levels of collections, each `frozen`.
_MAX_BRACKETS = 6

Role = Literal["partition", "clustering", "plain"]


@dataclass(frozen=True)
class Column:
    """A column.

    :ivar nullable: a client may omit the field or send null.
    :ivar descending: a clustering column in descending order.
    """

    name: str
    type: CqlType
    role: Role
    nullable: bool = False
    descending: bool = False

    @property
    def is_key(self) -> bool:
        return self.role != "plain"

    @property
    def is_collection(self) -> bool:
        return self.type.is_collection

    @property
    def is_optional(self) -> bool:
        """Whether a client may omit the field."""
        return self.nullable or self.is_collection

    @property
    def noun(self) -> str:
        return self.name.replace("_", " ")

    @property
    def cql(self) -> str:
        """The type in CQL. Collections are frozen."""
        return _cql(self.type)

    @property
    def python(self) -> str:
        """The type of the value in a row."""
        return _python(self.type) + (" | None" if self.nullable else "")

    @property
    def field(self) -> str:
        """The field type in the schema."""
        if self.is_key:
            return _SEGMENTS.get(self.type.name) or _field(self.type)
        return _field(self.type)

    @property
    def parameter(self) -> str:
        """The type of the path part or query parameter of a column of the primary key."""
        return f"parameters.{self.field}"

    @property
    def default(self) -> str:
        """The default value of the field, as Python source; empty if the field is required."""
        if self.is_collection:
            return "{}" if self.type.name == "map" else "[]"
        return "None" if self.nullable else ""


def _cql(cql_type: CqlType) -> str:
    if cql_type.name in _COLLECTIONS:
        return f"frozen<{cql_type.name}<{', '.join(map(_cql, cql_type.arguments))}>>"
    return str(cql_type)


def _python(cql_type: CqlType) -> str:
    match cql_type.name:
        case "map":
            key, value = map(_python, cql_type.arguments)
            return f"dict[{key}, {value}]"
        case "list" | "set" | "vector":
            return f"list[{_python(cql_type.arguments[0])}]"
        case name:
            return _SCALARS[name][1]


def _field(cql_type: CqlType) -> str:
    match cql_type.name:
        case "map":
            key, value = cql_type.arguments
            return f"MapOf[parameters.{_SCALARS[key.name][0]}, {_field(value)}]"
        case "list":
            return f"ListOf[{_field(cql_type.arguments[0])}]"
        case "set":
            return f"SetOf[{_field(cql_type.arguments[0])}]"
        case "vector":
            (element,), size = cql_type.arguments, cql_type.dimension
            return f"Annotated[list[{_field(element)}], Field(min_length={size}, max_length={size})]"
        case name:
            return _SCALARS[name][0]


def parse_column(text: str, role: Role) -> Column:
    """Parse a column, for example `note:text?` or `recorded_at:timestamp:desc`.

    `?` means that the column may be null. Only clustering columns accept `:asc` and `:desc`.

    :raises Refused: the name or the type is not valid or not supported.
    """
    name, colon, type_text = text.partition(":")
    if not colon or not type_text:
        raise Refused(f"column {text!r}: write it as name:type, for example temperature:decimal")
    check_column_name(name, role != "plain")
    descending = False
    if role == "clustering" and (order := re.search(r"(?i):(asc|desc)$", type_text)):
        descending = order[1].lower() == "desc"
        type_text = type_text[: order.start()]
    nullable = type_text.endswith("?")
    if re.search(r"(?i)\bstatic\b", type_text):
        raise Refused(f"column {name}: the generator does not support static columns")
    if type_text.count("<") > _MAX_BRACKETS:
        raise Refused(f"column {name}: the type is nested too deeply")
    try:
        cql_type = _checked(parse_type(type_text.removesuffix("?")))
    except ValueError as error:
        raise Refused(f"column {name}: {error}") from None
    column = Column(name, cql_type, role, nullable, descending)
    if nullable and column.is_key:
        raise Refused(f"column {name}: a column of the primary key is never null, so leave out '?'")
    if nullable and column.is_collection:
        raise Refused(
            f"column {name}: a collection may always be omitted and then reads as empty, so leave out the '?'"
        )
    if column.is_key and (cql_type.name not in _SCALARS or cql_type.name == "duration"):
        raise Refused(f"column {name}: a {cql_type.name} can't be in the primary key of a generated resource")
    return column


def _checked(cql_type: CqlType) -> CqlType:
    """The type, if the generator supports it.

    :raises ValueError: the generator does not support the type; the message says why.
    """
    name = cql_type.name
    if name in _NOT_SUPPORTED:
        raise ValueError(_NOT_SUPPORTED[name])
    if name == "vector":
        if cql_type.arguments[0].name != "float":
            raise ValueError("the generator supports vectors of float only")
        if cql_type.dimension > _MAX_VECTOR:
            raise ValueError(f"a vector has at most {_MAX_VECTOR} elements")
    elif name in _COLLECTIONS:
        for argument in cql_type.arguments:
            _checked(argument)
        first = cql_type.arguments[0]
        if name == "map" and first.name not in _SCALARS:
            raise ValueError("a key of a map is text in JSON, so it must have a scalar type")
        if name in ("map", "set") and "duration" in str(first):
            raise ValueError("durations have no order, so Cassandra allows them neither in sets nor as keys of maps")
    return cql_type
