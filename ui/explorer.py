"""Facts about a resource for the explorer, from the registry and the OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from routes.resource import Resource
from web.openapi import current_document

_SCHEMAS = "#/components/schemas/"

# The limit of a stream of all rows: the largest integer that JavaScript represents exactly.
_ALL = 2**53 - 1
# The title of each way to read rows, by its key in `routes` of the facts.
_VIEWS = {
    "partition": "Rows of a partition",
    "pages": "Page by page",
    "list": "Page by page",
    "stream": "All rows",
    "row": "One row",
}
# The JSON Schema of an input, by the CQL type of the column. Inputs of all other types are text.
_TYPES: dict[str, dict[str, Any]] = {
    **{key: {"type": "integer"} for key in ("tinyint", "smallint", "int")},
    **{key: {"type": "number"} for key in ("float", "double")},
    # A slash, "." or ".." would lead to another route.
    **{key: {"pattern": r"(?!\.{1,2}$)[^\/]+"} for key in ("ascii", "text")},
    "boolean": {"type": "boolean"},
    "date": {"format": "date"},
    "time": {"example": "08:30:00"},
    "timestamp": {"example": "2026-11-21T06:50:04Z"},
}
# The parameters of a range of the first clustering column.
_RANGE = {"from": "inclusive", "to": "exclusive"}
# Widths of columns in rem. Columns of other types have 12.
_WIDTHS = {"uuid": 23, "timeuuid": 23, "timestamp": 16, "tinyint": 6, "smallint": 6, "int": 7, "boolean": 6}


@dataclass(frozen=True)
class Field:
    """An input for a column of the key or for a query parameter.

    :ivar schema: the JSON Schema of the values that the input accepts.
    """

    name: str
    schema: Mapping[str, Any]
    hint: str
    value: str = ""
    required: bool = False

    @property
    def label(self) -> str:
        return self.name.replace("_", " ").capitalize()

    @property
    def choices(self) -> list[str]:
        """The values of a list to choose from; empty for other inputs."""
        return ["true", "false"] if self.schema.get("type") == "boolean" else self.schema.get("enum", [])

    @property
    def type(self) -> str:
        """The type of the HTML input."""
        if self.schema.get("type") in ("integer", "number"):
            return "number"
        return "date" if self.schema.get("format") == "date" else "text"

    @property
    def placeholder(self) -> Any:
        return self.schema.get("default", self.schema.get("example"))

    @property
    def step(self) -> str | None:
        return {"integer": "1", "number": "any"}.get(self.schema.get("type", ""))


@dataclass(frozen=True)
class View:
    """A way to read rows, with its inputs.

    :ivar name: the name of its route in the facts.
    :ivar defaults: a query string with the values of inputs that are empty.
    """

    name: str
    title: str
    path: str
    fields: tuple[Field, ...]
    defaults: str = ""


def explorer_facts(resource: Resource) -> dict[str, Any]:
    """The facts about a resource, for the script of the explorer.

    `routes` has the path templates and the query parameters of the routes that the resource has: `partition` (the rows
    of one partition), `list` (pages, with a `Link` header), `pages` (pages, with `page_state`), `stream` (all rows),
    `row` (one row). `create` and `change` are the JSON Schemas of the bodies, None if the resource has no such route.
    `links` are the columns that contain URLs. `sample` has the partition key of the sample rows.
    """
    document = orjson.loads(current_document())
    paths: dict[str, dict[str, Any]] = document["paths"]
    table = resource.table
    keys = [*table.partition_key, *table.clustering_key]
    partition = "".join(f"/{{{column}}}" for column in table.partition_key)
    row = "".join(f"/{{{column}}}" for column in keys)
    templates = {
        "partition": resource.path + partition if table.clustering_key else None,
        "list": resource.path,
        "pages": f"{resource.path}/stream/pages",
        "stream": f"{resource.path}/stream",
        "row": resource.path + row,
    }
    at_row = paths.get(templates["row"] or "", {})
    columns = {column: str(table.columns[column]) for column in table.public_columns}
    properties: dict[str, Any] = document["components"]["schemas"][resource.schema.__name__]["properties"]
    widths = [_WIDTHS.get(kind, 12) for kind in columns.values()]
    return {
        "name": resource.name,
        "path": resource.path,
        "partition": list(table.partition_key),
        "clustering": table.clustering_key,
        "columns": columns,
        "routes": {
            name: {"path": template, "parameters": _query_parameters(paths[template]["get"])}
            for name, template in templates.items()
            if template in paths and "get" in paths[template]
        },
        "links": [column for column in columns if _is_link(properties.get(column, {}))],
        "widths": " ".join(f"minmax({width}rem, {width}fr)" for width in widths),
        "sample": _values(resource.path + partition, resource.sample_path or ""),
        "deletes": "delete" in at_row,
        "versioned": "patch" in at_row,
        "create": _body(document, paths.get(resource.path, {}).get("post")),
        "change": _body(document, at_row.get("patch")),
    }


def explorer_views(facts: Mapping[str, Any], arguments: Mapping[str, str]) -> list[View]:
    """The ways to read the rows of a resource.

    :param arguments: the query string of the page, which has the values of the inputs.
    """
    columns: dict[str, str] = facts["columns"]
    views = []
    for name, title in _VIEWS.items():
        route = facts["routes"].get(name)
        if route is None or (name == "list" and "pages" in facts["routes"]):
            continue
        fields = []
        for column in re.findall(r"\{(\w+)\}", route["path"]):
            value = arguments.get(column, facts["sample"].get(column, ""))
            fields.append(Field(column, _TYPES.get(columns[column], {}), columns[column], value, required=True))
        has_all = False
        for parameter in route["parameters"]:
            key, schema, hint = parameter["name"], parameter["schema"], parameter["description"]
            if name == "stream" and key == "limit":
                has_all, schema = True, schema | {"default": "all"}
            if not hint and key in _RANGE and facts["clustering"]:
                first = next(iter(facts["clustering"]))
                hint = f"{first} ({columns[first]}), {_RANGE[key]}"
            fields.append(Field(key, schema, hint, arguments.get(key, "")))
        views.append(View(name, title, route["path"], tuple(fields), f"limit={_ALL}" if has_all else ""))
    return views


def is_editable(facts: Mapping[str, Any]) -> bool:
    """Whether the resource has a route that changes or replaces a row."""
    if facts["change"]:
        return True
    keys = {*facts["partition"], *facts["clustering"]}
    return facts["create"] is not None and keys <= facts["create"]["properties"].keys()


def _is_link(schema: dict[str, Any]) -> bool:
    """Whether the values of a column are URLs. The schema of a column that may be null has `anyOf`."""
    return any(each.get("format") == "iri" for each in (schema, *schema.get("anyOf", ())))


def _values(template: str, path: str) -> dict[str, str]:
    """The values of the variables of a path template in a path; empty if the path has another form."""
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))
    found = re.fullmatch(pattern, path)
    return {name: unquote(value) for name, value in found.groupdict().items()} if found else {}


def _query_parameters(operation: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": each["name"], "schema": each["schema"], "description": each.get("description", "")}
        for each in operation.get("parameters", ())
        if each.get("in") == "query" and each["name"] != "page_state"
    ]


def _body(document: dict[str, Any], operation: dict[str, Any] | None) -> dict[str, Any] | None:
    """The JSON Schema of the body of an operation."""
    if operation is None:
        return None
    (content,) = operation["requestBody"]["content"].values()
    schema: dict[str, Any] = content["schema"]
    if reference := schema.get("$ref"):
        schema = document["components"]["schemas"][reference.removeprefix(_SCHEMAS)]
    return schema
