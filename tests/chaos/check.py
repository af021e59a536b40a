"""Holds the tables against the history: every row, read directly at `ALL`, and again through the service."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import httpx
from cassandra import DriverException
from cassandra.cluster import NoHostAvailable, Session

from tests.chaos.history import Creation, Fields, Finding, History, UserRow
from tests.chaos.load import origin, user_fields
from tests.chaos.system import Ring
from tests.support import Service

Result = TypeVar("Result")

# Seconds. A logged batch whose coordinator failed is replayed by another node, which looks every 10 s.
BATCH_LOG = 40.0
# Seconds in which three nodes that run agree that they do.
ALL_REPLICAS = 60.0
# Users that are asked for by their id, of those that the load has touched; the stream has all of them.
ONE_BY_ONE = 400

_USERS = "SELECT id, name, email, age, created_at, version FROM {}.users"
_ANIMALS = "SELECT genus, species, image_url, size_cm, sightings, taxonomy FROM {}.animals"


@dataclass(frozen=True)
class Row:
    """A user as a table, or the service, has it."""

    id: str
    created_at: datetime | None
    fields: Fields


def verify(ring: Ring, service: Service, keyspace: str, history: History) -> int:
    """Reports to the history what must not be. No request may be on its way meanwhile.

    :returns: how many rows were checked.
    """
    with ring.session() as session:
        rows = _patiently(lambda: _users(session, keyspace))
        limit = time.monotonic() + BATCH_LOG
        while _partial_batches(history, rows) and time.monotonic() < limit:
            time.sleep(0.5)
            rows = _patiently(lambda: _users(session, keyspace))
        animals = _patiently(lambda: list(session.execute(_ANIMALS.format(keyspace))))
    _check_users(history, rows, "read at ALL")
    for batch in _partial_batches(history, rows):
        detail = f"part of a batch: {[creation.email for creation in batch]}; {_requests(batch[0])}"
        history.report(Finding("lost", batch[0].email, detail))
    found = [{**animal._asdict(), "taxonomy": list(animal.taxonomy or [])} for animal in animals]
    _check_animals(history, found, "read at ALL")
    _check_through_service(service, history)
    known = sum(creation.row is not None for creation in history.creations.values())
    return known + len(history.animals)


def _users(session: Session, keyspace: str) -> list[Row]:
    return [
        Row(
            str(id_),
            created_at and created_at.replace(tzinfo=UTC),
            Fields(name, email, age, f'"{version.hex}"' if version else ""),
        )
        for id_, name, email, age, created_at, version in session.execute(_USERS.format(keyspace))
    ]


def _patiently(read: Callable[[], Result]) -> Result:
    """`ALL` needs every node, and a node that has just come back is not believed to be up at once."""
    limit = time.monotonic() + ALL_REPLICAS
    while True:
        try:
            return read()
        except (DriverException, NoHostAvailable):
            if time.monotonic() > limit:
                raise
            time.sleep(0.2)


def _check_users(history: History, rows: Iterable[Row], how: str) -> None:
    by_email: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_email[origin(row.fields.email or "")].append(row)
    for email, found in by_email.items():
        creation = history.creations.get(email)
        if creation is None or not creation.may_exist:
            requests = "" if creation is None else _requests(creation)
            history.report(Finding("unexplained", found[0].id, f"{how}: nobody wrote {found}; {requests}"))
            continue
        if len(found) > 1:
            ids = ", ".join(row.id for row in found)
            key = f"the key {creation.key}" if creation.key else "one request"
            history.report(Finding("duplicate", email, f"{how}: {key} made {ids}; {_requests(creation)}"))
        for row in found:
            _check_user(history, creation, row, how)
    ids = {row.id for found in by_email.values() for row in found}
    for creation in history.creations.values():
        if creation.row is not None and creation.row.id not in ids and not creation.row.allows(None):
            detail = f"{how}: {creation.email} is gone; {_acknowledged(creation.row)}"
            history.report(Finding("lost", creation.row.id, detail))


def _check_user(history: History, creation: Creation, row: Row, how: str) -> None:
    known = creation.row
    if known is None:
        # Its id is not known to its client, so nobody has changed it since.
        if not creation.fields.matches(row.fields):
            detail = f"{how}: {row}, but {creation.fields} was sent; {_requests(creation)}"
            history.report(Finding("unexplained", row.id, detail))
    elif known.id == row.id and (not known.allows(row.fields) or known.created_at != row.created_at):
        # An older version that is there again is an update that is lost.
        kind = "lost" if row.fields.etag in known.outdated else "unexplained"
        history.report(Finding(kind, row.id, f"{how}: {row}, not one of {known.states}; {_acknowledged(known)}"))


def _partial_batches(history: History, rows: Iterable[Row]) -> list[list[Creation]]:
    """Batches of unknown outcome of which some users are there and others are not."""
    present = {origin(row.fields.email or "") for row in rows}
    batches = {id(c.batch): c.batch for c in history.creations.values() if c.batch is not None and c.row is None}
    return [batch for batch in batches.values() if 0 < sum(c.email in present for c in batch) < len(batch)]


def _check_animals(history: History, found: list[dict[str, object]], how: str) -> None:
    rows = {(str(animal["genus"]), str(animal["species"])): animal for animal in found}
    for key in rows.keys() | history.animals.keys():
        known, row = history.animals.get(key), rows.get(key)
        if known is None or row not in known.states:
            kind = "lost" if row is None else "unexplained"
            detail = f"{how}: {row}, not one of {known and known.states}, since {known and known.last}"
            history.report(Finding(kind, " ".join(key), detail))


def _check_through_service(service: Service, history: History) -> None:
    """All users by the stream, the newest that the load has touched one by one, all animals."""
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
        documents = _get(client, "/users/stream?limit=10000000").json()
        rows = [Row(d["id"], datetime.fromisoformat(d["created_at"]), user_fields(d)) for d in documents]
        _check_users(history, rows, "GET /users/stream")
        for genus in {genus for genus, _ in history.animals}:
            kept = {key: row for key, row in history.animals.items() if key[0] == genus}
            part = History()
            part.animals = kept
            _check_animals(part, _get(client, f"/animal/{genus}").json(), "GET /animal")
            for finding in part.findings():
                history.report(finding)
        touched, history.touched = history.touched, set()
        known = [c.row for c in history.creations.values() if c.row is not None]
        with ThreadPoolExecutor(4) as pool:
            newest = [row for row in known if row.id in touched][-ONE_BY_ONE:]
            list(pool.map(lambda row: _check_one(client, history, row), newest))


def _check_one(client: httpx.Client, history: History, row: UserRow) -> None:
    response = _get(client, f"/users/{row.id}", 404)
    fields = user_fields(response.json(), response.headers["ETag"]) if response.status_code == 200 else None
    if not row.allows(fields):
        kind = "lost" if fields is None or fields.etag in row.outdated else "unexplained"
        detail = f"GET /users/<id>: {fields}, not one of {row.states}; {_acknowledged(row)}"
        history.report(Finding(kind, row.id, detail))


def _get(client: httpx.Client, path: str, *statuses: int) -> httpx.Response:
    """The answer; the checks begin when the service is well, but a slow machine may need a second attempt."""
    limit = time.monotonic() + ALL_REPLICAS
    while True:
        try:
            response = client.get(path)
            if response.status_code in (200, *statuses):
                return response
            problem = f"{response.status_code} {response.text[:300]}"
        except httpx.TransportError as error:
            problem = repr(error)
        assert time.monotonic() < limit, f"GET {path}: {problem}"
        time.sleep(0.2)


def _acknowledged(row: UserRow) -> str:
    unknown = "; of unknown outcome since: " + ", ".join(map(str, row.unknown)) if row.unknown else ""
    return f"acknowledged last: {row.last}{unknown}"


def _requests(creation: Creation) -> str:
    return "its requests: " + ", ".join(map(str, creation.attempts))
