"""The request id, which identifies a request.

It is in the `X-Request-ID` header of the response, in problem documents and on every log line of the request.
"""

from __future__ import annotations

import re
from random import getrandbits
from uuid import UUID

from flask import g, request

from observability import logs

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def assign() -> None:
    """Set `g.request_id` to the client's id if it is valid, otherwise to a new one."""
    given = request.headers.get("X-Request-ID", "")
    # The id is no secret, so the fast random generator is enough.
    g.request_id = given if _REQUEST_ID.fullmatch(given) else str(UUID(int=getrandbits(128), version=4))
    logs.request_id.set(g.request_id)
