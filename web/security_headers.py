"""Response headers that restrict what browsers and caches do with a response."""

from __future__ import annotations

from typing import Any

from flask import Request, Response

from settings import Settings
from web.media_types import HTML

# Only the pages load anything. No page of any origin may show a response in a frame.
_POLICY = "default-src 'none'; frame-ancestors 'none'"
# HTML pages load files and responses of this service only, and have no inline scripts and no inline styles.
_PAGE_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src 'self' data:; "
    "object-src 'none'"
)
_ALWAYS = {
    # A browser must not guess a type: text of a user in a JSON response must not run as a script.
    "X-Content-Type-Options": "nosniff",
    # The URLs of the service contain keys of rows.
    "Referrer-Policy": "no-referrer",
    # No page of another origin may load a response as an image or script. Requests with CORS are not affected.
    "Cross-Origin-Resource-Policy": "same-origin",
}
# The response is for one caller. A browser may keep it, but must ask the service, with the ETag, before each use.
_PRIVATE = "private, no-cache"


class SecurityHeaders:
    """The headers of all responses, prepared once."""

    def __init__(self, settings: Settings) -> None:
        self._others = list((_ALWAYS | {"Content-Security-Policy": _POLICY}).items())
        self._pages = list((_ALWAYS | {"Content-Security-Policy": _PAGE_POLICY}).items())
        self._transport = f"max-age={settings.hsts_max_age}" if settings.hsts_max_age else None

    def finish(self, response: Response, request: Request, context: Any) -> None:
        """Add the headers.

        :param context: Flask's `g`.
        """
        headers = response.headers
        # Flask's response to OPTIONS has the media type of a page, but no body.
        is_page = response.mimetype == HTML and request.method != "OPTIONS"
        for name, value in self._pages if is_page else self._others:
            headers[name] = value
        if self._transport and request.is_secure:
            headers["Strict-Transport-Security"] = self._transport
        if context.get("required_scope") is not None:
            headers.setdefault("Cache-Control", _PRIVATE)
