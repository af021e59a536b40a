"""Consistency check: compares every row with the history.

The rows are read directly at `ALL`, and then through the service.
"""

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

from dev.local_cassandra.ring import Ring
from tests.chaos.history import Creation, Fields, Finding, History, ObserverRow
from tests.chaos.load import creation_email, observer_fields
from tests.support import Service

Result = TypeVar("Result")

# Seconds to wait for the replay of a logged batch whose coordinator failed. The other nodes replay every 10 s.
BATCH_REPLAY_SECONDS = 40.0
# Seconds in which running nodes must see each other as up.
RETRY_SECONDS = 60.0
# At most this many written observers are read one by one, the newest first. The stream reads all observers.
SINGLE_READS = 400

_OBSERVERS = "SELECT id, name, email, age, created_at, version FROM {}.observers"
_FINDS = "SELECT genus, species, sightings FROM {}.finds"


@dataclass(frozen=True)
class Row:
    """An observer as read from the table or from the service."""

    id: str
    created_at: datetime | None
    fields: Fields


def check_consistency(ring: Ring, service: Service, keyspace: str, history: History) -> int:
    """Check all rows and report violations to the history. No request may be in flight.

    :returns: the number of rows checked.
    """
    with ring.session() as session:
        rows = _retry(lambda: _read_observers(session, keyspace))
        deadline = time.monotonic() + BATCH_REPLAY_SECONDS
        while _partial_batches(history, rows) and time.monotonic() < deadline:
            time.sleep(0.5)
            rows = _retry(lambda: _read_observers(session, keyspace))
        finds = _retry(lambda: [find._asdict() for find in session.execute(_FINDS.format(keyspace))])
    _check_observers(history, rows, "read at ALL")
    for batch in _partial_batches(history, rows):
        detail = f"only part of a batch exists: {[creation.email for creation in batch]}; {_requests(batch[0])}"
        history.report(Finding("lost", batch[0].email, detail))
    _check_finds(history, finds, "read at ALL")
    _check_through_service(service, history)
    known = sum(creation.row is not None for creation in history.creations.values())
    return known + len(history.finds)


def _read_observers(session: Session, keyspace: str) -> list[Row]:
    return [
        Row(
            str(id_),
            created_at and created_at.replace(tzinfo=UTC),
            Fields(name, email, age, f'"{version.hex}"' if version else ""),
        )
        for id_, name, email, age, created_at, version in session.execute(_OBSERVERS.format(keyspace))
    ]


def _retry(read: Callable[[], Result]) -> Result:
    """Retry a read at `ALL`: the other nodes do not see a restarted node as up at once."""
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return read()
        except (DriverException, NoHostAvailable):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _check_observers(history: History, rows: Iterable[Row], source: str) -> None:
    by_email: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_email[creation_email(row.fields.email or "")].append(row)
    for email, found in by_email.items():
        creation = history.creations.get(email)
        if creation is None or not creation.may_exist:
            requests = "" if creation is None else _requests(creation)
            history.report(Finding("unexplained", found[0].id, f"{source}: no client wrote {found}; {requests}"))
            continue
        if len(found) > 1:
            ids = ", ".join(row.id for row in found)
            key = f"the key {creation.key}" if creation.key else "one request"
            history.report(Finding("duplicate", email, f"{source}: {key} created {ids}; {_requests(creation)}"))
        for row in found:
            _check_observer(history, creation, row, source)
    ids = {row.id for found in by_email.values() for row in found}
    for creation in history.creations.values():
        if creation.row is not None and creation.row.id not in ids and not creation.row.allows(None):
            detail = f"{source}: {creation.email} does not exist; {_last_writes(creation.row)}"
            history.report(Finding("lost", creation.row.id, detail))


def _check_observer(history: History, creation: Creation, row: Row, source: str) -> None:
    known = creation.row
    if known is None:
        # The client never received the id, so it has not changed the observer.
        if not creation.fields.matches(row.fields):
            detail = f"{source}: {row}, but the request was {creation.fields}; {_requests(creation)}"
            history.report(Finding("unexplained", row.id, detail))
    elif known.id == row.id and (not known.allows(row.fields) or known.created_at != row.created_at):
        # An older version in the table means that an acknowledged update is lost.
        kind = "lost" if row.fields.etag in known.replaced_etags else "unexplained"
        detail = f"{source}: {row}, expected one of {known.states}; {_last_writes(known)}"
        history.report(Finding(kind, row.id, detail))


def _partial_batches(history: History, rows: Iterable[Row]) -> list[list[Creation]]:
    """Return batches with an unknown outcome of which some observers exist and others do not."""
    present = {creation_email(row.fields.email or "") for row in rows}
    batches = {id(c.batch): c.batch for c in history.creations.values() if c.batch is not None and c.row is None}
    return [batch for batch in batches.values() if 0 < sum(c.email in present for c in batch) < len(batch)]


def _check_finds(history: History, found: list[dict[str, object]], source: str) -> None:
    rows = {(str(find["genus"]), str(find["species"])): find for find in found}
    for key in rows.keys() | history.finds.keys():
        known, row = history.finds.get(key), rows.get(key)
        if known is None or row not in known.states:
            kind = "lost" if row is None else "unexplained"
            states = known and known.states
            last = known and known.last_acknowledged
            detail = f"{source}: {row}, expected one of {states}, last acknowledged write: {last}"
            history.report(Finding(kind, " ".join(key), detail))


def _check_through_service(service: Service, history: History) -> None:
    """Read all observers by the stream, the newest written observers one by one, and all finds."""
    with httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=30) as client:
        documents = _get(client, "/observers/stream?limit=10000000").json()
        rows = [Row(d["id"], datetime.fromisoformat(d["created_at"]), observer_fields(d)) for d in documents]
        _check_observers(history, rows, "GET /observers/stream")
        for genus in {genus for genus, _ in history.finds}:
            genus_rows = {key: row for key, row in history.finds.items() if key[0] == genus}
            genus_history = History()
            genus_history.finds = genus_rows
            _check_finds(genus_history, _get(client, f"/find/{genus}").json(), "GET /find")
            for finding in genus_history.findings():
                history.report(finding)
        written_ids, history.written_ids = history.written_ids, set()
        known = [c.row for c in history.creations.values() if c.row is not None]
        with ThreadPoolExecutor(4) as pool:
            newest = [row for row in known if row.id in written_ids][-SINGLE_READS:]
            list(pool.map(lambda row: _check_single_observer(client, history, row), newest))


def _check_single_observer(client: httpx.Client, history: History, row: ObserverRow) -> None:
    response = _get(client, f"/observers/{row.id}", 404)
    fields = observer_fields(response.json(), response.headers["ETag"]) if response.status_code == 200 else None
    if not row.allows(fields):
        kind = "lost" if fields is None or fields.etag in row.replaced_etags else "unexplained"
        detail = f"GET /observers/<id>: {fields}, expected one of {row.states}; {_last_writes(row)}"
        history.report(Finding(kind, row.id, detail))


def _get(client: httpx.Client, path: str, *statuses: int) -> httpx.Response:
    """Send a GET request until it succeeds.

    The service is healthy by now, but a slow machine may need a second attempt.

    :param statuses: status codes to accept besides 200.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            response = client.get(path)
            if response.status_code in (200, *statuses):
                return response
            problem = f"{response.status_code} {response.text[:300]}"
        except httpx.TransportError as error:
            problem = repr(error)
        assert time.monotonic() < deadline, f"GET {path}: {problem}"
        time.sleep(0.2)


def _last_writes(row: ObserverRow) -> str:
    last = f"last acknowledged write: {row.last_acknowledged}"
    if not row.unknown_writes:
        return last
    return f"{last}; later writes with an unknown outcome: {', '.join(map(str, row.unknown_writes))}"


def _requests(creation: Creation) -> str:
    return "its requests: " + ", ".join(map(str, creation.attempts))
