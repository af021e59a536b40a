"""The OpenAPI 3.1 document: what flask-openapi3 reads off the views, and what is true of every route."""

from __future__ import annotations

from typing import Any

import orjson
from flask_openapi3 import OpenAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from schemas.models import Problem
from settings import get_settings
from web.errors import PROBLEM_TYPE
from web.hooks import CONSISTENCY_LEVELS, CSV, HTML, JSON, MAX_TIMEOUT, NDJSON, RouteOptions, options_of

_REF = "#/components/schemas/{model}"

_ERRORS = {
    304: "The client has this version already",
    400: "Broken JSON, an invalid UUID, or a page_state that is not good for this query",
    401: "No token, or another than the operator's",
    403: "Not an operator",
    404: "There is none",
    406: "None of the media types that the client accepts",
    408: "The body stopped coming",
    409: "The first request with this Idempotency-Key is still at work",
    412: "It has changed since, or is gone",
    413: "The body, or the batch made of it, is too large",
    415: "The body is not JSON",
    422: "A value breaks a rule; `errors` names each",
    500: "A fault of the service; its log has the request_id",
    501: "The server that runs the service can't be stopped from here",
    503: "Cassandra can't be reached, or too many requests are in flight",
    504: "Cassandra did not answer in time. A write may have been applied",
}

_RESPONSE_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {"description": "The client's id of this request, or a new one.", "schema": {"type": "string"}},
    "Server-Timing": {
        "description": "Milliseconds waiting for Cassandra and in the service; of a stream, up to the first byte.",
        "schema": {"type": "string"},
    },
    "ETag": {"description": "The version, for `If-Match` and `If-None-Match`.", "schema": {"type": "string"}},
    "Location": {"description": "Where the new one is.", "schema": {"type": "string", "format": "uri-reference"}},
    "Link": {"description": '`rel="next"` while there is more.', "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

_PARAMETERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "An id for the log: 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'. Another one is replaced.",
        "schema": {"type": "string"},
    },
    "X-Request-Timeout": {
        "description": "Seconds for the whole request.",
        "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TIMEOUT},
    },
    "X-Consistency-Level": {
        "description": "Instead of the default.",
        "schema": {"type": "string", "enum": list(CONSISTENCY_LEVELS)},
    },
    "X-Consistency-Level-of-writes": {
        "description": "Instead of the default. Of a lightweight transaction, the level of the commit.",
        "schema": {"type": "string", "enum": [*CONSISTENCY_LEVELS, "ANY"]},
    },
    "Idempotency-Key": {
        "description": "Your name for what is created. A repeat within 24 hours gets the first answer again.",
        "schema": {"type": "string", "pattern": r"^[\x21-\x2b\x2d-\x7e]{1,255}$"},
    },
    "If-Match": {"description": "Only if it is at this version (an `ETag`).", "schema": {"type": "string"}},
    "If-None-Match": {"description": "Only if it is at another version.", "schema": {"type": "string"}},
}

_models: set[type[BaseModel]] = {Problem}


def answers(
    status: int,
    model: type[BaseModel] | None,
    *errors: int,
    many: bool = False,
    stream: bool = False,
    headers: tuple[str, ...] = (),
    text: tuple[str, ...] = (),
    html: bool = False,
) -> dict[int | str, Any]:
    """The `responses` of a route. Those that every route has are added by :func:`document`.

    :param errors: statuses that this route has besides.
    :param many: the body is an array of `model`.
    :param stream: it is to be had as NDJSON and CSV too.
    :param headers: of the success response, by their names in this module.
    :param text: media types as which it is to be had besides.
    :param html: it is to be had as a page too.
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


def document(app: OpenAPI) -> dict[str, Any]:
    """The whole document, for the routes that are registered on `app`."""
    spec = app.api_doc
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            _complete(operation, method, options_of(_view(app, path, method)))
    # Not those of routes that are not registered.
    paths = orjson.dumps(spec["paths"]).decode()
    used = [model for model in _models if f'"{_REF.format(model=model.__name__)}"' in paths]
    _, definitions = models_json_schema([(model, "serialization") for model in used], ref_template=_REF)
    # Bodies were put there by flask-openapi3, as they come in.
    spec["components"]["schemas"] = definitions["$defs"] | spec["components"]["schemas"]
    spec["components"]["schemas"].pop("ValidationErrorModel", None)
    spec["components"]["securitySchemes"] = {
        "operator": {"type": "http", "scheme": "bearer", "description": "The token that OPERATOR_TOKEN holds."}
    }
    spec["components"]["headers"] = _RESPONSE_HEADERS
    spec["components"]["parameters"] = {
        key: {"name": key.removesuffix("-of-writes"), "in": "header", "required": False, **parameter}
        for key, parameter in _PARAMETERS.items()
    }
    return spec


def _complete(operation: dict[str, Any], method: str, route: RouteOptions) -> None:
    errors = [422, 500]
    if method != "delete":
        errors.append(406)
    if route.session:
        errors += [503, 504]
    if "requestBody" in operation:
        errors += [400, 408, 413, 415]
    if route.operators_only(get_settings()):
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
    rule = path.replace("{", "<").replace("}", ">")
    for candidate in app.url_map.iter_rules():
        if candidate.rule == rule and method.upper() in (candidate.methods or ()):
            return app.view_functions[candidate.endpoint]
    raise LookupError(f"{method} {path} is in the document, but has no view")
