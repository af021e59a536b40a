"""Checks that correct Flask's routing: no redirects, and no methods of other routes.

A path such as `/users/stream` also matches the route `/users/<id>`. Flask would therefore add the methods of that route
to `Allow`, and pass `PUT /users/stream` to it.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask, Response, request
from werkzeug.exceptions import BadRequest, MethodNotAllowed, NotFound
from werkzeug.routing import RequestRedirect

from web.route_options import options_of

# What Werkzeug puts in the place of bytes that are not UTF-8.
_REPLACEMENT = "\ufffd"


def static_paths(app: Flask) -> dict[str, list[str]]:
    """The paths of the routes without variable parts, each with its methods.

    Without those of routes that share their path with another route.
    """
    methods: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        if not rule.arguments and not options_of(app.view_functions[rule.endpoint]).shares_path:
            methods.setdefault(rule.rule, set()).update(rule.methods or ())
    return {path: sorted(names) for path, names in methods.items()}


def upload_paths(app: Flask) -> frozenset[str]:
    """The paths of the routes that read the body while it arrives."""
    return frozenset(
        rule.rule for rule in app.url_map.iter_rules() if options_of(app.view_functions[rule.endpoint]).upload
    )


def check(static: Mapping[str, list[str]]) -> Response | None:
    """Check the path and the method of the request.

    :param static: from :func:`static_paths`.
    :returns: the response to OPTIONS on a path of `static`; otherwise None.
    :raises BadRequest: the path is not valid UTF-8.
    :raises MethodNotAllowed: the path is in `static`, but not with this method.
    :raises NotFound: Flask would redirect to a similar path, and a redirect could lose the body of a POST. Or the path
        begins with two slashes.
    """
    if request.environ["PATH_INFO"].startswith("//"):
        # Werkzeug drops leading slashes. A proxy that denies a path such as /metrics would not deny //metrics.
        raise NotFound
    path = request.path
    if _REPLACEMENT in path:
        _reject_invalid_utf8()
    methods = static.get(path)
    if methods is not None:
        if request.method == "OPTIONS":
            return Response(headers={"Allow": ", ".join(methods)})
        if request.method not in methods:
            raise MethodNotAllowed(methods)
    if isinstance(request.routing_exception, RequestRedirect):
        raise NotFound
    return None


def _reject_invalid_utf8() -> None:
    """Raise BadRequest, unless the client sent the replacement character itself."""
    try:
        # WSGI holds each byte of the path as one character.
        request.environ["PATH_INFO"].encode("latin-1").decode()
    except UnicodeDecodeError:
        raise BadRequest("The path is not valid UTF-8.") from None
