"""Checks, before the measurement, that all services return equal responses to the same requests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dev.bench import data
from dev.bench.processes import BenchError
from dev.bench.system import HttpSystem

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
_STREAMED = 5000
# Fields that the server generates.
_GENERATED = ("id", "created_at", "updated_at")


def normalize(value: Any) -> Any:
    """Convert the timestamps in a JSON value to datetimes, so that equal times are equal values.

    For example, 12:00Z, 14:00+02:00 and 12:00 (UTC without a zone) are equal.
    """
    if isinstance(value, dict):
        return {key: normalize(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normalize(item) for item in value]
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return value


def check_equal_responses(systems: Sequence[HttpSystem]) -> None:
    """Compare the responses of all services, to reads and after writes.

    :raises BenchError: two services differ; the message names them and the request.
    """
    for path in (
        *(f"/observers/{data.observer_id(number)}" for number in range(20)),
        "/observers?limit=100",
        f"/observers/stream?limit={_STREAMED}&fetch_size=1000",
        "/observers/stream?limit=0",
        *(f"/find/{genus}" for genus in data.GENERA[:3]),
        "/find/Nothing",
    ):
        _expect_same(path, systems, lambda system, path=path: _request(system, "GET", path, 200))
    for writer in systems:
        _check_writes(writer, systems)


def _check_writes(writer: HttpSystem, readers: Sequence[HttpSystem]) -> None:
    """Check that `writer` creates, changes and deletes observers, and that all `readers` see the result."""
    body = data.new_observer(7)
    created = _request(writer, "POST", "/observers", 201, body)
    path = f"/observers/{created['id']}"
    _expect(writer, "POST /observers", {**created, **body}, created)
    _expect_from_all(path, readers, created)
    changed = _request(writer, "PATCH", path, 200, {"age": 88})
    _expect(writer, "PATCH", {**created, "age": 88, "updated_at": changed["updated_at"]}, changed)
    _expect_from_all(path, readers, changed)
    _request(writer, "DELETE", path, 204)
    for reader in readers:
        _request(reader, "GET", path, 404)
        # A change must not create the deleted observer again.
        _request(reader, "PATCH", path, 404, {"age": 1})
        _request(reader, "PATCH", f"/observers/{uuid4()}", 404, {"age": 1})
        _request(reader, "GET", path, 404)
    bodies = [data.new_observer(number) for number in range(100)]
    batch = _request(writer, "POST", "/observers/batch", 201, bodies)
    _expect(writer, "POST /observers/batch", 100, batch["created"])
    without_generated = [
        {key: value for key, value in observer.items() if key not in _GENERATED} for observer in batch["observers"]
    ]
    _expect(writer, "POST /observers/batch", bodies, without_generated)
    for observer in batch["observers"][:3]:
        _expect_from_all(f"/observers/{observer['id']}", readers, observer)


def _expect_from_all(path: str, readers: Sequence[HttpSystem], expected: Any) -> None:
    for reader in readers:
        _expect(reader, f"GET {path}", expected, _request(reader, "GET", path, 200))


def _expect_same(path: str, systems: Sequence[HttpSystem], fetch: Callable[[HttpSystem], Any]) -> None:
    expected = fetch(systems[0])
    for other in systems[1:]:
        _expect(other, f"GET {path} (compared with {systems[0].name})", expected, fetch(other))


def _expect(system: HttpSystem, request: str, expected: Any, actual: Any) -> None:
    if expected != actual:
        counts = ""
        if isinstance(expected, list) and isinstance(actual, list):
            counts = f"expected {len(expected)} rows, got {len(actual)}; first difference: "
            pairs = [pair for pair in zip(expected, actual, strict=False) if pair[0] != pair[1]]
            expected, actual = pairs[0] if pairs else (None, None)
        raise BenchError(
            f"{system.name}: wrong response to {request}: {counts}expected {_short(expected)}, got {_short(actual)}"
        )


def _short(value: Any) -> str:
    return repr(value)[:300]


def _request(system: HttpSystem, method: str, path: str, status: int, body: Any = None) -> Any:
    """Return the normalized JSON of the response, or None for a status other than 200 and 201.

    :raises BenchError: the response has another status than `status`.
    """
    response = system.client.request(method, path, json=body)
    if response.status_code != status:
        raise BenchError(
            f"{system.name}: {method} {path} returned {response.status_code} instead of {status}: {response.text[:300]}"
        )
    return normalize(json.loads(response.content)) if status in (200, 201) else None
