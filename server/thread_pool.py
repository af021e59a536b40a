"""The threads that handle requests."""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class ThreadPool(Generic[Item]):
    """Threads that handle items, urgent ones first, otherwise in the order in which they were added.

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
            start_new_thread(self._run, ())
        self._tickets.put(None)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            self._tickets.get()
            with self._lock:
                self._idle -= 1
            try:
                item = self._urgent.popleft()
            except IndexError:
                item = self._normal.popleft()
            self._handle(item)
