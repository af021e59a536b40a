"""UUIDs in paths."""

from __future__ import annotations

import re
from uuid import UUID

from werkzeug.exceptions import BadRequest

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)


def parse_uuid(text: str) -> UUID:
    """The UUID in a path.

    :raises BadRequest: the text is not a UUID in its canonical form.
    """
    # Only the canonical form: UUID() also accepts braces, URNs and missing hyphens.
    if not _UUID.fullmatch(text):
        raise BadRequest("Invalid UUID: it must have 8-4-4-4-12 hexadecimal digits")
    return UUID(text)
