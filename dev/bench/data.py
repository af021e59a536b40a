"""The stored rows. Each is a function of its number, so every process can compute it."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import md5
from typing import Any
from uuid import UUID

from cassandra.cluster import Cluster
from cassandra.concurrent import execute_concurrent
from cassandra.query import BatchStatement, BatchType

from dev.bench.processes import BenchError

GENERA = tuple(f"Genus{number}" for number in range(20))
SPECIES = 50
# Seconds. Loading a million rows takes a small part of this time.
_LOAD_TIMEOUT = 1800
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def observer_id(number: int) -> UUID:
    """Return the id of a stored observer."""
    return UUID(bytes=md5(b"%d" % number, usedforsecurity=False).digest(), version=4)


def sample(number: int, observers: int) -> UUID:
    """Return the id of one of 2,000 observers that are spread evenly over all stored observers."""
    sampled = min(2000, observers)
    return observer_id(number % sampled * (observers // sampled))


def new_observer(number: int) -> dict[str, Any]:
    """Return the body of `POST /observers`.

    Half of the addresses are at 10 shared domains, half at 5,000 rare domains.
    """
    domain = f"mail{number % 20}.example" if number % 2 else f"d{number * 7919 % 10_000}.example"
    return {"name": f"Observer {number}", "email": f"observer{number}@{domain}.org", "age": number % 100}


def ndjson(count: int) -> bytes:
    """Return the body of an import, one JSON object per line."""
    return b"".join(json.dumps(new_observer(number)).encode() + b"\n" for number in range(count))


def load_observers(hosts: Sequence[str], port: int, table: str, begin: int, end: int, processes: int = 2) -> None:
    """Store observers `begin` to `end` (exclusive), with several processes.

    :param table: keyspace and table, such as `bench.observers`.
    :raises BenchError: Cassandra does not accept the observers.
    :raises multiprocessing.TimeoutError: loading takes longer than half an hour.
    """
    context = multiprocessing.get_context("spawn")
    step = -(-(end - begin) // processes)
    ranges = [(first, min(first + step, end)) for first in range(begin, end, step)]
    with context.Pool(processes) as pool:
        pool.starmap_async(_load_range, [(hosts, port, table, *part) for part in ranges]).get(_LOAD_TIMEOUT)


def _load_range(hosts: Sequence[str], port: int, table: str, begin: int, end: int) -> None:
    cluster = Cluster(list(hosts), port=port, protocol_version=5)
    session = cluster.connect()
    insert = session.prepare(
        f"INSERT INTO {table} (id, name, email, age, created_at, updated_at, version) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1"
    )

    def batch(first: int) -> tuple[BatchStatement, tuple[()]]:
        # An unlogged batch sends 50 rows in one message.
        statement = BatchStatement(BatchType.UNLOGGED)
        for number in range(first, min(first + 50, end)):
            identity = observer_id(number)
            statement.add(insert, (identity, *new_observer(number).values(), _EPOCH, _EPOCH, identity))
        return statement, ()

    pending = list(range(begin, end, 50))
    try:
        # Freshly started nodes time out on some batches. Repeating a batch is safe: it writes the same rows again.
        for _ in range(10):
            results = execute_concurrent(session, map(batch, pending), concurrency=16, raise_on_first_error=False)
            pending = [first for first, (stored, _) in zip(pending, results, strict=True) if not stored]
            if not pending:
                return
    finally:
        cluster.shutdown()
    raise BenchError(f"could not store {len(pending)} batches of observers")


def load_finds(session: Any, table: str) -> None:
    """Store `SPECIES` finds for each of `GENERA`.

    :param table: keyspace and table.
    """
    insert = session.prepare(f"INSERT INTO {table} (genus, species, sightings) VALUES (?, ?, ?)")
    for genus in GENERA:
        for number in range(SPECIES):
            session.execute(insert, (genus, f"species{number:03}", number))
