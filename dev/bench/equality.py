"""Before anything is measured: the services give the same answers to the same questions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from dev.bench import data
from dev.bench.processes import BenchError
from dev.bench.system import HttpContender

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
_STREAMED = 5000
# Fields that every creation and every change sets anew.
_OWN = ("id", "created_at", "updated_at")


def normal(value: Any) -> Any:
    """JSON with its timestamps as instants: 12:00Z, 14:00+02:00 and 12:00 without a zone, which is UTC, are equal."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normal(item) for item in value]
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        moment = datetime.fromisoformat(value)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    return value


def check(contenders: Sequence[HttpContender]) -> None:
    """:raises BenchError: two services differ, naming them and the question."""
    for path in (
        *(f"/users/{data.user_id(number)}" for number in range(20)),
        "/users?limit=100",
        f"/users/stream?limit={_STREAMED}&fetch_size=1000",
        "/users/stream?limit=0",
        *(f"/animal/{genus}" for genus in data.GENERA[:3]),
        "/animal/Nothing",
    ):
        _same(path, contenders, lambda contender, path=path: _answer(contender, "GET", path, 200))
    for writer in contenders:
        _check_writes(writer, contenders)


def _check_writes(writer: HttpContender, readers: Sequence[HttpContender]) -> None:
    """What one has written, all read alike, and as it was meant."""
    body = data.new_user(7)
    created = _answer(writer, "POST", "/users", 201, body)
    path = f"/users/{created['id']}"
    _expect(writer, "POST /users", {**created, **body}, created)
    _everywhere(path, readers, created)
    changed = _answer(writer, "PATCH", path, 200, {"age": 88})
    _expect(writer, "PATCH", {**created, "age": 88, "updated_at": changed["updated_at"]}, changed)
    _everywhere(path, readers, changed)
    _answer(writer, "DELETE", path, 204)
    for reader in readers:
        _answer(reader, "GET", path, 404)
        # A change never brings it back.
        _answer(reader, "PATCH", path, 404, {"age": 1})
        _answer(reader, "PATCH", f"/users/{uuid4()}", 404, {"age": 1})
        _answer(reader, "GET", path, 404)
    bodies = [data.new_user(number) for number in range(100)]
    batch = _answer(writer, "POST", "/users/batch", 201, bodies)
    _expect(writer, "POST /users/batch", 100, batch["created"])
    plain = [{key: value for key, value in user.items() if key not in _OWN} for user in batch["users"]]
    _expect(writer, "POST /users/batch", bodies, plain)
    for user in batch["users"][:3]:
        _everywhere(f"/users/{user['id']}", readers, user)


def _everywhere(path: str, readers: Sequence[HttpContender], expected: Any) -> None:
    for reader in readers:
        _expect(reader, f"GET {path}", expected, _answer(reader, "GET", path, 200))


def _same(path: str, contenders: Sequence[HttpContender], ask: Callable[[HttpContender], Any]) -> None:
    expected = ask(contenders[0])
    for other in contenders[1:]:
        _expect(other, f"GET {path} (as {contenders[0].name})", expected, ask(other))


def _expect(contender: HttpContender, question: str, expected: Any, found: Any) -> None:
    if expected != found:
        at = ""
        if isinstance(expected, list) and isinstance(found, list):
            at = f"{len(expected)} rows and {len(found)}; "
            pairs = [pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]]
            expected, found = pairs[0] if pairs else (None, None)
        raise BenchError(
            f"{contender.name} answers otherwise to {question}: {at}expected {_short(expected)}, got {_short(found)}"
        )


def _short(value: Any) -> str:
    return repr(value)[:300]


def _answer(contender: HttpContender, method: str, path: str, status: int, body: Any = None) -> Any:
    """The answer's JSON, normalised; None where there is no body to look at."""
    answer = contender.client.request(method, path, json=body)
    if answer.status_code != status:
        raise BenchError(
            f"{contender.name}: {method} {path} is {answer.status_code} and not {status}: {answer.text[:300]}"
        )
    return normal(json.loads(answer.content)) if status in (200, 201) else None
