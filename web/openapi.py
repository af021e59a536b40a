"""The OpenAPI 3.1 document.

flask-openapi3 derives it from the views; this module adds the parameters, headers and errors that all routes share.
"""

from __future__ import annotations

import re
from typing import Any, get_type_hints

import orjson
from flask import current_app
from flask_openapi3 import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.base import Problem, RuleJsonSchema
from settings import MAX_REQUEST_TIMEOUT, Settings
from web.consistency_level import CONSISTENCY_LEVELS, WRITE_LEVELS
from web.errors import PROBLEM_TYPE
from web.headers import MAX_HEADER_LENGTH
from web.idempotency import KEY_PATTERN
from web.media_types import CSV, HTML, JSON, NDJSON
from web.route_options import RouteOptions, options_of

_REF = "#/components/schemas/{model}"

_ERRORS = {
    304: "The client already has this version",
    400: "Invalid JSON, an invalid UUID, or a page_state that was not issued for this query",
    401: "No operator token, or a wrong one",
    403: "The service has no OPERATOR_TOKEN, so no client can call this route",
    404: "Not found",
    406: "The client accepts none of the available media types",
    408: "The client stopped sending the body",
    409: "The first request with this Idempotency-Key is still being processed",
    412: "The resource is at another version, or was deleted",
    413: "The body, or the batch made of it, is too large",
    415: "The body is not JSON",
    422: "A value is not valid; `errors` names up to 100 values and their rules",
    500: "An unexpected error; the service logs it with the request_id",
    501: "The service does not run under gunicorn; only gunicorn can be stopped by a request",
    503: "Cassandra can't be reached, too many requests are in flight, or writes are rejected for maintenance",
    504: "The deadline passed. A write may have been applied",
}

_RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "The client's request id, or a new one.", "schema": {"type": "string"}},
    "Server-Timing": {
        "description": "Milliseconds waiting for Cassandra and in the service; for a stream, until its first page.",
        "schema": {"type": "string"},
    },
    "ETag": {"description": "The version, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Path of the new resource.", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": '`rel="next"` while there are more pages.', "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait before a retry.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "The authentication scheme, `Bearer`.", "schema": {"type": "string"}},
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "Request id in the log: 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'. Other ids are replaced.",
        "schema": {"type": "string"},
    },
    "X-Request-Timeout": {
        "description": "Deadline of the whole request, in seconds.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_REQUEST_TIMEOUT},
    },
    "X-Consistency-Level": {
        "description": "Consistency level of this request.",
        "schema": {"type": "string", "enum": list(CONSISTENCY_LEVELS)},
    },
    # The same header, on routes that write.
    "X-Consistency-Level-of-writes": {
        "description": "Consistency level of this request; for a lightweight transaction, the commit level.",
        "schema": {"type": "string", "enum": list(WRITE_LEVELS)},
    },
    "Idempotency-Key": {
        "description": "A key that the client chooses. A retry with it within 24 hours gets the first response.",
        "schema": {"type": "string", "pattern": f"^{KEY_PATTERN}$"},
    },
    "If-Match": {
        "description": "Change the resource only if it is at this version (an `ETag`).",
        "schema": {"type": "string", "maxLength": MAX_HEADER_LENGTH},
    },
    "If-None-Match": {
        "description": "Return the resource only if it is at another version (an `ETag`).",
        "schema": {"type": "string", "maxLength": MAX_HEADER_LENGTH},
    },
}

_models: set[type[BaseModel]] = {Problem}


def responses(
    status: int,
    model: type[BaseModel] | None,
    *errors: int,
    many: bool = False,
    stream: bool = False,
    headers: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    html: bool = False,
) -> dict[int | str, Any]:
    """The `responses` of a route. :func:`document` adds those that every route has.

    :param errors: further error statuses of this route.
    :param many: the body is an array of `model`.
    :param stream: the body is also available as NDJSON and CSV.
    :param headers: headers of the success response: keys of `_RESPONSE_HEADERS`.
    :param text: further media types of the body.
    :param html: the body is also available as an HTML page.
    """
    success: dict[str, Any] = {"description": "Done", "headers": {name: _RESPONSE_HEADERS[name] for name in headers}}
    if model is not None:
        _models.add(model)
        schema: dict[str, Any] = {"$ref": _REF.format(model=model.__name__)}
        if many:
            schema = {"type": "array", "items": schema}
        success["content"] = {JSON: {"schema": schema}}
    more = (*text, *((NDJSON, CSV) if stream else ()), *((HTML,) if html else ()))
    for media_type in more:
        success.setdefault("content", {})[media_type] = {"schema": {"type": "string"}}
    return {status: success, **{error: _error(error) for error in errors}}


def _error(status: int) -> dict[str, Any]:
    if status == 304:
        return {"description": _ERRORS[304], "headers": {"ETag": _RESPONSE_HEADERS["ETag"]}}
    names = {401: ("WWW-Authenticate",), 409: ("Retry-After",), 503: ("Retry-After",)}.get(status, ())
    headers = {name: _RESPONSE_HEADERS[name] for name in names}
    content = {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model=Problem.__name__)}}}
    return {"description": _ERRORS[status], "headers": headers, "content": content}


_DOCUMENT = "fieldbook.openapi"


def register(app: OpenAPI, settings: Settings) -> None:
    """Store the document of an application, after all of its routes are registered."""
    app.extensions[_DOCUMENT] = orjson.dumps(document(app, settings))


def current_document() -> bytes:
    """The document of the current application, as JSON."""
    text: bytes = current_app.extensions[_DOCUMENT]
    return text


def document(app: OpenAPI, settings: Settings) -> dict[str, Any]:
    """Create the OpenAPI document of all routes that are registered on `app`.

    Call this function once, because it extends `app.api_doc`.

    :param settings: decide which routes are for operators.
    """
    spec = app.api_doc
    bodies: dict[str, Any] = {}
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            view = _view(app, path, method)
            _complete(operation, method, options_of(view), settings)
            if (body := get_type_hints(view).get("body")) is not None:
                bodies |= _schemas_of(body)
    # Only models of registered routes, because each call of responses() adds its model.
    paths = orjson.dumps(spec["paths"]).decode()
    used = [model for model in _models if f'"{_REF.format(model=model.__name__)}"' in paths]
    _, definitions = models_json_schema(
        [(model, "serialization") for model in used], ref_template=_REF, schema_generator=RuleJsonSchema
    )
    # Not flask-openapi3's schemas of request bodies: it drops the keywords that it does not know.
    spec["components"]["schemas"] = definitions["$defs"] | bodies
    spec["components"]["securitySchemes"] = {
        "operator": {"type": "http", "scheme": "bearer", "description": "The token in the setting OPERATOR_TOKEN."}
    }
    spec["tags"] = [{name: text for name, text in tag.items() if text is not None} for tag in spec["tags"]]
    spec["components"]["headers"] = _RESPONSE_HEADERS
    spec["components"]["parameters"] = {
        key: {"name": key.removesuffix("-of-writes"), "in": "header", "required": False, **parameter}
        for key, parameter in _PARAMETERS.items()
    }
    return spec


def _schemas_of(body: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema of a request body and those that it refers to, by name."""
    document = dict(body.model_json_schema(ref_template=_REF))
    return {**document.pop("$defs", {}), body.__name__: document}


def _complete(operation: dict[str, Any], method: str, route: RouteOptions, settings: Settings) -> None:
    """Add the parameters, response headers and errors that the route shares with others."""
    errors = [422, 500]
    if method != "delete":
        errors.append(406)
    if route.limited:
        errors += [503, 504]
    if "requestBody" in operation:
        errors += [400, 408, 413, 415]
    if route.operators_only(settings):
        operation["security"] = [{"operator": []}]
        errors += [401, 403]
    responses = operation["responses"]
    # flask-openapi3 adds a 422 of its own shape to every route.
    responses.pop("422", None)
    for status in errors:
        responses.setdefault(str(status), _error(status))
    for response in responses.values():
        names = ("X-Request-ID", "Server-Timing", *response.get("headers", ()))
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    headers = ["X-Request-ID", "X-Request-Timeout", "X-Consistency-Level"]
    if method != "get":
        headers[2] = "X-Consistency-Level-of-writes"
    if "412" in responses:
        headers.append("If-Match")
    if "409" in responses:
        headers.append("Idempotency-Key")
    if "304" in responses:
        headers.append("If-None-Match")
    parameters = operation.setdefault("parameters", [])
    parameters += [{"$ref": f"#/components/parameters/{name}"} for name in headers]


def _view(app: OpenAPI, path: str, method: str) -> Any:
    for candidate in app.url_map.iter_rules():
        # The form of flask-openapi3: "/x/<int:id>" becomes "/x/{id}".
        documented = re.sub(r"<([^<:]+:)?", "{", candidate.rule).replace(">", "}")
        if documented == path and method.upper() in (candidate.methods or ()):
            return app.view_functions[candidate.endpoint]
    raise LookupError(f"{method} {path} is in the document but has no view")
