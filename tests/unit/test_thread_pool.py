"""The threads of a worker: order, number, and what happens if no thread can start."""

from __future__ import annotations

import _thread
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server import thread_pool
from server.thread_pool import ThreadPool
from tests.support import wait_for

LIMIT = 10.0


def wait_until_busy(pool: ThreadPool[str], handled: list[str], count: int) -> None:
    wait_for(lambda: len(handled) == count and pool.queued == 0, description=f"{count} handled items")


def test_urgent_items_overtake_others_but_do_not_keep_them_out() -> None:
    """While both wait, every second item is urgent; each kind is handled in the order in which it was added."""
    handled: list[str] = []
    may_continue = threading.Event()

    def handle(item: str) -> None:
        handled.append(item)
        may_continue.wait(LIMIT)

    pool = ThreadPool(1, handle)
    pool.add("first")
    wait_until_busy(pool, handled, 1)
    for number in range(3):
        pool.add(f"normal {number}")
    for number in range(4):
        pool.add(f"urgent {number}", urgent=True)
    may_continue.set()
    wait_until_busy(pool, handled, 8)
    assert handled[1:] == [
        "urgent 0", "normal 0", "urgent 1", "normal 1", "urgent 2", "normal 2", "urgent 3",
    ]  # fmt: skip


def recording_pool() -> tuple[ThreadPool[str], list[str], set[int]]:
    """A pool of up to eight threads, the items that they have handled, and the identifiers of the threads."""
    threads: set[int] = set()
    handled: list[str] = []

    def handle(item: str) -> None:
        threads.add(threading.get_ident())
        handled.append(item)

    return ThreadPool(8, handle), handled, threads


def test_one_thread_handles_items_that_come_one_after_the_other() -> None:
    """Threads start only when all others are busy."""
    pool, handled, threads = recording_pool()
    for number in range(10):
        pool.add(str(number))
        wait_until_busy(pool, handled, number + 1)
        # The thread waits for the next item only a moment later.
        wait_for(lambda: pool._idle > 0, description="an idle thread")
    assert len(threads) == 1


def test_every_item_is_handled_once_by_a_bounded_number_of_threads() -> None:
    """Four threads add 20,000 items at once."""
    pool, handled, threads = recording_pool()

    def add(part: int) -> None:
        for number in range(5000):
            pool.add(f"{part} {number}", urgent=number % 3 == 0)

    with ThreadPoolExecutor(4) as adders:
        list(adders.map(add, range(4)))
    wait_until_busy(pool, handled, 20_000)
    assert set(handled) == {f"{part} {number}" for part in range(4) for number in range(5000)}
    assert len(threads) <= 8


def test_thread_that_can_not_start_loses_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that exist take the item, and a later call starts the missing thread."""
    start = _thread.start_new_thread
    handled: list[str] = []
    both_busy = threading.Barrier(2, timeout=LIMIT)

    def handle(item: str) -> None:
        if item == "both":
            both_busy.wait()
        handled.append(item)

    def fail(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    pool = ThreadPool(2, handle)
    monkeypatch.setattr(thread_pool, "start_new_thread", fail)
    pool.add("without any thread")
    assert pool.queued == 1
    monkeypatch.setattr(thread_pool, "start_new_thread", start)
    pool.add("with a thread")
    wait_until_busy(pool, handled, 2)
    monkeypatch.setattr(thread_pool, "start_new_thread", fail)
    for number in range(20):
        pool.add(str(number))
    wait_until_busy(pool, handled, 22)
    monkeypatch.setattr(thread_pool, "start_new_thread", start)
    pool.add("both")
    pool.add("both")
    wait_until_busy(pool, handled, 24)
