"""The rows: each a function of its number, so that every process knows them without being told."""

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
# As long as loading a million rows may take, in seconds, many times over.
_PATIENCE = 1800
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


def user_id(number: int) -> UUID:
    """The id of a stored user."""
    return UUID(bytes=md5(b"%d" % number, usedforsecurity=False).digest(), version=4)


def sample(number: int, users: int) -> UUID:
    """The id of one of 2000 stored users, evenly from all of them: of the first stored and of the last."""
    some = min(2000, users)
    return user_id(number % some * (users // some))


def new_user(number: int) -> dict[str, Any]:
    """The body of a creation. Half of the addresses are at ten providers, half at 5,000 domains of their own."""
    domain = f"mail{number % 20}.example" if number % 2 else f"d{number * 7919 % 10_000}.example"
    return {"name": f"Observer {number}", "email": f"observer{number}@{domain}.org", "age": number % 100}


def ndjson(count: int) -> bytes:
    """The body of an import."""
    return b"".join(json.dumps(new_user(number)).encode() + b"\n" for number in range(count))


def load_users(hosts: Sequence[str], port: int, keyspace: str, begin: int, end: int, processes: int = 2) -> None:
    """Stores users `begin` to `end` (exclusive), by several processes.

    :raises BenchError: Cassandra does not take them.
    :raises multiprocessing.TimeoutError: after half an hour.
    """
    context = multiprocessing.get_context("spawn")
    step = -(-(end - begin) // processes)
    shares = [(first, min(first + step, end)) for first in range(begin, end, step)]
    with context.Pool(processes) as pool:
        pool.starmap_async(_load_share, [(hosts, port, keyspace, *share) for share in shares]).get(_PATIENCE)


def _load_share(hosts: Sequence[str], port: int, keyspace: str, begin: int, end: int) -> None:
    cluster = Cluster(list(hosts), port=port, protocol_version=5)
    session = cluster.connect()
    insert = session.prepare(
        f"INSERT INTO {keyspace}.users (id, name, email, age, created_at, updated_at, version) "
        "VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1"
    )

    def batch(first: int) -> tuple[BatchStatement, tuple[()]]:
        # Unlogged: to one node, which has them all anyway, a batch is one message instead of many.
        statement = BatchStatement(BatchType.UNLOGGED)
        for number in range(first, min(first + 50, end)):
            identity = user_id(number)
            statement.add(insert, (identity, *new_user(number).values(), _EPOCH, _EPOCH, identity))
        return statement, ()

    left = list(range(begin, end, 50))
    try:
        # Nodes that have just been started may be too late with some. All write the same, whenever they come.
        for _ in range(10):
            results = execute_concurrent(session, map(batch, left), concurrency=16, raise_on_first_error=False)
            left = [first for first, (stored, _) in zip(left, results, strict=True) if not stored]
            if not left:
                return
    finally:
        cluster.shutdown()
    raise BenchError(f"{len(left)} batches of users could not be stored.")


def load_animals(session: Any, keyspace: str) -> None:
    """Stores `SPECIES` animals for each of `GENERA`."""
    insert = session.prepare(
        f"INSERT INTO {keyspace}.animals (genus, species, image_url, size_cm, sightings, taxonomy) "
        "VALUES (?, ?, ?, ?, ?, ?)"
    )
    for genus in GENERA:
        for number in range(SPECIES):
            taxonomy = ["Animalia", "Chordata", "Mammalia", "Carnivora", genus]
            url = f"https://example.org/{genus}/{number}"
            session.execute(insert, (genus, f"species{number:03}", url, 10.5 + number, number, taxonomy))
