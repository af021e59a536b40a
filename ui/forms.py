"""The inputs of the forms that create and change rows, from the JSON Schemas of the bodies and the CQL types.

They are rendered here, so that the scripts stay small: `ui/static/form.js` fills and reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from ui.blueprint import blueprint

_EXAMPLES = {
    "bigint": "-42",
    "varint": "-42",
    "decimal": "21.350",
    "time": "08:30:00.5",
    "duration": "P1Y2M3DT4H5M6.5S",
    "inet": "192.0.2.1 or 2001:db8::1",
    "blob": "AP8Q, which is base64",
    "uuid": "123e4567-e89b-42d3-a456-426614174000",
    "timeuuid": "8a1dac20-c0a5-11f0-8de9-0242ac120002",
}
_NOTES = {
    "timestamp": "UTC",
    "float": "NaN and infinity read as null",
    "double": "NaN and infinity read as null",
}
_JSON_FORMS = {"array": "as JSON: […, …]", "object": 'as JSON: {"key": …}'}
# Text may have line breaks if it may be longer than this.
_LINE = 500


class RowField(NamedTuple):
    """An input for a column.

    :ivar kind: `json` if the input has the JSON text of the value, `number` if the value is a number; otherwise `text`.
    :ivar element: `select`, `textarea` or `input`.
    :ivar attributes: attributes of the element.
    :ivar choices: the JSON texts of the options of a `select`.
    :ivar has_null: there is a checkbox for null, because an empty input is an empty text.
    :ivar empty: JSON text of what an empty input means; None if it is an error.
    :ivar is_optional: a new row may be without the value.
    :ivar default: the value in a new form, as the input has it; None for none and for null.
    """

    column: str
    kind: str
    element: str
    attributes: Mapping[str, Any]
    choices: tuple[str, ...]
    has_null: bool
    empty: str | None
    is_optional: bool
    default: str | None
    hint: str


def row_fields(schema: Mapping[str, Any], columns: Mapping[str, str]) -> list[RowField]:
    """The inputs for a body.

    :param schema: the JSON Schema of the body.
    :param columns: the CQL types of the columns.
    """
    required = schema.get("required", ())
    return [
        _field(name, columns.get(name, ""), rule, name in required)
        for name, rule in schema.get("properties", {}).items()
    ]


def _field(column: str, cql_type: str, schema: Mapping[str, Any], is_required: bool) -> RowField:
    alternatives: list[dict[str, Any]] = schema.get("anyOf", [])
    is_nullable = {"type": "null"} in alternatives
    rule = next(each for each in alternatives if each != {"type": "null"}) if is_nullable else schema
    json_type = rule.get("type", "")
    choices = [True, False] if json_type == "boolean" else rule.get("enum", [])
    is_number = json_type in ("integer", "number")
    is_json = bool(choices) or not (is_number or json_type == "string")
    is_text = not is_json and cql_type in ("ascii", "text", "blob") and "format" not in rule
    is_long = is_text and rule.get("maxLength", _LINE + 1) > _LINE
    allows_empty = is_text and not rule.get("minLength")
    empty: list[Any] = [""] if allows_empty else [None] if is_nullable else []
    if json_type in ("array", "object"):
        empty.append([] if json_type == "array" else {})
    if "default" in schema:
        empty.append(schema["default"])
    default = schema.get("default")
    attributes = {} if is_json or is_long else _attributes(rule, cql_type)
    hints = [
        cql_type,
        "required" if is_required else "may be null" if is_nullable else "",
        _JSON_FORMS.get(json_type, "as JSON") if is_json and not choices else "",
        *(f"{name} {attributes[name]}" for name in ("min", "max") if attributes.get(name) is not None),
        _NOTES.get(cql_type, ""),
        f"for example {_EXAMPLES[cql_type]}" if cql_type in _EXAMPLES else "",
    ]
    return RowField(
        column,
        "json" if is_json else "number" if is_number else "text",
        element="select" if choices else "textarea" if is_json or is_long else "input",
        attributes=attributes,
        choices=tuple(_json(each) for each in choices),
        has_null=allows_empty and is_nullable,
        empty=_json(empty[0]) if empty else None,
        is_optional=not is_required,
        default=None if default is None else _json(default) if is_json else str(default),
        hint=", ".join(filter(None, hints)),
    )


def _attributes(rule: Mapping[str, Any], cql_type: str) -> dict[str, Any]:
    # No maxlength and no pattern: browsers count an emoji as two characters, and read some patterns differently.
    match rule["type"], cql_type:
        case "integer", _:
            most = rule.get("maximum", rule.get("exclusiveMaximum", 0) - 1 if "exclusiveMaximum" in rule else None)
            return {"type": "number", "min": rule.get("minimum"), "max": most}
        case "number", _:
            return {"type": "number", "step": "any", "min": rule.get("minimum"), "max": rule.get("maximum")}
        case _, "date":
            return {"type": "date"}
        case _, "timestamp":
            return {"type": "datetime-local", "step": "0.001"}
    return {"type": "text", "inputmode": {"email": "email", "iri": "url"}.get(rule.get("format", ""))}


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


@blueprint.app_context_processor
def _template_variables() -> dict[str, Any]:
    return {"row_fields": row_fields}
