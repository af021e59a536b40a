"""What was asked of the service, what it answered, and what may be in the tables after that.

A row has one writer, so its possible states are known exactly: one after an acknowledged write, more after a write
whose outcome is unknown. Only a later acknowledged write narrows them again. A read does not: a write whose answer was
lost may still be on its way, in the buffer of a node that is paused, say, and be applied after the read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Any


class Outcome(Enum):
    """What a client knows of a request after its answer, or after none."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


@dataclass(slots=True)
class Operation:
    """One HTTP request. Times are of `time.monotonic()`.

    :ivar writes: it was meant to change a row.
    :ivar error: the transport's, where no answer came.
    :ivar sent: False where no connection was made, so that the service cannot know of it.
    """

    kind: str
    request_id: str
    writes: bool
    started: float
    ended: float = 0.0
    status: int | None = None
    error: str | None = None
    sent: bool = True

    @property
    def outcome(self) -> Outcome:
        """A 5xx says nothing of a write, a 503 neither: it may come from the service's second attempt."""
        if not self.sent:
            return Outcome.NOT_SENT
        if self.status is None or self.status >= 500 or self.status in (409, 429):
            return Outcome.UNKNOWN
        return Outcome.ACKNOWLEDGED if self.status < 400 else Outcome.REFUSED

    @property
    def failed(self) -> bool:
        """The service, or the way to it, did not do its work."""
        return self.status is None or self.status >= 500

    def __str__(self) -> str:
        answer = self.status if self.status is not None else self.error
        return f"{self.kind} {self.request_id} at {wall_clock(self.started)} -> {answer}"


def wall_clock(moment: float) -> str:
    """A time of `time.monotonic()` as one that the logs have."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + moment, UTC).strftime("%H:%M:%S.%f")[:-3]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be.

    :ivar kind: `lost`, `duplicate`, `unexplained` (a value or a row that nobody wrote) or `answer` (one that
        contradicts what was acknowledged before).
    :ivar subject: the row, so that it is told once.
    """

    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Fields:
    """What a user holds. `etag` is None where the answer that would have told it was lost."""

    name: str
    email: str
    age: int
    etag: str | None = None

    def changed(self, changes: Mapping[str, Any], etag: str | None = None) -> Fields:
        return replace(self, **changes, etag=etag)

    def matches(self, row: Fields) -> bool:
        """Whether a row that was read may be this one."""
        same = (self.name, self.email, self.age) == (row.name, row.email, row.age)
        return same and (self.etag is None or row.etag is None or self.etag == row.etag)


@dataclass
class UserRow:
    """A user whose id is known, and every state it may be in; None among them is no row.

    :ivar may_vanish: a `DELETE` without a condition got no answer: it may be applied at any time from then on.
    :ivar email: under which it was created.
    :ivar outdated: ETags that acknowledged writes have replaced.
    :ivar unknown: writes without an answer since the last acknowledged one.
    :ivar last: the acknowledged write that the states come from.
    """

    id: str
    email: str
    created_at: datetime
    states: set[Fields | None]
    last: Operation
    may_vanish: bool = False
    outdated: list[str] = field(default_factory=list)
    unknown: list[Operation] = field(default_factory=list)

    def etag(self) -> str | None:
        """That of the row as last acknowledged or seen, if there is one."""
        known = [state.etag for state in self.states if state is not None and state.etag is not None]
        return known[-1] if known else None

    def allows(self, row: Fields | None) -> bool:
        """Whether a read may find this."""
        if row is None:
            return None in self.states
        return any(state is not None and state.matches(row) for state in self.states)

    def saw(self, row: Fields) -> None:
        """Keeps the ETag of a write whose own answer was lost."""
        for state in self.states:
            if state is not None and state.etag is None and state.matches(row):
                self.states.remove(state)
                self.states.add(row)
                return

    def may_change(self, operation: Operation, changes: Mapping[str, Any], if_match: str | None) -> None:
        """A `PUT` or `PATCH` without an answer."""
        self.states |= {state.changed(changes) for state in self._at(if_match)}
        self.unknown.append(operation)

    def may_delete(self, operation: Operation, if_match: str | None) -> None:
        """A `DELETE` without an answer."""
        if if_match is None:
            self.may_vanish = True
            self.states.add(None)
        elif self._at(if_match):
            self.states.add(None)
        self.unknown.append(operation)

    def change(self, operation: Operation, changes: Mapping[str, Any], if_match: str | None, row: Fields) -> str | None:
        """An acknowledged `PUT` or `PATCH`, which answers with the whole row.

        No earlier one can be applied after it: each is conditional on a version that is gone.

        :returns: what is wrong with it.
        """
        allowed = {state.changed(changes) for state in self._at(if_match)}
        wrong = None if any(state.matches(row) for state in allowed) else f"{row}, from any of {self.states}"
        self.outdated += [state.etag for state in self.states if state is not None and state.etag is not None]
        self._settle(operation, row)
        return wrong

    def delete(self, operation: Operation, if_match: str | None) -> str | None:
        """An acknowledged `DELETE`.

        :returns: what is wrong with it.
        """
        wrong = None if if_match is None or self._at(if_match) else f"deleted at {if_match}, from any of {self.states}"
        self._settle(operation, None)
        return wrong

    def gone(self, operation: Operation) -> str | None:
        """A 404 for a `PUT` or `PATCH`: the service has made sure of it by a read at the serial level.

        :returns: what is wrong with it.
        """
        wrong = None if None in self.states else f"not found, but it is one of {self.states}"
        if wrong is None:
            self._settle(operation, None)
        return wrong

    def conflict(self, if_match: str | None) -> str | None:
        """A 412.

        :returns: what is wrong with it.
        """
        if if_match is not None and any(state is None or state.etag != if_match for state in self.states):
            return None
        return f"412 for the version {if_match}, but it is one of {self.states}"

    def _at(self, if_match: str | None) -> list[Fields]:
        present = [state for state in self.states if state is not None]
        # A state whose ETag is not known is not the one of an ETag that is.
        return [state for state in present if if_match is None or state.etag == if_match]

    def _settle(self, operation: Operation, row: Fields | None) -> None:
        self.states = {row}
        if row is not None and self.may_vanish:
            self.states.add(None)
        self.last = operation
        self.unknown.clear()


@dataclass
class Creation:
    """A user that a client wants once, whatever the number of requests; known by its e-mail address."""

    email: str
    fields: Fields
    key: str | None
    attempts: list[Operation]
    batch: list[Creation] | None = None
    row: UserRow | None = None

    @property
    def may_exist(self) -> bool:
        """Whether any of its requests may have been carried out."""
        return any(attempt.outcome in (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN) for attempt in self.attempts)


@dataclass
class AnimalRow:
    """An animal: a plain write, and of those of one writer the last one holds. None is no row."""

    states: list[dict[str, Any] | None]
    last: Operation | None = None

    def write(self, operation: Operation, document: dict[str, Any]) -> None:
        """A write with whatever outcome."""
        if operation.outcome is Outcome.ACKNOWLEDGED:
            self.states, self.last = [document], operation
        elif operation.outcome is Outcome.UNKNOWN:
            self.states.append(document)


class History:
    """All of one keyspace: operations, rows, findings. A row belongs to one client; the lists are shared."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.creations: dict[str, Creation] = {}
        self.animals: dict[tuple[str, str], AnimalRow] = {}
        self.touched: set[str] = set()
        self._findings: dict[tuple[str, str], Finding] = {}
        self._lock = threading.Lock()

    def report(self, finding: Finding) -> None:
        """Keeps it, once for a row and kind."""
        with self._lock:
            self._findings.setdefault((finding.kind, finding.subject), finding)

    def findings(self) -> list[Finding]:
        """All so far."""
        with self._lock:
            return list(self._findings.values())

    def add(self, creations: Iterable[Creation]) -> None:
        """Before the first request for them is sent."""
        with self._lock:
            for creation in creations:
                self.creations[creation.email] = creation
