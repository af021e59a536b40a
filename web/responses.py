"""What views return."""

from __future__ import annotations

from typing import Any

from flask import Response, url_for

# A body, which becomes JSON unless it is a string; with a status; with headers. Flask's own type for this can't be
# evaluated at run time, and flask-openapi3 evaluates the type hints of views.
ResponseValue = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]


def location(endpoint: str, **values: Any) -> dict[str, str]:
    """The `Location` header of a new resource: a path, with the prefix that the client used.

    :param endpoint: `blueprint.view` of the route that returns the resource.
    :param values: parts of its path.
    """
    return {"Location": url_for(endpoint, **values)}
