"""Load generator: clients that record each request and compare each response with the history."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

import httpx

from tests.chaos.history import (
    Creation,
    Fields,
    Finding,
    FindRow,
    History,
    ObserverRow,
    Operation,
    Outcome,
)
from tests.support import wait_for

OBSERVER_KEYS = {"id", "name", "email", "age", "created_at", "updated_at"}
# Mean pause of a client between two requests, in seconds: a steady load that a small machine can serve.
THINK_TIME = 0.06
# Seconds for which a client retries a request with an Idempotency-Key. No fault lasts that long.
RETRY_SECONDS = 60.0
# Seconds. Longer than the service's deadline of 10 s: when a client gives up, its request is no longer running.
CLIENT_TIMEOUT = 30.0
SPECIES_PER_CLIENT = 12


def observer_fields(document: dict[str, Any], etag: str | None = None) -> Fields:
    """Convert an observer as the service returns it."""
    return Fields(document["name"], document["email"], document["age"], etag)


class Client:
    """A client with its own thread and its own rows. It sends one request at a time."""

    def __init__(self, number: int, base_url: str, history: History) -> None:
        self.number = number
        self._history = history
        self._random = random.Random(number)
        self._numbers = itertools.count(1)
        self._http = httpx.Client(base_url=base_url, timeout=CLIENT_TIMEOUT)
        self._rows: list[ObserverRow] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._actions: list[tuple[int, Callable[[], None]]] = [
            (10, lambda: self._create(1, with_key=False)),
            (10, lambda: self._create(1, with_key=True)),
            (3, lambda: self._create(self._random.randint(2, 5), with_key=False)),
            (3, lambda: self._create(self._random.randint(2, 5), with_key=True)),
            (25, self._patch),
            (8, self._put),
            (6, self._delete),
            (22, self._get),
            (7, self._post_find),
            (5, self._get_find),
            (1, self._stream),
        ]

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=f"client-{self.number}", daemon=True)
        self._thread.start()

    def send_idempotent_request(self) -> None:
        """Send one request whose statements are idempotent and use one partition."""
        (self._get, self._get_find, self._post_find)[self.number % 3]()

    def ask_to_stop(self) -> None:
        self._stop.set()

    def join(self, timeout: float) -> None:
        """Wait until the client has received its last response.

        :param timeout: seconds.
        :raises AssertionError: the client did not stop in time.
        """
        if self._thread is not None:
            self._thread.join(timeout)
            assert not self._thread.is_alive(), f"client {self.number} did not stop within {timeout:.0f} s"

    def close(self) -> None:
        self._http.close()

    def _run(self) -> None:
        weights = [weight for weight, _ in self._actions]
        while not self._stop.wait(self._random.uniform(0, 2 * THINK_TIME)):
            ((_, action),) = self._random.choices(self._actions, weights)
            action()

    # --- Requests ------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        *,
        kind: str,
        writes: bool,
        headers: dict[str, str] | None = None,
        body: Any = None,
    ) -> tuple[Operation, httpx.Response | None]:
        operation = Operation(kind, f"chaos-{self.number}-{uuid4().hex[:12]}", writes, time.monotonic())
        response = None
        try:
            response = self._http.request(
                method, path, json=body, headers={"X-Request-ID": operation.request_id, **(headers or {})}
            )
            operation.status = response.status_code
        except httpx.TransportError as error:
            operation.error = f"{type(error).__name__}: {error}"
            operation.sent = not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        operation.ended = time.monotonic()
        self._history.operations.append(operation)
        return operation, response

    def _report(self, operation: Operation, subject: str, detail: str | None, kind: str = "contradiction") -> None:
        """Report a finding, unless `detail` is None."""
        if detail is not None:
            self._history.report(Finding(kind, subject, f"{operation}: {detail}"))

    def _report_unexpected(self, operation: Operation, subject: str, response: httpx.Response | None) -> None:
        if operation.outcome in (Outcome.ACKNOWLEDGED, Outcome.REFUSED) and response is not None:
            self._report(operation, subject, f"unexpected response: {response.text[:300]}")

    # --- Observers -----------------------------------------------------------------------------------------

    def _create(self, count: int, with_key: bool) -> None:
        key = f"key-{uuid4()}" if with_key else None
        creations = [self._new_creation(key) for _ in range(count)]
        if count > 1:
            for creation in creations:
                creation.batch = creations
        self._history.add(creations)
        response = self._send_creations(creations)
        if response is None:
            return
        if with_key and self._random.random() < 0.1:
            # A client that did not receive the response retries. It must get the same response.
            self._send_creations(creations, retry=True)
        self._rows += [creation.row for creation in creations if creation.row is not None]

    def _new_creation(self, key: str | None) -> Creation:
        number = next(self._numbers)
        email = f"u{self.number}-{number}@example.org"
        return Creation(email, Fields(f"Observer {self.number}-{number}", email, self._random.randint(0, 150)), key, [])

    def _send_creations(self, creations: list[Creation], retry: bool = False) -> httpx.Response | None:
        """Send one request for these observers. With a key, retry it until the outcome is known."""
        first = creations[0]
        bodies = [{"name": c.fields.name, "email": c.email, "age": c.fields.age} for c in creations]
        batch = first.batch is not None
        headers = {"Idempotency-Key": first.key} if first.key else None
        deadline = time.monotonic() + RETRY_SECONDS
        while True:
            operation, response = self._send(
                "POST",
                "/observers/batch" if batch else "/observers",
                kind=f"POST {'/observers/batch' if batch else '/observers'}{' with key' if first.key else ''}",
                writes=True,
                headers=headers,
                body=bodies if batch else bodies[0],
            )
            for creation in creations:
                creation.attempts.append(operation)
            if response is not None and operation.status == 201:
                self._record_created(operation, response, creations, retry)
                return response
            self._report_unexpected(operation, first.email, response)
            if first.key is None or operation.outcome is Outcome.REFUSED or time.monotonic() > deadline:
                return None
            wait = response.headers.get("Retry-After", "") if response is not None else ""
            time.sleep(min(float(wait), 2.0) if wait.isdigit() else 0.2)

    def _record_created(
        self, operation: Operation, response: httpx.Response, creations: list[Creation], retry: bool
    ) -> None:
        document = response.json()
        observers = document["observers"] if creations[0].batch is not None else [document]
        etag = response.headers.get("ETag") if creations[0].batch is None else None
        for creation, observer in itertools.zip_longest(creations, observers):
            if creation is None or observer is None or not creation.fields.matches(observer_fields(observer)):
                self._report(operation, creations[0].email, f"the response differs from the request: {document}")
            elif retry:
                if creation.row is not None and creation.row.id != observer["id"]:
                    detail = (
                        f"the first request created {creation.row.id}, its retry with the same key {observer['id']}"
                    )
                    self._report(operation, creation.email, detail, kind="duplicate")
            else:
                row = observer_fields(observer, etag)
                created_at = datetime.fromisoformat(observer["created_at"])
                creation.row = ObserverRow(observer["id"], creation.email, created_at, {row}, operation)
                self._history.written_ids.add(observer["id"])

    def _choose_row(self) -> ObserverRow | None:
        # Prefer recent rows, as real clients do, but use all of them.
        rows = self._rows if self._random.random() < 0.3 else self._rows[-30:]
        return self._random.choice(rows) if rows else None

    def _choose_if_match(self, row: ObserverRow) -> str | None:
        draw = self._random.random()
        if draw < 0.1 and row.replaced_etags:
            return self._random.choice(row.replaced_etags)
        return row.etag() if draw < 0.4 else None

    def _patch(self) -> None:
        row = self._choose_row()
        if row is None:
            return
        changes: dict[str, Any] = {}
        if self._random.random() < 0.7:
            changes["name"] = f"Observer {self.number} {uuid4().hex[:8]}"
        if not changes or self._random.random() < 0.5:
            changes["age"] = self._random.randint(0, 150)
        self._change("PATCH", row, changes)

    def _put(self) -> None:
        row = self._choose_row()
        if row is None:
            return
        email = row.email.replace("@", f"+{uuid4().hex[:8]}@")
        changes = {"name": f"Observer {self.number}", "email": email, "age": self._random.randint(0, 150)}
        self._change("PUT", row, changes)

    def _change(self, method: str, row: ObserverRow, changes: dict[str, Any]) -> None:
        if_match = self._choose_if_match(row)
        headers = {"If-Match": if_match} if if_match else None
        operation, response = self._send(
            method, f"/observers/{row.id}", kind=f"{method} /observers/<id>", writes=True, headers=headers, body=changes
        )
        self._history.written_ids.add(row.id)
        if operation.outcome is Outcome.UNKNOWN:
            row.record_unknown_change(operation, changes, if_match)
        elif response is not None and operation.status == 200:
            document = response.json()
            changed = observer_fields(document, response.headers["ETag"])
            self._report(operation, row.id, row.record_change(operation, changes, if_match, changed))
        elif operation.status == 404:
            self._report(operation, row.id, row.record_not_found(operation), kind="lost")
        elif operation.status == 412:
            self._report(operation, row.id, row.check_conflict(if_match))
        else:
            self._report_unexpected(operation, row.id, response)

    def _delete(self) -> None:
        row = self._choose_row()
        if row is None:
            return
        if_match = self._choose_if_match(row)
        headers = {"If-Match": if_match} if if_match else None
        operation, response = self._send(
            "DELETE", f"/observers/{row.id}", kind="DELETE /observers/<id>", writes=True, headers=headers
        )
        self._history.written_ids.add(row.id)
        if operation.outcome is Outcome.UNKNOWN:
            row.record_unknown_delete(operation, if_match)
        elif operation.status == 204:
            self._report(operation, row.id, row.record_delete(operation, if_match))
        elif operation.status == 412:
            self._report(operation, row.id, row.check_conflict(if_match))
        else:
            self._report_unexpected(operation, row.id, response)

    def _get(self) -> None:
        row = self._choose_row()
        if row is None:
            return
        operation, response = self._send("GET", f"/observers/{row.id}", kind="GET /observers/<id>", writes=False)
        if response is None or operation.status not in (200, 404):
            self._report_unexpected(operation, row.id, response)
            return
        found = observer_fields(response.json(), response.headers["ETag"]) if operation.status == 200 else None
        if not row.allows(found):
            kind = "lost" if found is None else "unexplained"
            self._report(operation, row.id, _read_contradiction(found, row), kind)
        elif found is not None:
            row.record_read(found)

    def _stream(self) -> None:
        operation, response = self._send(
            "GET", "/observers/stream?limit=200", kind="GET /observers/stream", writes=False
        )
        if response is None or operation.status != 200:
            self._report_unexpected(operation, "stream", response)
            return
        for document in response.json():
            if set(document) != OBSERVER_KEYS or creation_email(document["email"]) not in self._history.creations:
                self._report(operation, document["id"], f"no client wrote {document}", kind="unexplained")

    # --- Finds ---------------------------------------------------------------------------------------------

    def _find(self) -> tuple[str, str, FindRow]:
        genus, species = f"Genus-{self.number}", f"species-{self._random.randrange(SPECIES_PER_CLIENT)}"
        return genus, species, self._history.finds.setdefault((genus, species), FindRow([None]))

    def _post_find(self) -> None:
        genus, species, row = self._find()
        # The number is used once, so the state of a row identifies the request that wrote it.
        document = {"genus": genus, "species": species, "sightings": next(self._numbers)}
        operation, response = self._send("POST", "/find", kind="POST /find", writes=True, body=document)
        row.record_write(operation, document)
        if operation.status != 201:
            self._report_unexpected(operation, f"{genus} {species}", response)

    def _get_find(self) -> None:
        genus, species, row = self._find()
        operation, response = self._send("GET", f"/find/{genus}/{species}", kind="GET /find", writes=False)
        if response is None or operation.status not in (200, 404):
            self._report_unexpected(operation, f"{genus} {species}", response)
            return
        found = response.json() if operation.status == 200 else None
        if found not in row.states:
            detail = _read_contradiction(found, row)
            self._report(operation, f"{genus} {species}", detail, "lost" if found is None else "unexplained")


def creation_email(email: str) -> str:
    """Return the address that an observer was created with: remove the plus tag that `PUT` requests add."""
    name, _, domain = email.partition("@")
    return f"{name.partition('+')[0]}@{domain}"


def _read_contradiction(found: object, row: ObserverRow | FindRow) -> str:
    return f"read {found}, expected one of {row.states}, last acknowledged write: {row.last_acknowledged}"


class Load:
    """All clients. Each client keeps its rows between two `running()` blocks."""

    def __init__(self, base_url: str, history: History, clients: int = 8, first: int = 1) -> None:
        """Create the clients.

        :param first: number of the first client. Clients of one history have different numbers.
        """
        self._history = history
        self._clients = [Client(number, base_url, history) for number in range(first, first + clients)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the clients. When the block ends, no request is in flight."""
        for client in self._clients:
            client.start()
        try:
            yield
        finally:
            for client in self._clients:
                client.ask_to_stop()
            for client in self._clients:
                client.join(RETRY_SECONDS + 2 * CLIENT_TIMEOUT)

    def send_idempotent_requests(self) -> list[Operation]:
        """Send one idempotent request from each client at the same time. Return the requests, which are completed."""
        first = len(self._history.operations)
        with ThreadPoolExecutor(len(self._clients)) as pool:
            list(pool.map(Client.send_idempotent_request, self._clients))
        return self._history.operations[first:]

    def wait_for_acknowledged(self, count: int, timeout: float = 60.0) -> None:
        """Wait until `count` more requests are acknowledged.

        :param timeout: seconds.
        """
        first = len(self._history.operations)

        def enough() -> bool:
            completed = self._history.operations[first:]
            return sum(operation.outcome is Outcome.ACKNOWLEDGED for operation in completed) >= count

        wait_for(enough, timeout, f"{count} acknowledged requests")

    def close(self) -> None:
        for client in self._clients:
            client.close()
