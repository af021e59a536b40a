"""The work that is measured: how much of it, and how it is asked of a contender."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from dev.bench import data
from dev.bench.load import request

BATCH = 100


@dataclass(frozen=True)
class Work:
    """One kind of request.

    :ivar count: requests in a round's closed loop, and what the cost is divided by unless there are `rows`.
    :ivar connections: of the closed loop.
    :ivar statuses: of right answers.
    :ivar rate: requests a second of the open loop that measures latency; None where there is none.
    :ivar rows: of each answer, for work whose cost is counted by row.
    :ivar unit: what the cost is for.
    """

    name: str
    count: int
    connections: int
    statuses: tuple[int, ...]
    rate: float | None = None
    rows: int | None = None
    unit: str = "request"

    @property
    def units(self) -> int:
        return self.count * (self.rows or 1)


@dataclass(frozen=True)
class Scale:
    """How much of everything.

    :ivar users: stored before the first round.
    :ivar stream: rows of a stream.
    :ivar imported: rows of an import.
    :ivar factor: of the counts of requests.
    :ivar open_seconds: length of an open loop.
    :ivar memory: rows of the streams whose memory is measured.
    """

    users: int = 100_000
    stream: int = 100_000
    imported: int = 100_000
    factor: float = 1.0
    open_seconds: float = 5.0
    memory: tuple[int, ...] = (10_000, 100_000, 1_000_000)


FULL = Scale()
SHORT = Scale(users=10_000, stream=10_000, imported=2_000, factor=0.1, open_seconds=0.5, memory=())


def works(scale: Scale) -> dict[str, Work]:
    """All work by its name, in the order in which it is measured: what writes much comes last."""

    def count(full: int) -> int:
        return max(20, int(full * scale.factor))

    streams = max(1, 300_000 // max(scale.stream, 100_000))
    every = [
        Work("read", count(2500), 16, (200,), rate=200),
        Work("list", count(800), 16, (200,), rate=50),
        Work("genus", count(1000), 16, (200,), rate=50),
        Work("stream", streams, 1, (200,), rows=scale.stream, unit="row"),
        Work("create", count(2500), 16, (201,), rate=200),
        Work("patch", count(800), 16, (200,), rate=50),
        Work("batch", count(100), 4, (201,), rate=10),
        Work("import", 1, 1, (201,), rows=scale.imported, unit="row"),
    ]
    return {work.name: work for work in every}


@dataclass(frozen=True)
class Requests:
    """The requests of each work, made once, before anything is measured."""

    scale: Scale
    _made: dict[str, list[bytes]] = field(default_factory=dict)

    def of(self, name: str) -> list[bytes]:
        """As they go over the wire, to be sent in turn."""
        if name not in self._made:
            self._made[name] = _MAKERS[name](self.scale)
        return self._made[name]


def _read(scale: Scale) -> list[bytes]:
    return [request("GET", f"/users/{data.sample(number, scale.users)}") for number in range(min(2000, scale.users))]


def _patch(scale: Scale) -> list[bytes]:
    return [
        request("PATCH", f"/users/{data.sample(number, scale.users)}", b'{"age": %d}' % (number % 100))
        for number in range(min(2000, scale.users))
    ]


def _create(scale: Scale) -> list[bytes]:
    return [request("POST", "/users", json.dumps(data.new_user(number)).encode()) for number in range(1000)]


def _batch(scale: Scale) -> list[bytes]:
    return [
        request("POST", "/users/batch", json.dumps([data.new_user(at) for at in range(first, first + BATCH)]).encode())
        for first in range(0, 20 * BATCH, BATCH)
    ]


_MAKERS: dict[str, Callable[[Scale], list[bytes]]] = {
    "read": _read,
    "list": lambda scale: [request("GET", "/users?limit=100")],
    "genus": lambda scale: [request("GET", f"/animal/{genus}") for genus in data.GENERA],
    "stream": lambda scale: [request("GET", f"/users/stream?limit={scale.stream}&fetch_size=1000")],
    "create": _create,
    "patch": _patch,
    "batch": _batch,
    "import": lambda scale: [request("POST", "/users/import", data.ndjson(scale.imported), "application/x-ndjson")],
}
