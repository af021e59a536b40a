"""The deadline of a request: the client's `X-Request-Timeout`, or the default."""

from __future__ import annotations

import re

from flask import g, request

from schemas.base import InvalidInput
from settings import MAX_REQUEST_TIMEOUT
from web.route_options import RouteOptions

# A JSON number. float() would also accept nan, inf and 1_000.
_SECONDS = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


def find(default: float, route: RouteOptions) -> float | None:
    """The deadline, as a value of `time.monotonic()`; None for a stream or an upload without the header.

    :param default: seconds for a route without a timeout of its own.
    :raises InvalidInput: the header is not a number of seconds within the limits.
    """
    seconds = request.headers.get("X-Request-Timeout")
    if seconds is not None:
        if not _SECONDS.fullmatch(seconds) or not 0 < float(seconds) <= MAX_REQUEST_TIMEOUT:
            raise InvalidInput.at(
                "header", "X-Request-Timeout", "Input should be a number of seconds above 0 and at most 60"
            )
        return float(g.started) + float(seconds)
    if route.stream or route.upload:
        return None
    return float(g.started) + (route.timeout or default)
