"""Requests from pages of other origins (CORS, Fetch standard): which origins a browser lets read responses.

flask-cors is not used: see docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Request, Response, current_app

from settings import Settings

# Response headers that a script may read, besides those that every script may read, such as Content-Type.
EXPOSED_HEADERS = (
    "ETag, Link, Location, RateLimit, RateLimit-Policy, Retry-After, Server-Timing, WWW-Authenticate, X-Request-ID"
)
# Request headers that a script may send. Browsers set other headers themselves, or allow them without a preflight.
REQUEST_HEADERS = (
    "Accept, Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, "
    "X-Consistency-Level, X-Request-ID, X-Request-Timeout"
)
# Seconds for which a browser does not repeat a preflight request. Chromium allows no more.
MAX_AGE = 7200


class AllowedOrigins:
    """The origins whose scripts may call the service from a browser."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.cors_origins)
        self._headers = {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
        if settings.cors_credentials:
            self._headers["Access-Control-Allow-Credentials"] = "true"

    def preflight(self, request: Request, static: Mapping[str, list[str]]) -> Response | None:
        """The response to a preflight request of an allowed origin; None for other requests and for unknown paths.

        :param static: the methods of the paths without variable parts, from `web.routing.static_paths`.
        """
        if not self._origins or request.method != "OPTIONS":
            return None
        if "Access-Control-Request-Method" not in request.headers or self._allowed(request) is None:
            return None
        methods = static.get(request.path) or sorted(current_app.make_default_options_response().allow)
        if not methods:
            return None
        headers = {
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": REQUEST_HEADERS,
            "Access-Control-Max-Age": str(MAX_AGE),
        }
        return Response(status=204, headers=headers)

    def finish(self, response: Response, request: Request) -> None:
        """Add the headers that let a script of an allowed origin read the response."""
        if not self._origins:
            return
        # Also without an Origin header: a cache must not reuse such a response for a request with an Origin header.
        response.vary.add("Origin")
        if (allowed := self._allowed(request)) is not None:
            response.headers["Access-Control-Allow-Origin"] = allowed
            response.headers.update(self._headers)

    def _allowed(self, request: Request) -> str | None:
        """The value of Access-Control-Allow-Origin; None if the origin of the request is not allowed."""
        origin = request.headers.get("Origin")
        # "null" is the origin of sandboxed frames and local files, which any page can create.
        if origin is None or origin == "null":
            return None
        if "*" in self._origins:
            return "*"
        return origin if origin in self._origins else None
