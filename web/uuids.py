"""UUIDs in paths."""

from __future__ import annotations

from uuid import UUID

from werkzeug.exceptions import BadRequest

from schemas import formats


def parse_uuid(text: str) -> UUID:
    """The UUID in a path.

    :raises BadRequest: the text is not a UUID in its canonical form.
    """
    try:
        return formats.uuid(text)
    except ValueError:
        raise BadRequest("Invalid UUID: it must have 8-4-4-4-12 hexadecimal digits") from None
