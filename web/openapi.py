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
from web.media_types import CSV, FORM, HTML, JSON, MULTIPART, NDJSON
from web.route_options import RouteOptions, options_of

_REF = "#/components/schemas/{model}"

_ERRORS = {
    304: "The client already has this version",
    400: "The JSON, UUID, page_state, host name or encoding of the URL is not valid",
    401: "No token, or a token that has expired or is not valid",
    403: "The token does not have the scope that the route requires",
    404: "Not found",
    406: "The client accepts none of the available media types",
    408: "The client stopped sending the body",
    409: "The response to the first request with this Idempotency-Key is not available yet",
    412: "The resource is not at a version that If-Match and If-None-Match accept, or was deleted",
    413: "The body, or the batch made of it, is too large",
    415: "The route does not accept the media type or the Content-Encoding of the body",
    422: "A value is not valid; `errors` names up to 100 values and their rules",
    429: "The client has sent too many requests: see Retry-After",
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
    "Cache-Control": {"description": "`no-store`: the response has tokens.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "The authentication scheme, `Bearer`.", "schema": {"type": "string"}},
}

_ERROR_HEADERS = {
    401: ("WWW-Authenticate",),
    403: ("WWW-Authenticate",),
    409: ("Retry-After",),
    429: ("Retry-After",),
    503: ("Retry-After",),
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
    # The same header, on routes that change a version.
    "If-None-Match-of-writes": {
        "description": "Change the resource only if it is at another version (an `ETag`); `*` excludes every version.",
        "schema": {"type": "string", "maxLength": MAX_HEADER_LENGTH},
    },
}

_SECURITY_SCHEMES = {
    "account": {
        "type": "oauth2",
        "description": "An account of this service. As the username, enter its e-mail address.",
        "flows": {
            "password": {
                # Relative to the URL of this document.
                "tokenUrl": "auth/token",
                "refreshUrl": "auth/token",
                "scopes": {
                    "read": "Read everything that is not for operators.",
                    "write": "Create, change and delete.",
                    "operator": "Everything, including the operation of the service.",
                },
            }
        },
    },
    "operator": {"type": "http", "scheme": "bearer", "description": "The token in the setting OPERATOR_TOKEN."},
}

# The body of an import.
_FILE: dict[str, Any] = {
    NDJSON: {"schema": {"type": "string", "description": "A line for each row: a JSON object."}},
    CSV: {"schema": {"type": "string", "description": "A line with the names of the columns, then the rows."}},
    MULTIPART: {
        "schema": {
            "type": "object",
            "properties": {"file": {"type": "string", "format": "binary", "description": "NDJSON or CSV."}},
            "required": ["file"],
        }
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


def error_response(status: int, description: str) -> dict[str, Any]:
    """The response of a route for which an error status has a meaning of its own."""
    return _error(status) | {"description": description}


def json_error(model: type[BaseModel], description: str) -> dict[str, Any]:
    """An error response that is not a problem document, because a standard defines another form."""
    _models.add(model)
    headers = {"Cache-Control": _RESPONSE_HEADERS["Cache-Control"]}
    content = {JSON: {"schema": {"$ref": _REF.format(model=model.__name__)}}}
    return {"description": description, "headers": headers, "content": content}


def _error(status: int) -> dict[str, Any]:
    if status == 304:
        return {"description": _ERRORS[304], "headers": {"ETag": _RESPONSE_HEADERS["ETag"]}}
    names = _ERROR_HEADERS.get(status, ())
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

    :param settings: decide which routes require a token.
    """
    spec = app.api_doc
    bodies: dict[str, Any] = {}
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            view = _view(app, path, method)
            route = options_of(view)
            if route.form is not None:
                # flask-openapi3 can describe one media type only.
                schema = {"schema": {"$ref": _REF.format(model=route.form.__name__)}}
                operation["requestBody"] = {"content": {FORM: schema, JSON: schema}, "required": True}
            if route.upload:
                operation["requestBody"] = {"content": _FILE, "required": True}
            _complete(operation, method, route, settings)
            if (body := route.form or get_type_hints(view).get("body")) is not None:
                bodies |= _schemas_of(body)
    # Only models of registered routes, because each call of responses() adds its model.
    paths = orjson.dumps(spec["paths"]).decode()
    used = [model for model in _models if f'"{_REF.format(model=model.__name__)}"' in paths]
    _, definitions = models_json_schema(
        [(model, "serialization") for model in used], ref_template=_REF, schema_generator=RuleJsonSchema
    )
    # Not flask-openapi3's schemas of request bodies: it drops the keywords that it does not know.
    spec["components"]["schemas"] = definitions["$defs"] | bodies
    spec["components"]["securitySchemes"] = _SECURITY_SCHEMES
    # Relative to the URL of this document, so that it has the client's URL prefix.
    spec["servers"] = [{"url": "."}]
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
    errors = [400, 422, 500]
    if method != "delete":
        errors.append(406)
    if route.limited:
        errors += [503, 504]
    if "requestBody" in operation:
        errors += [408, 413, 415]
    if route.rate_limited and settings.request_limit:
        errors.append(429)
    if scope := route.required_scope(method.upper(), settings):
        operation["security"] = [{"account": []}] if scope == "account" else [{"account": [scope]}, {"operator": []}]
        errors += [401, 403]
    responses = operation["responses"]
    # flask-openapi3 adds a 422 of its own shape to every route.
    responses.pop("422", None)
    for status in errors:
        responses.setdefault(str(status), _error(status))
    for response in responses.values():
        names = ("X-Request-ID", "Server-Timing", *response.get("headers", ()))
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    headers = ["X-Request-ID", "X-Request-Timeout"]
    if not route.upload:
        headers.append("X-Consistency-Level" if method == "get" else "X-Consistency-Level-of-writes")
    if "412" in responses:
        headers += ["If-Match", "If-None-Match-of-writes"]
    if responses.get("409", {}).get("description") == _ERRORS[409]:
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
