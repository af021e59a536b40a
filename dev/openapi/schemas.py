"""Compare two JSON Schemas of an OpenAPI 3.1 document, as input or as output of the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# A schema with its references resolved, and the name of the component if it is one.
Named = tuple[dict[str, Any], str | None]

_ANNOTATIONS = frozenset(
    "$comment default deprecated description discriminator example examples externalDocs title xml".split()
)
_LOWER = (("minimum", "exclusiveMinimum"), ("minLength",), ("minItems",), ("minProperties",))
_UPPER = (("maximum", "exclusiveMaximum"), ("maxLength",), ("maxItems",), ("maxProperties",))
# Keywords with rules of their own. A schema must have the same value as before for every other keyword.
_WITH_RULES = frozenset("type anyOf oneOf enum const properties required additionalProperties items".split()).union(
    *_LOWER, *_UPPER
)
# The keywords of output that belong to its type. The service may change limits and values of its output.
_OUTPUT_TYPE = ("format", "contentEncoding", "contentMediaType", "allOf", "prefixItems")


def resolve(document: dict[str, Any], value: Any) -> Named:
    """Follow the references of a schema, parameter, header, body or response.

    :param value: also true or false, which are schemas that accept everything or nothing.
    """
    name = None
    if isinstance(value, bool):
        return ({} if value else {"not": {}}), None
    while "$ref" in value:
        siblings = {keyword: each for keyword, each in value.items() if keyword != "$ref"}
        target: Any = document
        for part in value["$ref"].removeprefix("#/").split("/"):
            name = part.replace("~1", "/").replace("~0", "~")
            target = target[name]
        value = target | siblings
    return value, name


def shown(value: Any) -> str:
    """A value as JSON of at most 100 characters."""
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 100 else f"{text[:99]}…"


class SchemaComparison:
    """Find the changes of schemas that break clients.

    Input must accept all values that it accepted before. Output must have only values of the types that it had before.
    """

    def __init__(self, before: dict[str, Any], after: dict[str, Any], is_input: bool) -> None:
        """Compare schemas of two documents.

        :param is_input: clients send the values; false if the service sends them.
        """
        self._before = before
        self._after = after
        self._is_input = is_input
        # The components that are being compared. A component may refer to itself.
        self._active: list[tuple[str, str]] = []

    def changes(self, before: Any, after: Any, label: str = "") -> list[str]:
        """Describe each change in one sentence, without the operation.

        :param label: path of the field in the body; empty for the whole body or parameter.
        """
        old, new = list(_alternatives(self._before, before)), list(_alternatives(self._after, after))
        found: list[str] = []
        # Each alternative of `narrow` must be a part of an alternative of `wide`.
        narrow, wide = (old, new) if self._is_input else (new, old)
        for one in narrow:
            fitting = [each for each in wide if _accepts(each[0].get("type"), one[0].get("type"))]
            if not fitting:
                return [_changed(label, "", _types(old), _types(new))]
            pairs = [(one, each) if self._is_input else (each, one) for each in fitting]
            # Of several alternatives of this type, describe the differences from the most similar one.
            results: list[list[str]] = [self._of_one_type(*pair, label) for pair in pairs]
            closest = min(results, key=len)
            found += closest
        return found

    def _of_one_type(self, before: Named, after: Named, label: str) -> list[str]:
        (old, old_name), (new, new_name) = before, after
        if old_name and new_name:
            if (old_name, new_name) in self._active:
                return []
            self._active.append((old_name, new_name))
        label = new_name or label
        found = [*self._keywords(old, new, label), *self._fields(old, new, label)]
        if "items" in old or "items" in new:
            found += self.changes(old.get("items", True), new.get("items", True), f"{label}[]")
        if old_name and new_name:
            self._active.pop()
        return found

    def _keywords(self, old: dict[str, Any], new: dict[str, Any], label: str) -> Iterator[str]:
        narrow, wide = (old, new) if self._is_input else (new, old)
        for keyword in wide.keys() - _WITH_RULES - _ANNOTATIONS if self._is_input else _OUTPUT_TYPE:
            values = _expanded(self._before, old.get(keyword)), _expanded(self._after, new.get(keyword))
            if keyword in wide and values[0] != values[1]:
                yield _keyword_changed(label, keyword, old, new)
        if not self._is_input:
            return
        allowed = _values(wide)
        if allowed is not None and not set(_values(narrow) or ["any other value"]) <= set(allowed):
            yield from (_keyword_changed(label, each, old, new) for each in ("const", "enum") if each in old | new)
        for sign, groups in ((1, _LOWER), (-1, _UPPER)):
            for group in groups:
                if _bound(sign, group, wide) > _bound(sign, group, narrow):
                    yield from (
                        _keyword_changed(label, each, old, new) for each in group if old.get(each) != new.get(each)
                    )

    def _fields(self, old: dict[str, Any], new: dict[str, Any], label: str) -> Iterator[str]:
        before, after = set(old.get("required", ())), set(new.get("required", ()))
        old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
        prefix = f"{label}." if label else ""
        for name in old_fields:
            if name not in new_fields:
                yield f"field {prefix}{name} was removed"
                continue
            yield from self.changes(old_fields[name], new_fields[name], f"{prefix}{name}")
            if self._is_input and name in after - before:
                yield f"field {prefix}{name} was optional, is now required"
            if not self._is_input and name in before - after:
                yield f"field {prefix}{name} was always present, is now optional"
        if self._is_input:
            yield from (
                f"field {prefix}{name} is new and required" for name in sorted(after - old_fields.keys() - before)
            )
        if "object" in (old.get("type"), new.get("type")):
            old_rest, new_rest = (schema.get("additionalProperties", True) for schema in (old, new))
            if old_rest is not False and new_rest is not False:
                yield from self.changes(old_rest, new_rest, f"{prefix}*")
            elif self._is_input and old_rest is not False:
                yield _changed(label, "other fields", "accepted", "rejected")


def _alternatives(document: dict[str, Any], schema: Any) -> Iterator[Named]:
    """The schemas of one type of which a value must match one."""
    resolved, name = resolve(document, schema)
    for keyword in ("anyOf", "oneOf"):
        if keyword in resolved:
            common = {each: value for each, value in resolved.items() if each != keyword}
            for branch in resolved[keyword]:
                for alternative, own_name in _alternatives(document, branch):
                    yield common | alternative, own_name or name
            return
    types = resolved.get("type")
    if isinstance(types, list):
        yield from (({**resolved, "type": each}, name) for each in types)
    else:
        yield resolved, name


def _accepts(wide: str | None, narrow: str | None) -> bool:
    return wide is None or wide == narrow or (wide, narrow) == ("number", "integer")


def _values(schema: dict[str, Any]) -> list[str] | None:
    """The values that `enum` or `const` allows, as JSON; None for all values."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else [shown(each) for each in values]


def _bound(sign: int, group: tuple[str, ...], schema: dict[str, Any]) -> tuple[float, bool]:
    """The limit that a group of keywords sets. A greater bound accepts fewer values.

    :param sign: 1 for lower limits, -1 for upper limits.
    """
    bounds = [(sign * schema[name], name.startswith("exclusive")) for name in group if name in schema]
    return max(bounds, default=(float("-inf"), False))


def _expanded(document: dict[str, Any], value: Any, depth: int = 8) -> Any:
    """A value with all references replaced, so that it can be compared."""
    if isinstance(value, dict):
        if "$ref" in value and depth:
            value = resolve(document, value)[0]
            depth -= 1
        return {name: _expanded(document, each, depth) for name, each in value.items()}
    return [_expanded(document, each, depth) for each in value] if isinstance(value, list) else value


def _types(alternatives: list[Named]) -> str:
    return " or ".join(dict.fromkeys(schema.get("type", "any value") for schema, _ in alternatives))


def _keyword_changed(label: str, keyword: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    before, after = (shown(schema[keyword]) if keyword in schema else "not set" for schema in (old, new))
    return _changed(label, keyword, before, after)


def _changed(label: str, what: str, before: str, after: str) -> str:
    name = f"field {label}" if label else ""
    return f"{name}{': ' if name and what else ''}{what or ('' if name else 'value')} was {before}, is now {after}"
