"""Request headers whose parsers must not see a long value."""

from __future__ import annotations

from flask import request

from schemas.base import InvalidInput

# Characters. Browsers send about 150 in Accept, and 27 ETags of this service fit.
MAX_HEADER_LENGTH = 1000


def bounded_header(name: str) -> str | None:
    """The value of a request header of bounded length; None if the request does not have it.

    The server limits one line. Lines of the same header are joined, so that a value can have hundreds of kilobytes,
    and Werkzeug's parsers take about a microsecond for each character.

    :raises InvalidInput: the value is longer than MAX_HEADER_LENGTH.
    """
    value = request.headers.get(name)
    if value is not None and len(value) > MAX_HEADER_LENGTH:
        raise InvalidInput.at("header", name, f"Input should have at most {MAX_HEADER_LENGTH} characters")
    return value
