"""Baseline "driver": prepared statements in a loop of threads.

Rows are tuples and are not processed.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any
from uuid import uuid4

from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType, tuple_factory

from dev.bench.data import GENERA, new_observer, sample
from dev.bench.load import Outcome


@dataclass(frozen=True)
class DriverJob:
    """The calls that the driver makes; the counterpart of :class:`dev.bench.load.Job`.

    :ivar workload: the name of a method of `_Driver`.
    :ivar count: number of calls.
    :ivar observers: number of stored observers (`data.sample`).
    :ivar rate: calls per second in an open loop; None for a closed loop.
    :ivar rows: number of rows of a stream or an import, or of observers in a batch.
    """

    workload: str
    count: int
    threads: int
    observers: int
    rate: float | None = None
    rows: int = 0


def serve(pipe: Connection, environment: Mapping[str, str]) -> None:
    """Run jobs until the pipe is closed. Send None first, as soon as the driver is connected."""
    os.environ.update(environment)
    with suppress(EOFError, KeyboardInterrupt):
        try:
            driver = _Driver()
        except Exception as error:
            pipe.send(error)
            return
        pipe.send(None)
        while True:
            job = pipe.recv()
            try:
                pipe.send(driver.run(job))
            except Exception as error:
                pipe.send(error)


class _Driver:
    def __init__(self) -> None:
        # Imported here, because the module reads the keyspace from the environment.
        from dev.bench.baselines import statements

        self._now = statements.now
        self._session = session = Cluster(**statements.cluster_arguments(tuple_factory)).connect()
        self._select_observer = session.prepare(statements.SELECT_OBSERVER)
        self._select_observer_version = session.prepare(statements.SELECT_OBSERVER_VERSION)
        self._select_observers = session.prepare(statements.SELECT_OBSERVERS)
        self._select_finds = session.prepare(statements.SELECT_FINDS)
        self._insert_observer = session.prepare(statements.INSERT_OBSERVER)
        self._update_observer = session.prepare(statements.UPDATE_OBSERVER)
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def run(self, job: DriverJob) -> Outcome:
        """Run all calls of the job."""
        call = getattr(self, job.workload)
        outcome = Outcome(statuses=Counter({200: job.count}))
        numbers = itertools.count()
        lock = threading.Lock()
        began = time.perf_counter()

        def loop() -> None:
            latencies = []
            for number in iter(lambda: next(numbers), None):
                if number >= job.count:
                    break
                due = time.perf_counter()
                if job.rate is not None:
                    due = began + number / job.rate
                    time.sleep(max(0.0, due - time.perf_counter()))
                first_row = call(job, number)
                latencies.append(time.perf_counter() - due)
                if first_row is not None:
                    outcome.first_rows.append(first_row - due)
            with lock:
                outcome.latencies += latencies

        pool = self._pools.setdefault(job.threads, ThreadPoolExecutor(job.threads))
        for future in [pool.submit(loop) for _ in range(job.threads)]:
            future.result()
        outcome.seconds = time.perf_counter() - began
        return outcome

    def read(self, job: DriverJob, number: int) -> None:
        assert self._session.execute(self._select_observer, (sample(number, job.observers),)).one()

    def list(self, job: DriverJob, number: int) -> None:
        bound = self._select_observers.bind(())
        bound.fetch_size = 100
        assert len(self._session.execute(bound).current_rows) == 100

    def genus(self, job: DriverJob, number: int) -> None:
        assert list(self._session.execute(self._select_finds, (GENERA[number % len(GENERA)],)))

    def stream(self, job: DriverJob, number: int) -> float | None:
        bound = self._select_observers.bind(())
        bound.fetch_size = min(1000, job.rows)
        rows = 0
        first = None
        for _ in islice(self._session.execute(bound), job.rows):
            first = first or time.perf_counter()
            rows += 1
        assert rows == job.rows
        return first

    def create(self, job: DriverJob, number: int) -> None:
        self._session.execute(self._insert_observer, self._values(number))

    def patch(self, job: DriverJob, number: int) -> None:
        identity = sample(number, job.observers)
        row = self._session.execute(self._select_observer_version, (identity,)).one()
        values = (row[1], row[2], number % 100, self._now(), uuid4(), identity, row[6])
        self._session.execute(self._update_observer, values)

    def batch(self, job: DriverJob, number: int) -> None:
        batch = BatchStatement(BatchType.LOGGED)
        for observer_number in range(job.rows):
            batch.add(self._insert_observer, self._values(observer_number))
        self._session.execute(batch)

    def import_rows(self, job: DriverJob, number: int) -> None:
        rows = (self._values(observer_number) for observer_number in range(job.rows))
        execute_concurrent_with_args(
            self._session, self._insert_observer, rows, concurrency=100, results_generator=False
        )

    def _values(self, number: int) -> tuple[Any, ...]:
        created_at = self._now()
        return (uuid4(), *new_observer(number).values(), created_at, created_at, uuid4())
