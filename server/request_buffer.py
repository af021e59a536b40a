"""The bytes of a request as they arrive.

The event loop hands a request to a thread when the whole request has arrived, so a slow client occupies no thread. This
module finds the end of the request. gunicorn's parser then parses the request, and rejects an invalid one.
"""

from __future__ import annotations

import re

# Bytes. Request line and headers together; gunicorn's limits for one line and for the number of headers apply too.
MAX_HEAD = 64 * 1024
# Bytes. The sizes and extensions of all chunks, and the trailers.
_MAX_FRAMING = 64 * 1024
# Bytes. The size and the extensions of one chunk.
_MAX_CHUNK_LINE = 4096

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n")
# A body with another coding is not collected, because the request is refused.
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n")
_TIMEOUT = re.compile(rb"\r\nx-request-timeout:[ \t]*([0-9]{1,9}(?:\.[0-9]{1,9})?)[ \t]*\r\n")
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*\r\n")
_CHUNK_SIZE = re.compile(rb"([0-9a-f]{1,16})[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL)


class RequestBuffer:
    """The bytes of the next request on a connection, and of later requests that the client has already sent.

    :ivar data: the bytes.
    :ivar has_head: the request line and all headers have arrived.
    :ivar is_complete: the whole request has arrived.
    :ivar is_streamed: the application reads the body while it arrives, so only the head is collected.
    :ivar is_too_large: the body is larger than the application accepts, by its length or by what has arrived.
    :ivar head_arrived: when the head arrived, by `time.monotonic()`; None if that was just now.
    :ivar expects_continue: the client waits for "100 Continue" before it sends the body.
    :ivar timeout: seconds in the client's `X-Request-Timeout`; None without a valid one. Set if the request has a body.
    """

    def __init__(self, max_body: int, streamed_paths: frozenset[bytes] = frozenset()) -> None:
        """Create an empty buffer.

        :param max_body: bytes. A larger body is not collected, because the application rejects the request.
        :param streamed_paths: the application reads the body of a POST to these paths while it arrives.
        """
        self._max_body = max_body
        self._streamed_targets = tuple(b"POST " + path + end for path in streamed_paths for end in (b" ", b"?"))
        self.data = bytearray()
        self._start_request()

    def _start_request(self) -> None:
        self.has_head = False
        self.is_complete = False
        self.is_streamed = False
        self.is_too_large = False
        self.head_arrived: float | None = None
        self.expects_continue = False
        self.timeout: float | None = None
        # Position from which the end of the head is searched.
        self._searched = 0
        # Position of the end of the request; None if it is chunked.
        self._end: int | None = 0
        # Position of the next line with the size of a chunk.
        self._next_chunk = 0

    def take(self) -> bytes:
        """Remove and return all bytes."""
        data = bytes(self.data)
        self.data.clear()
        self._start_request()
        return data

    def is_ready(self) -> bool:
        """Whether the request can be parsed.

        It is complete, or a thread reads its body, or it is malformed or too large and will be rejected without the
        rest.
        """
        if not self.has_head:
            end = self.data.find(b"\r\n\r\n", self._searched)
            if end < 0:
                self._searched = max(0, len(self.data) - 3)
                return len(self.data) > MAX_HEAD
            self.has_head = True
            if end > MAX_HEAD or not self._read_head(end + 4):
                return True
        if self.is_streamed:
            return True
        if self._end is None:
            return self._has_all_chunks()
        self.is_complete = len(self.data) >= self._end
        return self.is_complete

    def _read_head(self, end: int) -> bool:
        """Find out where the request ends.

        :param end: position of the end of the head.
        :returns: false if the request must be parsed without its body.
        """
        self._end = end
        head = bytes(self.data[: end - 2]).lower()
        is_chunked = b"\r\ntransfer-encoding:" in head
        if not is_chunked and b"\r\ncontent-length:" not in head:
            return True
        if self._is_for_streamed_path():
            self.is_streamed = True
            self.expects_continue = _expects_continue(head)
            return False
        if is_chunked:
            if not _CHUNKED.search(head):
                return False
            self._end, self._next_chunk = None, end
        else:
            length = _LENGTH.search(head)
            if length is None:
                return False
            self.is_too_large = int(length[1]) > self._max_body
            if self.is_too_large:
                return False
            self._end = end + int(length[1])
        timeout = _TIMEOUT.search(head)
        self.timeout = float(timeout[1]) if timeout else None
        self.expects_continue = _expects_continue(head)
        return True

    def _is_for_streamed_path(self) -> bool:
        # A path that is written in another way, for example with %69 for i, is collected as usual.
        return self.data.startswith(self._streamed_targets)

    def _has_all_chunks(self) -> bool:
        """Whether the chunked body is complete, malformed or too large."""
        while True:
            position = self._next_chunk
            if position > len(self.data):
                break
            line_end = self.data.find(b"\r\n", position)
            if (line_end if line_end >= 0 else len(self.data)) - position > _MAX_CHUNK_LINE:
                return True
            if line_end < 0:
                break
            size = _CHUNK_SIZE.fullmatch(self.data, position, line_end)
            if size is None:
                return True
            if int(size[1], 16) == 0:
                # Trailers may follow; an empty line ends them.
                self.is_complete = self.data.find(b"\r\n\r\n", line_end) >= 0
                return self.is_complete or len(self.data) - line_end > _MAX_FRAMING
            self._next_chunk = line_end + 2 + int(size[1], 16) + 2
        self.is_too_large = len(self.data) > self._max_body + MAX_HEAD + _MAX_FRAMING
        return self.is_too_large


def _expects_continue(head: bytes) -> bool:
    return bool(_CONTINUE.search(head)) and b" http/1.0\r\n" not in head
