"""`sample_data`: writes rows over HTTP. The same command writes the same rows, so that it can be repeated."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import httpx

from tests.integration.client import Counts, Target, TargetError, send_until_answered
from tests.integration.document import ALL_ROWS, NDJSON, Resource
from tests.integration.values import NoValue, Values

BATCH = 100
# Requests in flight: enough for throughput, and far below the concurrency limit of one worker (48).
THREADS = 8


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


class Writer:
    """Writes the rows of one resource."""

    def __init__(self, target: Target, resource: Resource, count: int, seed: int) -> None:
        self._resource = resource
        self._http = target.client()
        self._stop = threading.Event()
        self._counts = Counts()
        values = Values(target.document.components, f"s{seed}")
        self._bodies = lambda: (resource.body(values, number) for number in range(count))
        self.total = count
        self.written = 0
        self.present = 0

    def run(self, advance: Callable[[int], None]) -> list[str]:
        """Write the rows that are missing. Return a description of each failed request."""
        with self._http, ThreadPoolExecutor(THREADS) as pool:
            present = self._present() if self._resource.generates_key else set()
            self.present = len(present)
            advance(self.present)
            missing = (body for body in self._bodies() if not present or _digest(body) not in present)
            failed: list[str] = []
            waiting: set[Future[tuple[int, str]]] = set()
            requests = self._requests(missing)
            try:
                while True:
                    waiting |= {pool.submit(self._write, *each) for each in islice(requests, THREADS - len(waiting))}
                    if not waiting:
                        return failed
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for rows, problem in (future.result() for future in done):
                        if problem:
                            failed.append(problem)
                        else:
                            self.written += rows
                            advance(rows)
                    if len(failed) > THREADS:
                        return failed
            finally:
                self._stop.set()

    def _requests(self, bodies: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """The number of rows and the body of each request."""
        if self._resource.batch is None:
            yield from ((1, body) for body in bodies)
        else:
            yield from ((len(rows), list(rows)) for rows in _batches(bodies))

    def _write(self, rows: int, body: Any) -> tuple[int, str]:
        operation = self._resource.batch or self._resource.create
        # The key depends on the rows only: a repeated request with the same rows never writes them twice.
        headers = operation.idempotency_header(f"sample-data-{_digest(body)}")
        answer = send_until_answered(
            self._http, operation, operation.path, self._counts, self._stop, json=body, headers=headers
        )
        return rows, "" if answer.status == 201 else f"{operation} {answer.outcome}{_reason(answer.json())}"

    def _present(self) -> set[str]:
        """The digests of the rows of this command that the service has."""
        lists = self._resource.lists
        wanted = {_digest(body) for body in self._bodies()}
        if lists is None or not wanted:
            return set()
        fields = next(iter(self._bodies())).keys()
        found = set()
        params = {"limit": ALL_ROWS} if lists.takes("limit") else {}
        try:
            with self._http.stream("GET", lists.path, params=params, headers={"Accept": NDJSON}) as response:
                if response.status_code != 200:
                    raise TargetError(f"{lists} returned {response.status_code}, so the existing rows are unknown.")
                for line in response.iter_lines():
                    row = json.loads(line)
                    digest = _digest({name: row.get(name) for name in fields})
                    if digest in wanted:
                        found.add(digest)
        except (httpx.HTTPError, ValueError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TargetError(f"{lists} failed, so the existing rows are unknown: {reason}.") from None
        return found


def _batches(bodies: Iterable[Any]) -> Iterator[list[Any]]:
    bodies = iter(bodies)
    while rows := list(islice(bodies, BATCH)):
        yield rows


def _reason(document: Any) -> str:
    return f": {document['detail']}" if isinstance(document, dict) and "detail" in document else ""


def run(
    target: Target, rows: Mapping[str, int], seed: int, advance: Callable[[str, int], None], writers: dict[str, Writer]
) -> dict[str, Any]:
    """Run the command. The result is JSON.

    :param rows: numbers of rows by the name of the resource.
    :param advance: called with the name of a resource and the number of rows that it now has more.
    :param writers: filled with the writer of each resource, whose counts are valid after Ctrl-C too.
    """
    for name, count in rows.items():
        resource = target.resource(name)
        writers[name] = Writer(target, resource, count, seed)
        try:
            resource.body(Values(target.document.components, "s"), 0)
        except NoValue as error:
            raise TargetError(f"Rows of {name!r} can't be generated: {error}.") from None
    target.require_ready()
    failed: list[str] = []
    for name, writer in writers.items():
        failed += writer.run(lambda number, name=name: advance(name, number))  # type: ignore[misc]
    return {"ok": not failed, "resources": counts_of(writers), "failures": failed[:10]}


def counts_of(writers: Mapping[str, Writer]) -> list[dict[str, Any]]:
    """What has been written, by resource."""
    return [
        {"resource": name, "rows": each.total, "present": each.present, "written": each.written}
        for name, each in writers.items()
    ]
