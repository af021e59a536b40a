"""Return values of views."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Response, url_for

from storage.cql.json_values import base64url, rfc3339

# A body, alone, with a status, or with a status and headers. Flask sends a str as it is, and a dict or list as JSON.
# Flask's own type for this can't be evaluated at run time, and flask-openapi3 evaluates the type hints of views.
ResponseValue = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]


def location(endpoint: str, **values: Any) -> dict[str, str]:
    """The `Location` header of a new resource: its path, with the client's URL prefix.

    :param endpoint: `blueprint.view` of the route that returns the resource.
    :param values: variable parts of the path, as the schema returned them.
    """
    parts: dict[str, Any] = {name: _path_text(value) for name, value in values.items()}
    return {"Location": url_for(endpoint, **parts)}


def _path_text(value: Any) -> str:
    """A value in the form that `schemas.parameters` accepts."""
    match value:
        case bool():
            return str(value).lower()
        case datetime():
            return rfc3339(value)
        case bytes():
            return base64url(value)
    return str(value)
