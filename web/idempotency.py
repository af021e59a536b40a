"""`Idempotency-Key`: a key that makes a retry of a request safe."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from typing import Any

from flask import g, request
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from schemas.base import InvalidInput
from storage.db_io.idempotency import IdempotencyKey
from storage.db_io.versioned import VersionedTable

# Without a comma, because servers join two headers of the same name with a comma.
KEY_PATTERN = r"[\x21-\x2b\x2d-\x7e]{1,255}"


def create_rows(table: VersionedTable[Any], bodies: Sequence[BaseModel]) -> Sequence[Any]:
    """Store a row for each body: all or none. With an `Idempotency-Key`, only once.

    :param bodies: at least one validated body.
    :returns: the rows; for a retry, those of the first request.
    :raises InvalidInput: the `Idempotency-Key` is not a valid key.
    """
    rows = [table.new(dict(body)) for body in bodies]
    key = requested_key(bodies)
    if key is not None:
        return table.create_once(g.session, key, rows, g.options)
    table.create(g.session, rows, g.options)
    return rows


def requested_key(bodies: Sequence[BaseModel]) -> IdempotencyKey | None:
    """The `Idempotency-Key` of the request, for this caller and route; None without the header.

    Sets `g.idempotency_key`, so that an error response can say that a retry is safe.

    :param bodies: the validated body, one model for each row to create.
    :raises InvalidInput: the header is not a valid key.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not re.fullmatch(KEY_PATTERN, key):
        raise InvalidInput.at(
            "header", "Idempotency-Key", "Input should be 1 to 255 visible ASCII characters without a comma"
        )
    scope = f"{g.caller.name} {request.method} {request.url_rule}"
    # Parsed a second time, because only the few requests with a key need the document.
    g.idempotency_key = IdempotencyKey(
        scope, key, fingerprint(request.get_json()), partial(earlier_fingerprint, bodies)
    )
    return g.idempotency_key


def fingerprint(document: Any) -> bytes:
    """Digest of a JSON document as the client sent it.

    White space and the order of fields make no difference. Defaults of fields that the client left out are not part of
    it, so that a later version of the service may have more optional fields.
    """
    # Python's own encoder, because its form of a number does not change with the version of a library.
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).digest()


def earlier_fingerprint(bodies: Sequence[BaseModel]) -> bytes:
    """Digest of the validated values, which versions before format 3 of the stored answer compared."""
    values = [body.model_dump() for body in bodies]
    return fingerprint(to_jsonable_python(values, bytes_mode="base64", inf_nan_mode="constants"))
