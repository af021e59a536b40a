"""What the explorer must know of a resource, from the registry and the OpenAPI document."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import orjson

from routes.resource import Resource
from web.openapi import current_document

_SCHEMAS = "#/components/schemas/"


def explorer_facts(resource: Resource) -> dict[str, Any]:
    """The facts about a resource, for the script of the explorer.

    `routes` has the path templates and the query parameters of the routes that the resource has: `partition` (the rows
    of one partition), `list` (pages, with a `Link` header), `pages` (pages, with `page_state`), `stream` (all rows),
    `row` (one row). `create` and `change` are the JSON Schemas of the bodies, None where there is no such route.
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
    properties: dict[str, Any] = document["components"]["schemas"][resource.schema.__name__]["properties"]
    return {
        "name": resource.name,
        "path": resource.path,
        "partition": list(table.partition_key),
        "clustering": table.clustering_key,
        "columns": {column: str(table.columns[column]) for column in table.public_columns},
        "routes": {
            name: {"path": template, "parameters": _query_parameters(paths[template]["get"])}
            for name, template in templates.items()
            if template in paths and "get" in paths[template]
        },
        "links": [column for column in table.public_columns if _is_link(properties.get(column, {}))],
        "sample": _values(resource.path + partition, resource.sample_path or ""),
        "deletes": "delete" in at_row,
        "versioned": "patch" in at_row,
        "create": _body(document, paths.get(resource.path, {}).get("post")),
        "change": _body(document, at_row.get("patch")),
    }


def _is_link(schema: dict[str, Any]) -> bool:
    """Whether the values of a column are URLs. A column that may be null has `anyOf`."""
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
