"""The workloads: how many requests of each kind, and the bytes of these requests."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from dev.bench import data
from dev.bench.load import request
from dev.bench.resources import Resources

BATCH = 100


@dataclass(frozen=True)
class Workload:
    """One kind of request.

    :ivar count: requests in the closed loop of a round.
    :ivar connections: connections in the closed loop.
    :ivar statuses: statuses of correct responses.
    :ivar rate: requests per second in the open loop that measures latency; None for no open loop.
    :ivar rows: rows of each response, for workloads whose cost is counted per row.
    :ivar unit: what the cost is divided by, `request` or `row`.
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
        """The number of requests or rows that the cost is divided by."""
        return self.count * (self.rows or 1)


@dataclass(frozen=True)
class Scale:
    """The size of a run.

    :ivar observers: observers stored before the first round.
    :ivar stream: rows of a stream.
    :ivar imported: rows that the imports of a round write.
    :ivar factor: multiplies the numbers of requests.
    :ivar open_seconds: length of an open loop, in seconds.
    :ivar memory: rows of the streams that measure memory growth.
    """

    observers: int = 100_000
    stream: int = 100_000
    imported: int = 100_000
    factor: float = 1.0
    open_seconds: float = 5.0
    memory: tuple[int, ...] = (10_000, 100_000, 1_000_000)

    @property
    def imports(self) -> int:
        """Requests of a round that import rows. Fieldbook writes at most 10,000 rows during a request."""
        return -(-self.imported // 10_000)


FULL = Scale()
SHORT = Scale(observers=10_000, stream=10_000, imported=2_000, factor=0.1, open_seconds=0.5, memory=())


def all_workloads(scale: Scale) -> dict[str, Workload]:
    """All workloads by name, in the order of measurement: those that write most come last."""

    def count(full: int) -> int:
        return max(20, int(full * scale.factor))

    streams = max(1, 300_000 // max(scale.stream, 100_000))
    workloads = [
        Workload("read", count(2500), 16, (200,), rate=200),
        Workload("list", count(800), 16, (200,), rate=50),
        Workload("genus", count(1000), 16, (200,), rate=50),
        Workload("stream", streams, 1, (200,), rows=scale.stream, unit="row"),
        Workload("create", count(2500), 16, (201,), rate=200),
        Workload("patch", count(800), 16, (200,), rate=50),
        Workload("batch", count(100), 4, (201,), rate=10),
        Workload("import", scale.imports, 1, (200, 201), rows=scale.imported // scale.imports, unit="row"),
    ]
    return {workload.name: workload for workload in workloads}


@dataclass(frozen=True)
class Requests:
    """The requests of each workload, built once, before the measurement."""

    scale: Scale
    _built: dict[tuple[str, Resources], list[bytes]] = field(default_factory=dict)

    def of(self, name: str, resources: Resources) -> list[bytes]:
        """The requests of a workload as bytes, to be sent in turn."""
        if (name, resources) not in self._built:
            self._built[name, resources] = _BUILDERS[name](self.scale, resources)
        return self._built[name, resources]


def _read(scale: Scale, resources: Resources) -> list[bytes]:
    return [
        request("GET", f"/{resources.observers}/{data.sample(number, scale.observers)}")
        for number in range(min(2000, scale.observers))
    ]


def _list(scale: Scale, resources: Resources) -> list[bytes]:
    return [request("GET", f"/{resources.observers}?limit=100")]


def _genus(scale: Scale, resources: Resources) -> list[bytes]:
    return [request("GET", f"/{resources.find}/{genus}") for genus in data.GENERA]


def _stream(scale: Scale, resources: Resources) -> list[bytes]:
    return [request("GET", f"/{resources.observers}/stream?limit={scale.stream}&fetch_size=1000")]


def _create(scale: Scale, resources: Resources) -> list[bytes]:
    return [
        request("POST", f"/{resources.observers}", json.dumps(data.new_observer(number)).encode())
        for number in range(1000)
    ]


def _patch(scale: Scale, resources: Resources) -> list[bytes]:
    return [
        request(
            "PATCH", f"/{resources.observers}/{data.sample(number, scale.observers)}", b'{"age": %d}' % (number % 100)
        )
        for number in range(min(2000, scale.observers))
    ]


def _batch(scale: Scale, resources: Resources) -> list[bytes]:
    bodies = [list(map(data.new_observer, range(first, first + BATCH))) for first in range(0, 20 * BATCH, BATCH)]
    return [request("POST", f"/{resources.observers}/batch", json.dumps(body).encode()) for body in bodies]


def _import(scale: Scale, resources: Resources) -> list[bytes]:
    return [
        request(
            "POST",
            f"/{resources.observers}/import",
            data.ndjson(scale.imported // scale.imports),
            "application/x-ndjson",
        )
    ]


_BUILDERS: dict[str, Callable[[Scale, Resources], list[bytes]]] = {
    "read": _read,
    "list": _list,
    "genus": _genus,
    "stream": _stream,
    "create": _create,
    "patch": _patch,
    "batch": _batch,
    "import": _import,
}
