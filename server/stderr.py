"""Standard error of gunicorn's processes: a bounded queue, and a thread that writes it.

A write to a full pipe blocks. If the reader of the log stopped, every thread that logs would hang: requests, the
liveness probe, and the master at SIGTERM. Therefore a thread of each process writes, and all others only append to a
queue. While the queue is full, lines are dropped and counted.

This replaces `sys.stderr`, not a log handler, because gunicorn and Python write to `sys.stderr` too: for example
warnings, tracebacks of threads, and the reason why a worker can't start.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

log = logging.getLogger("fieldbook.stderr")

# Characters; about 10,000 lines. A process holds at most twice as many: the queue, and what its thread is writing.
_MAX_QUEUED = 1 << 20
# Seconds that text waits in the queue, so that one write takes many lines.
_DELAY = 0.02
# Seconds that the end of a process waits for the reader.
_EXIT_TIMEOUT = 2.0


class QueuedStderr(io.TextIOBase):
    """A text stream whose `write` never blocks. After a fork, the child has its own queue and thread."""

    def __init__(self, stream: TextIO) -> None:
        """Start with an empty queue.

        :param stream: the stream to replace. Only its file descriptor is used until the process ends.
        """
        self._stream = stream
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self._finish)

    def _reset(self) -> None:
        # Its lock is reentrant: a signal handler or a finalizer may write while its thread is in write().
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._queue: list[str] = []
        self._queued_characters = 0
        self._is_idle = True
        self._is_ending = False
        # Lines that were dropped since the last message about it, and since the last call of take_dropped().
        self._unreported = self._uncounted = 0

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Append the text to the queue, or drop it if the queue is full."""
        with self._changed:
            # The thread itself only writes the message about dropped lines.
            if self._queued_characters + len(text) > _MAX_QUEUED and threading.current_thread() is not self._thread:
                self._count_dropped(text)
                return len(text)
            self._queue.append(text)
            self._queued_characters += len(text)
            if self._thread is None:
                self._start_thread()
            elif self._is_idle:
                self._is_idle = False
                self._changed.notify_all()
        return len(text)

    def take_dropped(self) -> int:
        """Number of lines that this process has dropped since the last call."""
        with self._changed:
            dropped, self._uncounted = self._uncounted, 0
        return dropped

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No resources for a thread. The next write tries again.
            return
        self._thread, self._is_idle = thread, False

    def _count_dropped(self, text: str) -> None:
        lines = text.count("\n")
        self._unreported += lines
        self._uncounted += lines

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_idle = not self._queue
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue)
                self._is_idle = False
                self._changed.wait_for(lambda: self._is_ending, _DELAY)
                text, self._queue, self._queued_characters = "".join(self._queue), [], 0
            self._write_lines(text)

    def _write_lines(self, text: str) -> None:
        try:
            for chunk in _chunks(text.encode(self.encoding, "backslashreplace")):
                self._write_chunk(chunk)
        except OSError:
            # For example, the reader has ended. There may be another one later, if stderr is a named pipe.
            with self._changed:
                self._count_dropped(text)
            return
        with self._changed:
            dropped, self._unreported = self._unreported, 0
        if dropped:
            log.error("%d log lines were dropped: the reader of stderr is too slow", dropped)

    def _write_chunk(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.fileno(), data) :]
            except BlockingIOError:
                # Another process that shares the descriptor has made it non-blocking.
                poll = select.poll()
                poll.register(self.fileno(), select.POLLOUT)
                poll.poll()

    def _finish(self) -> None:
        """Wait until the queue is written, but only for a short time; then restore `sys.stderr`."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
            is_written = self._changed.wait_for(lambda: self._is_idle and not self._queue, _EXIT_TIMEOUT)
        # Python stops the thread now, wherever it is, also if it holds the lock. Without a reader, nothing may write.
        sys.stderr = self._stream if is_written else None


def _chunks(data: bytes) -> Iterator[bytes]:
    """Split lines into writes that the kernel keeps together, although several processes write to the same pipe.

    Only a line longer than PIPE_BUF (4,096 bytes) can be interrupted by lines of other processes.
    """
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + select.PIPE_BUF) + 1
        end = end or data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def install() -> None:
    """Replace `sys.stderr` of this process and of its forks. Later calls do nothing."""
    # It is None if the process was started without a standard error.
    if sys.stderr is not None and not isinstance(sys.stderr, QueuedStderr):
        sys.stderr = QueuedStderr(sys.stderr)


def take_dropped() -> int:
    """Number of lines that this process has dropped since the last call."""
    return sys.stderr.take_dropped() if isinstance(sys.stderr, QueuedStderr) else 0
