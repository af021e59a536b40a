"""`soak`: a steady load for some minutes. Shows latency, memory and errors over time."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.integration.client import Answer, Target, TargetError, create_is_safe, pause, read_metrics, send
from tests.integration.document import NDJSON, Operation, Resource
from tests.integration.values import NoValue, Values

THREADS = 16
# Rows of each resource at the beginning, and the most that there may be.
ROWS, MAX_ROWS = 20, 100
# The resolution of percentiles: each class of the histogram is 2 % wider than the one before.
GROWTH = math.log(1.02)
MEMORY = "fieldbook_memory_bytes"
# The actions and how often they are chosen.
ACTIONS = {"create": 10, "read": 50, "update": 20, "list": 10, "delete": 10}
LISTED = 100


class Latencies:
    """A histogram of durations with bounded memory. A percentile is at most 2 % too high."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()
        self.maximum = 0.0

    def add(self, milliseconds: float) -> None:
        self._classes[math.ceil(math.log(max(milliseconds, 0.001)) / GROWTH)] += 1
        self.maximum = max(self.maximum, milliseconds)

    def merge(self, other: Latencies) -> None:
        self._classes.update(other._classes)
        self.maximum = max(self.maximum, other.maximum)

    @property
    def count(self) -> int:
        return self._classes.total()

    def percentile(self, percent: float) -> float | None:
        """The percentile in milliseconds, by the nearest-rank method; None without values."""
        rank = math.ceil(self.count * percent / 100)
        for each in sorted(self._classes):
            rank -= self._classes[each]
            if rank <= 0:
                return round(min(math.exp(each * GROWTH), self.maximum), 1)
        return None

    def summary(self) -> dict[str, float | None]:
        maximum = round(self.maximum, 1) if self.count else None
        return {f"p{percent}_ms": self.percentile(percent) for percent in (50, 95, 99)} | {"max_ms": maximum}


@dataclass
class Interval:
    """What was measured in a part of the run."""

    seconds: float
    latencies: Latencies = field(default_factory=Latencies)
    errors: int = 0
    rejected: int = 0
    memory: float | None = None


class Soak:
    """One run."""

    def __init__(self, target: Target, seconds: float, rate: float) -> None:
        """:param rate: requests per second."""
        self._target = target
        self._seconds = seconds
        self._rate = rate
        self._http = target.client()
        self._values = Values(target.document.components, f"soak{uuid.uuid4().hex[:8]}")
        self._numbers = itertools.count(random.randrange(2**28))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        # The keys of the rows that exist, by resource: this run created them and has not begun to delete them.
        self._rows: dict[str, list[dict[str, str]]] = {}
        # Rows that may exist: the outcome of their creation or deletion is unknown.
        self._uncertain: list[tuple[Operation, dict[str, str]]] = []
        # Keys that this run has used, of rows whose key the client chooses. It uses none again.
        self._used: set[str] = set()
        self.intervals: list[Interval] = []
        self.errors: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        # At most 300 points in a plot, and at least one second each.
        self._length = max(1.0, seconds / 300)
        self._resources = [each for each in target.document.resources if self._is_usable(each)]
        if not self._resources:
            raise TargetError(f"The service at {target.url} has no resource whose rows can be created and deleted.")

    def _is_usable(self, resource: Resource) -> bool:
        try:
            resource.body(self._values, 0)
        except NoValue:
            return False
        return resource.delete is not None and resource.get is not None

    def run(self, advance: Callable[[float], None]) -> None:
        """Send the load until the time is over or Ctrl-C, then delete the rows. :param advance: called with seconds."""
        schedule = itertools.count()
        started = time.monotonic()
        self.intervals.append(Interval(0.0))
        with self._http, ThreadPoolExecutor(THREADS) as pool:
            for resource in self._resources:
                self._rows[resource.name] = []
            try:
                clients = [pool.submit(self._client, started, schedule) for _ in range(THREADS)]
                while (elapsed := time.monotonic() - started) < self._seconds and not self._stop.is_set():
                    self._measure(elapsed)
                    advance(min(elapsed, self._seconds))
                    self._stop.wait(min(self._length, 1.0))
                self._measure(time.monotonic() - started)
                self._stop.set()
                for client in clients:
                    client.result()
                advance(self._seconds)
            finally:
                self._stop.set()
                pool.shutdown()
                self._clean_up()

    def _measure(self, elapsed: float) -> None:
        memory = read_metrics(self._http).get(MEMORY)
        with self._lock:
            self.intervals[-1].memory = memory
            if elapsed - self.intervals[-1].seconds >= self._length:
                self.intervals.append(Interval(elapsed, memory=memory))

    def _client(self, started: float, schedule: itertools.count[int]) -> None:
        """Send the requests of the schedule, each when it is due."""
        names = list(ACTIONS)
        with self._target.client() as http:
            while True:
                due = started + next(schedule) / self._rate
                if due - started >= self._seconds or self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                resource = random.choice(self._resources)
                (action,) = random.choices(names, list(ACTIONS.values()))
                operation, answer, accepted = self._act(http, resource, action)
                # From the time when the request was due: a request that waited for a slow one before it counts too.
                self._record(operation, answer, accepted, (time.monotonic() - due) * 1000)

    def _record(self, operation: str, answer: Answer, accepted: tuple[int, ...], milliseconds: float) -> None:
        with self._lock:
            interval = self.intervals[-1]
            interval.latencies.add(milliseconds)
            if answer.status in (429, 503) and answer.header("Retry-After"):
                interval.rejected += 1
                self.rejected[f"{operation} {answer.outcome}"] += 1
            elif answer.status not in accepted:
                interval.errors += 1
                self.errors[f"{operation} {answer.outcome}"] += 1

    def _act(self, http: httpx.Client, resource: Resource, action: str) -> tuple[str, Answer, tuple[int, ...]]:
        """Send one request. Return the operation, the answer, and the statuses that are no error."""
        rows = self._rows[resource.name]
        with self._lock:
            number = len(rows)
            key = random.choice(rows) if rows else None
            if key is not None and action == "delete" and number > ROWS:
                rows.remove(key)
        if key is None or number < ROWS or (action == "create" and number < MAX_ROWS):
            return self._create(http, resource)
        lists, update, get, delete = resource.lists, resource.update, resource.get, resource.delete
        assert get is not None
        assert delete is not None
        if action == "delete" and number > ROWS:
            answer = send(http, "DELETE", delete.url(key))
            if answer.status != 204:
                with self._lock:
                    self._uncertain.append((delete, key))
            return str(delete), answer, (204,)
        if action == "list" and lists is not None:
            params = {"limit": LISTED} if lists.takes("limit") else {}
            return str(lists), send(http, "GET", lists.url(key), params=params, headers={"Accept": NDJSON}), (200,)
        if action == "update" and update is not None:
            body = self._values.body(update.body_schema or {}, next(self._numbers))
            operation, answer = update, send(http, update.method, update.url(key), json=body)
        else:
            operation, answer = get, send(http, "GET", get.url(key))
        with self._lock:
            # Another client may have begun to delete the row. Otherwise it is lost.
            return str(operation), answer, (200,) if key in rows else (200, 404)

    def _create(self, http: httpx.Client, resource: Resource) -> tuple[str, Answer, tuple[int, ...]]:
        body = resource.body(self._values, next(self._numbers))
        create, get, delete = resource.create, resource.get, resource.delete
        assert get is not None
        assert delete is not None
        key = None if resource.generates_key else resource.key_in(body)
        if key is not None:
            url = get.url(key)
            with self._lock:
                used = url in self._used
                self._used.add(url)
            if used or not create_is_safe(resource, body, self._values, http):
                # The key may belong to another row.
                return str(get), send(http, "GET", url), (200, 404)
        headers = create.idempotency_header(uuid.uuid4().hex)
        answer = send(http, "POST", create.path, json=body, headers=headers)
        known = answer
        if answer.status in (0, 504) and headers:
            # The row may exist. A repetition tells its key, so that it can be deleted.
            known = send(http, "POST", create.path, json=body, headers=headers)
        if known.status == 201:
            try:
                key = resource.key_of(known.header("Location") or "")
            except ValueError:
                answer.error, answer.response = "the Location has another form", None
        with self._lock:
            if known.status == 201 and key is not None:
                self._rows[resource.name].append(key)
            elif key is not None:
                self._uncertain.append((delete, key))
        return str(create), answer, (201,)

    def _clean_up(self) -> None:
        """Delete all rows that are left."""
        left = self._uncertain + [
            (each.delete, key) for each in self._resources for key in self._rows[each.name] if each.delete is not None
        ]

        def remove(operation: Operation, key: dict[str, str]) -> None:
            for _ in range(3):
                answer = send(self._http, "DELETE", operation.url(key))
                if answer.status in (204, 404):
                    return
                time.sleep(max(0.5, pause(answer)))
            with self._lock:
                self.errors[f"{operation.url(key)} could not be deleted"] += 1

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda each: remove(*each), left))

    def result(self) -> dict[str, Any]:
        """The result as JSON."""
        total = Latencies()
        for each in self.intervals:
            total.merge(each.latencies)
        memory = [each.memory for each in self.intervals if each.memory is not None]
        return {
            "ok": not self.errors and total.count > 0,
            "requests": total.count,
            **total.summary(),
            "errors": dict(self.errors.most_common()),
            "rejected": dict(self.rejected.most_common()),
            "memory_bytes": {"first": memory[0], "last": memory[-1], "maximum": max(memory)} if memory else None,
            "over_time": [
                {
                    "seconds": round(each.seconds, 1),
                    "requests": each.latencies.count,
                    **each.latencies.summary(),
                    "errors": each.errors,
                    "rejected": each.rejected,
                    "memory_bytes": each.memory,
                }
                for each in self.intervals
            ],
        }


def check_plot(path: Path) -> None:
    """Check that the plot can be written. :raises TargetError: it can't."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise TargetError(f"--plot {path}: the name must end in .png or .svg.")
    existed = path.exists()
    try:
        path.open("ab").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise TargetError(f"--plot {path} can't be written: {error.strerror}.") from None


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw latency, memory, and requests and errors over time."""
    # Imported here, because it takes a second.
    from matplotlib.figure import Figure

    points = result["over_time"]
    seconds = [each["seconds"] for each in points]
    figure = Figure(figsize=(9, 8), layout="constrained")
    latency, memory, requests = figure.subplots(3, sharex=True)
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        latency.plot(seconds, [each[name] or math.nan for each in points], label=name.removesuffix("_ms"))
    latency.set_ylabel("latency, ms")
    latency.set_yscale("log")
    latency.legend(frameon=False)
    sizes = [math.nan if each["memory_bytes"] is None else each["memory_bytes"] / 2**20 for each in points]
    memory.plot(seconds, sizes)
    memory.set_ylabel("memory of all workers, MiB")
    memory.set_ylim(bottom=0)
    for name in ("requests", "errors", "rejected"):
        requests.plot(seconds, [each[name] for each in points], label=name)
    requests.set_ylabel("number per interval")
    requests.set_xlabel("seconds")
    requests.legend(frameon=False)
    for panel in (latency, memory, requests):
        panel.grid(visible=True, linewidth=0.3)
    figure.savefig(path, dpi=110)
