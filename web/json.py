"""JSON as this service writes it: times in UTC, by RFC 3339, with milliseconds, which is what Cassandra stores."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson


def dumps(document: Any) -> bytes:
    """The document as JSON in UTF-8; an `orjson.Fragment` in it is taken as it is.

    :raises TypeError: something in it has no form in JSON.
    """
    return orjson.dumps(document, default=_other, option=orjson.OPT_PASSTHROUGH_DATETIME)


def rfc3339(moment: datetime) -> str:
    """As in `2026-11-21T06:50:04.610Z`. A moment without a zone, as the driver gives it, is one in UTC."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="milliseconds") + "Z"


def _other(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")
