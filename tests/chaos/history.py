"""History of a run: the requests, their responses, and the states that each row may be in.

Each row has one writer, so its possible states are known exactly. An acknowledged write leaves one state. A write with
an unknown outcome adds a state. Only a later acknowledged write reduces the set again. A read does not: a write whose
response was lost may still wait in the buffer of a paused node, and may be applied after the read.
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
    """What a client knows about its request."""

    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_SENT = "not sent"


@dataclass(slots=True)
class Operation:
    """One HTTP request. Times are values of `time.monotonic()`.

    :ivar writes: the request asks for a change of a row.
    :ivar error: the transport error, if there was no response.
    :ivar sent: False if no connection was made, so that the request cannot have reached the service.
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
        """The outcome. Every 5xx is unknown.

        This includes 503: the service may have tried the write twice, and 503 may be the result of the second attempt.
        """
        if not self.sent:
            return Outcome.NOT_SENT
        if self.status is None or self.status >= 500 or self.status in (409, 429):
            return Outcome.UNKNOWN
        return Outcome.ACKNOWLEDGED if self.status < 400 else Outcome.REFUSED

    @property
    def failed(self) -> bool:
        """Whether the request got a 5xx or no response."""
        return self.status is None or self.status >= 500

    def __str__(self) -> str:
        response = self.status if self.status is not None else self.error
        return f"{self.kind} {self.request_id} at {wall_clock(self.started)} -> {response}"


def wall_clock(moment: float) -> str:
    """Convert a value of `time.monotonic()` to the UTC time of day, as the logs show it."""
    return datetime.fromtimestamp(time.time() - time.monotonic() + moment, UTC).strftime("%H:%M:%S.%f")[:-3]


@dataclass(frozen=True, slots=True)
class Finding:
    """A violation that the consistency check found.

    :ivar kind: `lost`, `duplicate`, `unexplained` (a value or row that no client wrote) or `contradiction` (a
        response that contradicts an earlier acknowledged write).
    :ivar subject: the row; each pair of kind and row is reported once.
    """

    kind: str
    subject: str
    detail: str


@dataclass(frozen=True, slots=True)
class Fields:
    """The content of an observer. `etag` is None if the response that contained it was lost."""

    name: str
    email: str
    age: int
    etag: str | None = None

    def changed(self, changes: Mapping[str, Any], etag: str | None = None) -> Fields:
        return replace(self, **changes, etag=etag)

    def matches(self, row: Fields) -> bool:
        """Return whether a row that was read can be in this state."""
        same = (self.name, self.email, self.age) == (row.name, row.email, row.age)
        return same and (self.etag is None or row.etag is None or self.etag == row.etag)


@dataclass
class ObserverRow:
    """An observer whose id is known, with every state that it may be in.

    The state None means that there is no row.

    :ivar email: the address that the observer was created with.
    :ivar last_acknowledged: the acknowledged write that `states` is based on.
    :ivar delete_pending: an unconditional `DELETE` has an unknown outcome; it may be applied at any later time.
    :ivar replaced_etags: ETags that acknowledged writes have replaced.
    :ivar unknown_writes: writes with an unknown outcome since `last_acknowledged`.
    """

    id: str
    email: str
    created_at: datetime
    states: set[Fields | None]
    last_acknowledged: Operation
    delete_pending: bool = False
    replaced_etags: list[str] = field(default_factory=list)
    unknown_writes: list[Operation] = field(default_factory=list)

    def etag(self) -> str | None:
        """Return the last ETag that a client received for this row, or None."""
        known = [state.etag for state in self.states if state is not None and state.etag is not None]
        return known[-1] if known else None

    def allows(self, row: Fields | None) -> bool:
        """Return whether a read may return this row; None stands for 404."""
        if row is None:
            return None in self.states
        return any(state is not None and state.matches(row) for state in self.states)

    def record_read(self, row: Fields) -> None:
        """Keep the ETag that a read returned, if the response of the write itself was lost."""
        for state in self.states:
            if state is not None and state.etag is None and state.matches(row):
                self.states.remove(state)
                self.states.add(row)
                return

    def record_unknown_change(self, operation: Operation, changes: Mapping[str, Any], if_match: str | None) -> None:
        """Record a `PUT` or `PATCH` with an unknown outcome."""
        self.states |= {state.changed(changes) for state in self._states_at(if_match)}
        self.unknown_writes.append(operation)

    def record_unknown_delete(self, operation: Operation, if_match: str | None) -> None:
        """Record a `DELETE` with an unknown outcome."""
        if if_match is None:
            self.delete_pending = True
            self.states.add(None)
        elif self._states_at(if_match):
            self.states.add(None)
        self.unknown_writes.append(operation)

    def record_change(
        self, operation: Operation, changes: Mapping[str, Any], if_match: str | None, row: Fields
    ) -> str | None:
        """Record an acknowledged `PUT` or `PATCH`, whose response contains the whole row.

        No earlier change can be applied after it: each is conditional on a version that no longer exists.

        :returns: the contradiction with the history, or None.
        """
        allowed = {state.changed(changes) for state in self._states_at(if_match)}
        contradiction = None
        if not any(state.matches(row) for state in allowed):
            contradiction = f"the response is {row}, but the row was in one of the states {self.states}"
        self.replaced_etags += [state.etag for state in self.states if state is not None and state.etag is not None]
        self._set_known_state(operation, row)
        return contradiction

    def record_delete(self, operation: Operation, if_match: str | None) -> str | None:
        """Record an acknowledged `DELETE`.

        :returns: the contradiction with the history, or None.
        """
        contradiction = None
        if if_match is not None and not self._states_at(if_match):
            contradiction = f"deleted at version {if_match}, but the row was in one of the states {self.states}"
        self._set_known_state(operation, None)
        return contradiction

    def record_not_found(self, operation: Operation) -> str | None:
        """Record a 404 for a `PUT` or `PATCH`, which the service has confirmed by a read at the serial level.

        :returns: the contradiction with the history, or None.
        """
        if None not in self.states:
            return f"404, but the row must be in one of the states {self.states}"
        self._set_known_state(operation, None)
        return None

    def check_conflict(self, if_match: str | None) -> str | None:
        """Check a 412 against the possible states.

        :returns: the contradiction with the history, or None.
        """
        if if_match is not None and any(state is None or state.etag != if_match for state in self.states):
            return None
        return f"412 for version {if_match}, but the row is in one of the states {self.states}"

    def _states_at(self, if_match: str | None) -> list[Fields]:
        present = [state for state in self.states if state is not None]
        # A state with an unknown ETag cannot match: the client never received that ETag.
        return [state for state in present if if_match is None or state.etag == if_match]

    def _set_known_state(self, operation: Operation, row: Fields | None) -> None:
        self.states = {row}
        if row is not None and self.delete_pending:
            self.states.add(None)
        self.last_acknowledged = operation
        self.unknown_writes.clear()


@dataclass
class Creation:
    """An observer that a client wants to create once, with any number of requests.

    The e-mail address identifies it.
    """

    email: str
    fields: Fields
    key: str | None
    attempts: list[Operation]
    batch: list[Creation] | None = None
    row: ObserverRow | None = None

    @property
    def may_exist(self) -> bool:
        """Whether any of its requests may have been applied."""
        return any(attempt.outcome in (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN) for attempt in self.attempts)


@dataclass
class FindRow:
    """A find. Its writes are not transactions: the last write of its one writer wins.

    The state None means that there is no row.
    """

    states: list[dict[str, Any] | None]
    last_acknowledged: Operation | None = None

    def record_write(self, operation: Operation, document: dict[str, Any]) -> None:
        """Record a write with any outcome."""
        if operation.outcome is Outcome.ACKNOWLEDGED:
            self.states, self.last_acknowledged = [document], operation
        elif operation.outcome is Outcome.UNKNOWN:
            self.states.append(document)


class History:
    """The operations, rows and findings of one keyspace.

    Each row belongs to one client; the lists are shared.

    :ivar written_ids: ids of the observers that were written since the last consistency check.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.creations: dict[str, Creation] = {}
        self.finds: dict[tuple[str, str], FindRow] = {}
        self.written_ids: set[str] = set()
        self._findings: dict[tuple[str, str], Finding] = {}
        self._lock = threading.Lock()

    def report(self, finding: Finding) -> None:
        """Keep the first finding of each kind for each row."""
        with self._lock:
            self._findings.setdefault((finding.kind, finding.subject), finding)

    def findings(self) -> list[Finding]:
        """Return all findings so far."""
        with self._lock:
            return list(self._findings.values())

    def add(self, creations: Iterable[Creation]) -> None:
        """Add observers, before the first request that creates them is sent."""
        with self._lock:
            for creation in creations:
                self.creations[creation.email] = creation
