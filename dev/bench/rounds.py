"""Rounds: every work, by every contender, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dev.bench.database import Database
from dev.bench.processes import cpu_seconds, memory, reset_peak
from dev.bench.stats import percentile
from dev.bench.system import Contender, HttpContender
from dev.bench.works import Requests, Scale, Work

# How the numbers of a measurement are called, and their units.
METRICS = {
    "cpu_us": "server CPU, us",
    "db_us": "database CPU, us",
    "per_second": "units a second",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "first_row_ms": "first row, ms",
    "whole_ms": "whole answer, ms",
    "refused": "503, %",
}
REFUSED = 503
# Latencies of which the 99th percentile means something.
_ENOUGH = 200


@dataclass(frozen=True)
class Measurement:
    """What one contender needed for one work in one round.

    :ivar values: by the names of `METRICS`, those that the work has.
    """

    round: int
    work: str
    contender: str
    values: dict[str, float]


def run(
    contenders: Sequence[Contender],
    works: Sequence[Work],
    requests: Requests,
    database: Database,
    rounds: int,
    open_seconds: float,
    say: Callable[[str], None],
) -> list[Measurement]:
    """All rounds. Before them one that is not counted: it warms up the servers and the node's compiler.

    :raises BenchError: an answer is not what it should be.
    """
    found = []
    for number in range(rounds + 1):
        began = time.monotonic()
        for work in works:
            ways = _ways(contenders, work)
            # Another one is first each time: what one leaves behind for the next is shared out.
            first = number % len(ways)
            for contender in [*ways[first:], *ways[:first]]:
                if number:
                    found.append(measure(contender, work, requests, database, number, open_seconds))
                else:
                    _warm_up(contender, work, requests, database)
        say(f"round {number} of {rounds}{'' if number else ' (not counted)'}: {time.monotonic() - began:.0f} s")
    return found


def _ways(contenders: Sequence[Contender], work: Work) -> list[Contender]:
    """The contenders; FastAPI twice for an import, because Fieldbook's, by batches, is to be held against both."""
    batches = [each.by_batches() for each in contenders if isinstance(each, HttpContender) and each.name == "fastapi"]
    return [*contenders, *(batches if work.name == "import" else [])]


def _warm_up(contender: Contender, work: Work, requests: Requests, database: Database) -> None:
    """In a closed loop; of an import a tenth is enough."""
    if work.name == "import":
        scale = replace(requests.scale, imported=requests.scale.imported // 10)
        work, requests = replace(work, rows=scale.imported), Requests(scale)
    closed_loop(contender, work, requests, database)


def measure(
    contender: Contender, work: Work, requests: Requests, database: Database, number: int, open_seconds: float
) -> Measurement:
    """The work in a closed loop, and then, where it has a rate, in an open one."""
    database.settle()
    values = closed_loop(contender, work, requests, database)
    if work.rate is not None:
        count = max(20, int(work.rate * open_seconds))
        outcome = contender.do(work, requests, work.rate, count, 2 * work.connections)
        values["p50_ms"] = percentile(outcome.latencies, 50) * 1e3
        if len(outcome.latencies) >= _ENOUGH:
            values["p99_ms"] = percentile(outcome.latencies, 99) * 1e3
    return Measurement(number, work.name, contender.name, values)


def closed_loop(contender: Contender, work: Work, requests: Requests, database: Database) -> dict[str, float]:
    """CPU time for each unit, throughput and, of streams, times."""
    pids = contender.pids()
    server, node = cpu_seconds(pids), database.cpu_seconds()
    outcome = contender.do(work, requests, None, work.count, work.connections)
    values = {
        "cpu_us": (cpu_seconds(pids) - server) / work.units * 1e6,
        "db_us": (database.cpu_seconds() - node) / work.units * 1e6,
        "per_second": work.units / outcome.seconds,
    }
    if REFUSED in work.statuses:
        values["refused"] = outcome.statuses[REFUSED] / work.count * 100
    if outcome.first_rows:
        values["first_row_ms"] = percentile(outcome.first_rows, 50) * 1e3
    if work.rows is not None:
        values["whole_ms"] = outcome.seconds / work.count * 1e3
    return values


def memory_growth(contender: Contender, stream: Work, scale: Scale, database: Database) -> dict[int, int]:
    """Bytes by which the memory of processes that have just been started grows, at its peak, by rows of a stream.

    The streams come one after the other, the shortest first, and all are held against what was before the first: what
    a process has once had, it does not always give back.
    """

    def do(rows: int) -> None:
        requests = Requests(replace(scale, stream=rows))
        contender.do(replace(stream, rows=rows, count=1), requests, None, 1, 1)

    do(10)
    pids = contender.pids()
    before = memory(pids, "VmRSS")
    growth = {}
    for rows in scale.memory:
        database.grow(rows)
        reset_peak(pids)
        do(rows)
        growth[rows] = memory(pids, "VmHWM") - before
    return growth
