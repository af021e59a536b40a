"""Content negotiation: the client's `Accept` decides the media type of the response."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, g, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import NotAcceptable
from werkzeug.http import parse_accept_header

from web.headers import bounded_header
from web.route_options import RouteOptions


def negotiate(route: RouteOptions) -> None:
    """Set `g.media_type` to the best of the media types that the view can return.

    :raises NotAcceptable: the client accepts none of them.
    :raises InvalidInput: the header is too long.
    """
    # A DELETE returns no body.
    if route.produces and request.method != "DELETE":
        g.produces = route.produces
        g.media_type = _best(route.produces)


def _best(produces: tuple[str, ...]) -> str:
    accept = bounded_header("Accept")
    if not accept or accept == "*/*":
        return produces[0]
    # Werkzeug takes quadratic time for a run of white space.
    accept = re.sub(r"[ \t]+", " ", accept)
    # Older clients send "q=.2" and "*", which Werkzeug does not parse.
    accept = re.sub(r"(^|,)\s*\*\s*(?=[;,]|$)", r"\1*/*", re.sub(r"\bq=\.", "q=0.", accept))
    # Parameters such as charset are ignored, because each media type has one variant only.
    parsed = parse_accept_header(accept, MIMEAccept)
    wanted = [(value.partition(";")[0].strip(), quality) for value, quality in parsed]
    best = MIMEAccept(wanted).best_match(produces) if wanted else produces[0]
    if best is None:
        raise NotAcceptable(f"This resource is available as {', '.join(produces)}.")
    return best


def finish(response: Response, context: Any) -> None:
    """Correct the Content-Type and Vary headers.

    :param context: Flask's `g`.
    """
    if response.status_code in (204, 304):
        # 204 and 304 have no body: drop the Content-Type that Flask adds.
        response.headers.pop("Content-Type", None)
    if len(context.get("produces", ())) > 1:
        response.vary.add("Accept")
