"""Values for request bodies and parameters, made from their JSON Schemas.

The n-th value of a field is always the same. Values of different n are different, as far as the type has enough values.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jsonschema_rs

_NAMESPACE = uuid.UUID("6f2d0c52-9d1c-4f0e-8a55-1f9f5a2d7c11")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
_GIVEN = (
    "Ada Bo Carla Dmitri Elif Farid Greta Hugo Ines Jonas Kaya Liam Mira Noor Otto Petra Rosa Sami Tuva Yusuf".split()
)
_FAMILY = "Berg Costa Dahl Evans Fischer Garcia Haddad Ivanova Jansen Kowalski Lind Moreau Nowak Okafor Rossi".split()
_GENERA = "Acer Alnus Betula Carex Erica Fagus Galium Juncus Lathyrus Pinus Quercus Rosa Salix Trifolium Viola".split()
_EPITHETS = "alba arvensis communis glabra hirsuta latifolia major minor montana palustris repens vulgaris".split()


class NoValue(ValueError):
    """No value was found that a schema accepts. The message names the field."""


class Values:
    """Creates values for the schemas of one OpenAPI document."""

    def __init__(self, components: dict[str, Any], tag: str) -> None:
        """
        :param components: the document's `components`, to which schemas refer.
        :param tag: a word that is part of each text, so that rows of this run can be told from others.
        """
        self._components = components
        self.tag = tag

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Follow the `$ref` of a schema."""
        while "$ref" in schema:
            schema = self._components["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema

    def body(self, schema: dict[str, Any], number: int) -> dict[str, Any]:
        """An object with a value for each of its properties. :raises NoValue: a property accepts no known value."""
        properties = self.resolve(schema)["properties"]
        return {name: self.value(field, name, number) for name, field in properties.items()}

    def value(self, schema: dict[str, Any], name: str, number: int) -> Any:
        """The `number`-th value of a field. :raises NoValue: the schema accepts no known value."""
        accepts = jsonschema_rs.Draft202012Validator(
            {**schema, "components": self._components}, validate_formats=True
        ).is_valid
        for candidate in self._candidates(self.resolve(schema), name, number):
            if accepts(candidate):
                return candidate
        raise NoValue(f"no value for the field {name!r}: its schema accepts none that this program knows")

    def _candidates(self, schema: dict[str, Any], name: str, number: int) -> Iterator[Any]:
        if "const" in schema:
            yield schema["const"]
        for known in (schema.get("enum"), schema.get("examples")):
            if known:
                yield known[number % len(known)]
        for choice in schema.get("anyOf", ()) if "type" not in schema else ():
            if self.resolve(choice).get("type") != "null":
                yield self.value(choice, name, number)
        match schema.get("type", "string"):
            case "boolean":
                yield number % 2 == 0
            case "integer" | "number" as kind:
                lowest = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
                highest = schema.get("maximum", schema.get("exclusiveMaximum", 2**31) - 1)
                # At most six digits, because a CQL float does not hold more.
                first = max(lowest, min(0, highest))
                span = min(int(highest - first) + 1, 2**31 if kind == "integer" else 1_000_000)
                value = first + number % max(span, 1)
                # A number is returned as 5.0, which is not the text of 5.
                yield value if kind == "integer" else float(value)
            case "array":
                prefix = [self.value(each, name, number) for each in schema.get("prefixItems", ())]
                wanted = max(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
                items = schema.get("items")
                more = range(len(prefix), wanted) if isinstance(items, dict) else ()
                elements = prefix + [self.value(items, name, number + each) for each in more]
                yield elements
                yield elements[:1]
            case "object" if "properties" in schema:
                yield self.body(schema, number)
            case "object":
                keys = schema.get("propertyNames", {"type": "string"})
                values = schema.get("additionalProperties", {})
                key = self.value(keys, name, number)
                # Keys are text: the propertyNames of booleans have an enum, those of numbers a pattern.
                yield {str(key): self.value(values, name, number)} if isinstance(values, dict) else {}
            case "string":
                yield from _texts(name, number, self.tag)
                yield f"{name}-{number}"[-schema.get("maxLength", 100) :]


def _texts(name: str, number: int, tag: str) -> Iterator[str]:
    """Texts in all formats that fields have: first the readable ones, then the ones that patterns demand."""
    given, family = _GIVEN[number % len(_GIVEN)], _FAMILY[number // len(_GIVEN) % len(_FAMILY)]
    match name:
        case "name":
            yield f"{given} {family} {tag}-{number}"
        case "genus":
            yield f"{_GENERA[number % len(_GENERA)]}-{tag}-{number // 1000}"
        case "species":
            yield f"{_EPITHETS[number % len(_EPITHETS)]}-{number}"
    yield f"{name.replace('_', '-')}-{tag}-{number}"
    yield f"{given}.{family}.{tag}-{number}@example.org".lower()
    yield f"https://example.org/{tag}/{number}"
    yield str(uuid.uuid5(_NAMESPACE, f"{tag} {name} {number}"))
    # Version 1: the number is the time, and the tag decides the node.
    node = uuid.uuid5(_NAMESPACE, tag).int & (2**48 - 1)
    yield str(uuid.UUID(fields=(number & 0xFFFFFFFF, 0x1533, 0x11F1, 0x80, 0x00, node)))
    moment = _EPOCH + timedelta(seconds=number)
    yield moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    yield (_EPOCH + timedelta(days=number % 20_000)).strftime("%Y-%m-%d")
    yield moment.strftime("%H:%M:%S")
    # Before the numbers and durations, because some of them are also base64.
    yield base64.b64encode(number.to_bytes(6, "big")).decode()
    yield str(number)
    yield f"PT{number + 1}S"
    yield f"192.0.{number // 256 % 256}.{number % 256}"
    yield f"2001:db8::{number % 65536:x}"
