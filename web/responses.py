"""Return values of views."""

from __future__ import annotations

from typing import Any

from flask import Response, url_for

# A body, alone, with a status, or with a status and headers. Flask sends a str as it is, and a dict or list as JSON.
# Flask's own type for this can't be evaluated at run time, and flask-openapi3 evaluates the type hints of views.
ResponseValue = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]


def location(endpoint: str, **values: Any) -> dict[str, str]:
    """The `Location` header of a new resource: its path, with the client's URL prefix.

    :param endpoint: `blueprint.view` of the route that returns the resource.
    :param values: variable parts of the path.
    """
    return {"Location": url_for(endpoint, **values)}
