"""What views give back."""

from __future__ import annotations

from typing import Any

from flask import Response, url_for

# A body (made into JSON), with a status, with headers.
Answer = Response | dict[str, Any] | tuple[Any, int] | tuple[Any, int, dict[str, str]]


def location(endpoint: str, **values: Any) -> dict[str, str]:
    """The `Location` header of a new resource: a path, under the prefix by which the client came."""
    return {"Location": url_for(endpoint, **values)}
