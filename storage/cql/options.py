"""Options for all queries of one request."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any

from storage.errors import StorageTimeout


@dataclass(slots=True)
class WaitTime:
    """Seconds spent waiting for Cassandra."""

    seconds: float = 0.0


@dataclass(slots=True)
class QueryOptions:
    """Deadline, consistency level and time measurement of one request's queries.

    :ivar deadline: a value of `time.monotonic()`; None if only each query has a limit, as in most streams.
    :ivar timeout: seconds for one query when there is no deadline.
    :ivar consistency_level: a name such as `QUORUM`; None for the session's default. For a lightweight transaction
        it is the commit level.
    :ivar database: time spent on all queries, including those that run with a copy of these options.
    """

    deadline: float | None = None
    timeout: float = 10.0
    consistency_level: str | None = None
    database: WaitTime = field(default_factory=WaitTime)

    def remaining(self) -> float:
        """Seconds that the next query may take.

        :raises StorageTimeout: the deadline has passed.
        """
        if self.deadline is None:
            return self.timeout
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise StorageTimeout("The deadline has passed.")
        return left

    def wait_for(self, future: Future[Any]) -> None:
        """Wait until a future is done, and count the time as spent on queries.

        :raises StorageTimeout: the deadline passed first; the work behind the future continues.
        """
        started = time.monotonic()
        try:
            if not wait([future], timeout=self.remaining()).done:
                raise StorageTimeout("Cassandra did not answer before the deadline.")
        finally:
            self.database.seconds += time.monotonic() - started
