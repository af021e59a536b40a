"""The threads that handle requests."""

from __future__ import annotations

import sys
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ThreadPool(Generic[Item]):
    """Threads that handle items in the order in which they were added, but urgent ones before the others.

    While both wait, every second item is urgent, so that neither can keep the other out.

    Threads start when they are needed, and never end. The process does not wait for them when it ends.
    """

    def __init__(self, size: int, handle: Callable[[Item], None]) -> None:
        """Create the pool without threads.

        :param size: maximum number of threads.
        :param handle: called in a thread with each item; must not raise.
        """
        self._size = size
        self._handle = handle
        self._urgent: deque[Item] = deque()
        self._normal: deque[Item] = deque()
        # One entry for each item in the two deques; threads wait for it.
        self._tickets: SimpleQueue[None] = SimpleQueue()
        self._last_was_urgent = False
        self._lock = threading.Lock()
        self._idle = 0
        self._started = 0

    @property
    def queued(self) -> int:
        """Number of items that wait for a thread."""
        return len(self._urgent) + len(self._normal)

    def add(self, item: Item, *, urgent: bool = False) -> None:
        """Hand an item to the next free thread."""
        (self._urgent if urgent else self._normal).append(item)
        with self._lock:
            is_thread_needed = self._started < self._size and self._idle < self.queued
            if is_thread_needed:
                self._started += 1
        if is_thread_needed:
            # Not Thread.start(), which waits until the new thread runs: among many busy threads, 5 ms or more.
            try:
                start_new_thread(self._run, ())
            except RuntimeError:
                # No resources for a thread. The other threads take the item; the next call tries again.
                with self._lock:
                    self._started -= 1
        self._tickets.put(None)

    def _run(self) -> None:
        # As threading.Thread does, for debuggers and for the measurement of line coverage.
        sys.settrace(threading.gettrace())
        while True:
            self._handle_next()

    def _handle_next(self) -> None:
        with self._lock:
            self._idle += 1
        self._tickets.get()
        with self._lock:
            self._idle -= 1
            item = self._next()
        self._handle(item)

    def _next(self) -> Item:
        is_urgent = bool(self._urgent) and not (self._normal and self._last_was_urgent)
        self._last_was_urgent = is_urgent
        return (self._urgent if is_urgent else self._normal).popleft()
