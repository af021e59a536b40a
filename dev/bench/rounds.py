"""Runs the rounds of a benchmark: in each round, every system runs every workload, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dev.bench.database import Database
from dev.bench.processes import cpu_seconds, memory, reset_peak_memory
from dev.bench.stats import percentile
from dev.bench.system import HttpSystem, System
from dev.bench.workloads import Requests, Scale, Workload

# Column titles of the metrics, with units.
METRICS = {
    "cpu_us": "server CPU, µs",
    "db_us": "database CPU, µs",
    "per_second": "throughput, per s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "first_row_ms": "first row, ms",
    "whole_ms": "full response, ms",
    "refused": "503, %",
}
REFUSED = 503
# With fewer latencies, the 99th percentile is not reported.
_MIN_LATENCIES_FOR_P99 = 200


@dataclass(frozen=True)
class Measurement:
    """The cost of one workload on one system in one round.

    :ivar values: the metrics that apply to the workload, by the keys of `METRICS`.
    """

    round: int
    workload: str
    system: str
    values: dict[str, float]


def run(
    systems: Sequence[System],
    workloads: Sequence[Workload],
    requests: Requests,
    database: Database,
    rounds: int,
    open_seconds: float,
    say: Callable[[str], None],
) -> list[Measurement]:
    """Run a warm-up round, which is not counted, and then all rounds.

    The warm-up round gives the servers and the node's just-in-time compiler time to reach a steady state.

    :param rounds: the number of counted rounds.
    :param open_seconds: length of each open loop.
    :raises BenchError: a response is wrong.
    """
    measurements = []
    for number in range(rounds + 1):
        began = time.monotonic()
        for workload in workloads:
            ordered = _systems_for(systems, workload)
            # Rotate the order, so that no system always runs after the same other system.
            first = number % len(ordered)
            for system in [*ordered[first:], *ordered[:first]]:
                if number:
                    measurements.append(measure(system, workload, requests, database, number, open_seconds))
                else:
                    _warm_up(system, workload, requests, database)
        say(f"round {number} of {rounds}{'' if number else ' (warm-up)'}: {time.monotonic() - began:.0f} s")
    return measurements


def _systems_for(systems: Sequence[System], workload: Workload) -> list[System]:
    """Return the systems for a workload.

    Fieldbook and FastAPI run an import twice: by `POST /observers/import`, and by batches.
    """
    batched = [each.with_batched_imports() for each in systems if isinstance(each, HttpSystem) and each.name != "flask"]
    return [*systems, *(batched if workload.name == "import" else [])]


def _warm_up(system: System, workload: Workload, requests: Requests, database: Database) -> None:
    """Run the closed loop once; a tenth of the rows is enough for an import."""
    if workload.name == "import":
        scale = replace(requests.scale, imported=requests.scale.imported // 10)
        workload, requests = replace(workload, rows=scale.imported), Requests(scale)
    closed_loop(system, workload, requests, database)


def measure(
    system: System, workload: Workload, requests: Requests, database: Database, number: int, open_seconds: float
) -> Measurement:
    """Measure the closed loop, then the open loop if the workload has a rate."""
    database.wait_until_idle()
    values = closed_loop(system, workload, requests, database)
    if workload.rate is not None:
        count = max(20, int(workload.rate * open_seconds))
        outcome = system.run(workload, requests, workload.rate, count, 2 * workload.connections)
        values["p50_ms"] = percentile(outcome.latencies, 50) * 1e3
        if len(outcome.latencies) >= _MIN_LATENCIES_FOR_P99:
            values["p99_ms"] = percentile(outcome.latencies, 99) * 1e3
    return Measurement(number, workload.name, system.name, values)


def closed_loop(system: System, workload: Workload, requests: Requests, database: Database) -> dict[str, float]:
    """Run the closed loop. Return CPU time, throughput and, for streams, response times."""
    pids = system.pids()
    server, node = cpu_seconds(pids), database.cpu_seconds()
    outcome = system.run(workload, requests, None, workload.count, workload.connections)
    values = {
        "cpu_us": (cpu_seconds(pids) - server) / workload.units * 1e6,
        "db_us": (database.cpu_seconds() - node) / workload.units * 1e6,
        "per_second": workload.units / outcome.seconds,
    }
    if REFUSED in workload.statuses:
        values["refused"] = outcome.statuses[REFUSED] / workload.count * 100
    if outcome.first_rows:
        values["first_row_ms"] = percentile(outcome.first_rows, 50) * 1e3
    if workload.rows is not None:
        values["whole_ms"] = outcome.seconds / workload.count * 1e3
    return values


def memory_growth(system: System, stream: Workload, scale: Scale, database: Database) -> dict[int, int]:
    """Return the peak memory growth of freshly started processes in bytes, by rows of a stream.

    The streams run one after the other, the shortest first. Each is compared with the memory before the first one,
    because a process does not always return memory to the operating system.
    """

    def run_stream(rows: int) -> None:
        requests = Requests(replace(scale, stream=rows))
        system.run(replace(stream, rows=rows, count=1), requests, None, 1, 1)

    run_stream(10)
    pids = system.pids()
    before = memory(pids, "VmRSS")
    growth = {}
    for rows in scale.memory:
        database.ensure_observers(rows)
        reset_peak_memory(pids)
        run_stream(rows)
        growth[rows] = memory(pids, "VmHWM") - before
    return growth
