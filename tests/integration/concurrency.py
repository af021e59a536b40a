"""`concurrency`: many clients write the same rows at the same time. No write may be lost or doubled."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import httpx

from tests.integration.client import (
    Answer,
    Counts,
    Target,
    TargetError,
    create_is_safe,
    pause,
    read_metrics,
    send,
    send_until_answered,
)
from tests.integration.document import ALL_ROWS, NDJSON, Operation, Resource
from tests.integration.values import NoValue, Values

# How often each client tries to update its row.
ATTEMPTS = 5
# Clients that update the same row.
CLIENTS_PER_ROW = 5
# Rows of each partition. Fewer partitions than clients, so that clients write the same partition.
ROWS_PER_PARTITION = 10


class Update(NamedTuple):
    """A successful update with `If-Match`: the version that it replaced, and the new one."""

    before: str
    after: str


def update_problems(first: str, last: str | None, updates: Iterable[Update], unknown: int) -> list[str]:
    """Check that each successful update replaced the version that the one before wrote.

    :param first: the ETag of the new row.
    :param last: the ETag that a read returned at the end.
    :param unknown: updates whose outcome is unknown. With any, the versions may have gaps.
    """
    updates = list(updates)
    winners = Counter(each.before for each in updates)
    found = [f"{number} updates replaced the same version" for number in winners.values() if number > 1]
    following = {each.before: each.after for each in updates}
    version, steps = first, 0
    while version in following and steps < len(updates):
        version, steps = following[version], steps + 1
    if not unknown and not found and (version != last or steps != len(updates)):
        found.append(f"the row has {steps} of {len(updates)} successful updates")
    return found


class Row:
    """A row that this run creates."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.idempotency_key = uuid.uuid4().hex
        self.answers: list[Answer] = []
        # One key, or more if the service created the row more than once.
        self.keys: list[dict[str, str]] = []
        # The row as the service returned it.
        self.document: Any = None

    @property
    def key(self) -> dict[str, str] | None:
        return self.keys[0] if self.keys else None


class Run:
    """One run against one resource."""

    def __init__(
        self,
        target: Target,
        resource: Resource,
        clients: int,
        rows: int,
        counts: Counts,
        advance: Callable[[int], None],
    ) -> None:
        self._resource = resource
        self._clients = clients
        self._counts = counts
        self._advance = advance
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._own = threading.local()
        self._target = target
        self._opened: list[httpx.Client] = []
        self._values = Values(target.document.components, f"load{uuid.uuid4().hex[:8]}")
        self._rows = self._new_rows(rows)
        self.checks: list[dict[str, Any]] = []

    def run(self) -> None:
        """Run all checks, and delete the rows."""
        try:
            self._create()
            if self._resource.versioned:
                self._update()
            self._read()
            self._list(self._rows)
            self._delete()
        finally:
            self._stop.set()
            # After Ctrl-C, tasks that wait are not started. The running ones end first, so that no row is left.
            self._pool.shutdown(cancel_futures=True)
            self._clean_up()
            for http in self._opened:
                http.close()

    def _http(self) -> httpx.Client:
        """The client of the current thread, with a connection of its own."""
        if not hasattr(self._own, "http"):
            self._own.http = self._target.client()
            self._opened.append(self._own.http)
        return self._own.http  # type: ignore[no-any-return]

    def _new_rows(self, number: int) -> list[Row]:
        first, rows, taken = random.randrange(2**28), [], set()
        for each in range(number):
            body = self._resource.body(self._values, first + each, group=first + each // ROWS_PER_PARTITION)
            key = None if self._resource.generates_key else tuple(self._resource.key_in(body).values())
            if (key is None or key not in taken) and create_is_safe(self._resource, body, self._values, self._http()):
                rows.append(Row(body))
                taken.add(key)
        return rows

    def _each(self, function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Call the function with each of the arguments, in the threads of the clients."""
        futures = [self._pool.submit(function, *each) for each in arguments]
        results = []
        for future in futures:
            results.append(future.result())
            self._advance(1)
        return results

    def _send(self, operation: Operation, url: str, **arguments: Any) -> Answer:
        return send_until_answered(self._http(), operation, url, self._counts, self._stop, **arguments)

    def _check(self, name: str, number: int, problems: list[str]) -> None:
        self.checks.append(check(self._resource.name, name, number, problems))

    def _create(self) -> None:
        """Create each row with two requests at the same time, of which each may be repeated."""

        def create(row: Row) -> None:
            headers = self._resource.create.idempotency_header(row.idempotency_key)
            answer = self._send(self._resource.create, self._resource.create.path, json=row.body, headers=headers)
            row.answers.append(answer)

        times = 2 if self._resource.idempotent else 1
        self._each(create, [(row,) for row in self._rows for _ in range(times)])
        problems = []
        for row in self._rows:
            answers = {(each.status, each.header("Location")) for each in row.answers}
            created = next((each for each in row.answers if each.status == 201), None)
            if created is not None:
                row.document = created.json()
                try:
                    row.keys = self._keys_of(row.answers)
                except ValueError as error:
                    problems.append(str(error))
            if len(answers) != 1 or created is None:
                problems.append(f"one row, different answers: {sorted(map(str, answers))}")
        self._check("rows created, each by two requests", len(self._rows), problems)

    def _keys_of(self, answers: list[Answer]) -> list[dict[str, str]]:
        """The keys in the `Location` of these responses. :raises ValueError: a `Location` has another form."""
        locations = dict.fromkeys(each.header("Location") or "" for each in answers if each.status == 201)
        return [self._resource.key_of(each) for each in locations]

    def _update(self) -> None:
        """Read and update rows with `If-Match`, several clients each row."""
        get, update = self._resource.get, self._resource.update
        rows = [row for row in self._rows if row.key][: max(1, self._clients // CLIENTS_PER_ROW)]
        if get is None or update is None:
            return
        schema = self._values.resolve(update.body_schema or {})
        lock = threading.Lock()
        updates: dict[int, list[Update]] = {index: [] for index in range(len(rows))}
        unknown = Counter[int]()
        conflicts = Counter[int]()

        def read_and_update(index: int, client: int) -> None:
            url = get.url(rows[index].key or {})
            for attempt in range(ATTEMPTS):
                if self._stop.is_set():
                    return
                version = self._send(get, url).header("ETag")
                if version is None:
                    continue
                body = self._values.body(schema, client * ATTEMPTS + attempt)
                # Not repeated after a 504 or a lost connection: another attempt would find its own update.
                answer = self._send_once(update, url, json=body, headers={"If-Match": version})
                with lock:
                    if answer.status == 200:
                        updates[index].append(Update(version, answer.header("ETag") or ""))
                    elif answer.status == 412:
                        conflicts[index] += 1
                    elif answer.status not in (429, 503):
                        unknown[index] += 1

        self._each(
            read_and_update, [(each % len(rows), each) for each in range(max(self._clients, len(rows)))] if rows else []
        )
        problems = []
        for index, row in enumerate(rows):
            last = self._send(get, get.url(row.key or {}))
            first = next((each.header("ETag") or "" for each in row.answers if each.status == 201), "")
            problems += update_problems(first, last.header("ETag"), updates[index], unknown[index])
            if not updates[index]:
                problems.append("no update of a row succeeded")
            row.document = last.json()
        total = sum(map(len, updates.values()))
        self._check(f"updates with If-Match ({sum(conflicts.values())} conflicts)", total, problems)

    def _send_once(self, operation: Operation, url: str, **arguments: Any) -> Answer:
        """Send a request that must not be repeated."""
        answer = send(self._http(), operation.method, url, **arguments)
        self._counts.add("requests")
        if answer.response is None:
            self._counts.add(f"{operation}: {answer.error}")
        elif answer.status in (429, 503, 504):
            self._counts.add(str(answer.status))
            self._stop.wait(pause(answer))
        return answer

    def _read(self) -> None:
        """Read each row, and compare it with the response of the write."""
        get = self._resource.get
        if get is None:
            return
        rows = [row for row in self._rows if row.key]
        answers = self._each(lambda row: self._send(get, get.url(row.key)), [(row,) for row in rows])
        problems = [
            f"{get.url(row.key or {})} {answer.outcome}, or its values differ from those written"
            for row, answer in zip(rows, answers, strict=True)
            if answer.status != 200 or not contains(answer.json(), self._expected(row))
        ]
        self._check("rows read back", len(rows), problems)

    def _expected(self, row: Row) -> Any:
        """The row as the service returned it, or else its body as it was sent."""
        return row.document if self._resource.generates_key else row.body

    def _list(self, rows: list[Row], name: str = "rows in lists, each once") -> None:
        """Check that lists contain each of these rows once, and no other row of this run."""
        lists = self._resource.lists
        rows = [row for row in rows if row.key]
        if lists is None:
            return
        urls = {lists.url(row.key or {}) for row in self._rows if row.key}
        params = {"limit": ALL_ROWS} if lists.takes("limit") and self._resource.generates_key else {}
        found: Counter[str] = Counter()
        key_of = {self._identity(self._expected(row)): row for row in self._rows if row.key}
        problems = []
        for url in sorted(urls):
            answer = self._send(lists, url, params=params, headers={"Accept": NDJSON})
            if answer.status != 200 or answer.response is None:
                problems.append(f"{url} {answer.outcome}")
                continue
            for line in answer.response.iter_lines():
                try:
                    identity = self._identity(json.loads(line))
                except ValueError:
                    problems.append(f"{url} has a line that is not JSON: {line[:100]}")
                    continue
                if identity in key_of:
                    found[identity] += 1
                elif f"{self._values.tag}-" in line:
                    problems.append(f"{url} has a row that no request created: {line[:200]}")
        wanted = {self._identity(self._expected(row)) for row in rows}
        problems += [f"a row is {found[each]} times in the lists: {each}" for each in wanted if found[each] != 1]
        problems += [f"a deleted row is in the lists: {each}" for each in found.keys() - wanted]
        self._check(name, len(rows), problems)

    def _identity(self, row: Any) -> str:
        """The key of a row in a document that the service returned or received."""
        names = (self._resource.delete or self._resource.create).path_parameters
        return json.dumps([row.get(name) for name in names] if isinstance(row, dict) else None)

    def _delete(self) -> None:
        """Delete every second row. At the same time other clients delete it too, or change it."""
        delete, update, get = self._resource.delete, self._resource.update, self._resource.get
        victims = [row for row in self._rows if row.key][::2]
        rest = [row for row in self._rows if row.key][1::2]
        if delete is None:
            return
        requests = [(delete, row, {}) for row in victims for _ in range(2)]
        if update is not None:
            schema = self._values.resolve(update.body_schema or {})
            body = self._values.body(schema, 0)
            requests += [(update, row, {"json": body}) for row in victims]
        random.shuffle(requests)
        answers = self._each(lambda op, row, args: (op, self._send(op, op.url(row.key), **args)), requests)
        allowed = {"DELETE": (204,), "PATCH": (200, 404), "PUT": (200, 404)}
        problems = [
            f"{operation} {answer.outcome}"
            for operation, answer in answers
            if answer.status not in allowed[operation.method]
        ]
        if get is not None:
            left = self._each(lambda row: self._send(get, get.url(row.key)), [(row,) for row in victims])
            problems += [f"a deleted row {answer.outcome}" for answer in left if answer.status != 404]
        self._check("rows deleted, each by two requests", len(victims), problems)
        self._list(rest, "rows in lists after the deletion")

    def _clean_up(self) -> None:
        """Delete all rows. A row whose creation got no response is created again with its key, which tells its URL."""
        create, delete = self._resource.create, self._resource.delete
        counts, stop = Counts(), threading.Event()
        assert delete is not None
        with self._target.client() as http, ThreadPoolExecutor(8) as pool:

            def remove(row: Row) -> bool:
                keys = row.keys
                if not keys and not self._resource.generates_key:
                    keys = [self._resource.key_in(row.body)]
                elif not keys and row.answers and self._resource.idempotent:
                    repeated = {"json": row.body, "headers": {"Idempotency-Key": row.idempotency_key}}
                    answer = send_until_answered(http, create, create.path, counts, stop, **repeated)
                    with suppress(ValueError):
                        keys = self._keys_of([answer])
                answers = [send_until_answered(http, delete, delete.url(key), counts, stop) for key in keys]
                if any(each.status not in (204, 404) for each in answers):
                    # One attempt for each other row is enough: the service is down or broken.
                    stop.set()
                    return False
                return True

            left = list(pool.map(remove, self._rows)).count(False)
        if left:
            self._check("rows deleted at the end", len(self._rows), [f"{left} rows may be left"])


def check(resource: str, name: str, number: int, problems: list[str]) -> dict[str, Any]:
    """The result of a check. Its detail has the first three problems."""
    detail = "; ".join(problems[:3]) + (f"; {len(problems) - 3} more" if len(problems) > 3 else "")
    return {"resource": resource, "check": name, "number": number, "ok": not problems, "detail": detail}


def contains(document: Any, expected: Any) -> bool:
    """Return whether the document has all fields of `expected`, with the same values."""
    if not isinstance(document, dict) or not isinstance(expected, dict):
        return False
    return all(document.get(name) == value for name, value in expected.items())


def run(target: Target, clients: int, rows: int, advance: Callable[[int], None]) -> dict[str, Any]:
    """Run the command. The result is JSON.

    :param rows: the rows to create of each resource.
    """
    target.require_ready()
    usable = [each for each in target.document.resources if each.delete is not None]
    if not usable:
        raise TargetError(f"The service at {target.url} has no resource whose rows can be created and deleted.")
    counts = Counts()
    checks: list[dict[str, Any]] = []
    left_out = []
    for resource in usable:
        try:
            one = Run(target, resource, clients, rows, counts, advance)
        except NoValue as error:
            left_out.append(f"{resource.name}: {error}")
            continue
        one.run()
        checks += one.checks
    with target.client() as http:
        workers = read_metrics(http).get("fieldbook_workers")
    problems = [f"{number} x {text}" for text, number in counts.failures().items()]
    checks.append(check("", "requests with a response", counts["requests"], problems))
    return {
        "ok": all(each["ok"] for each in checks),
        "clients": clients,
        "workers": None if workers is None else int(workers),
        "requests": counts["requests"],
        "repeated": {status: counts[status] for status in ("409", "429", "503", "504")},
        "left_out": left_out,
        "checks": checks,
    }
