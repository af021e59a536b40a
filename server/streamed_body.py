"""The body of a request that a view reads while it arrives.

Other bodies are collected before a thread gets the request (server/event_loop.py). The application names the routes
whose body is read this way.

| Private name of gunicorn | Used for |
|---|---|
| `http.errors.NoMoreData`, `http.errors.ChunkMissingTerminator` | the client closed the connection within a chunk |
"""

from __future__ import annotations

from typing import Any, Literal

from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData

from server.connection import BodyStopped, body_has_ended, body_problem, note_end_of_body

# The key in `app.extensions` of the paths: a frozenset of strings. Requests to them with POST are read this way.
STREAMED_BODIES = "fieldbook.streamed_bodies"


class BodyAborted(Exception):
    """The body can't be read to its end.

    :ivar problem: the client has sent nothing for the idle timeout (`stalled`), has sent more slowly than the minimum
        transfer rate (`too slow`), has closed the connection (`disconnected`), or has sent malformed chunks
        (`malformed`). Or the body is `too large`, which is possible only if the event loop has collected it.
    """

    def __init__(self, problem: Literal["stalled", "too slow", "disconnected", "malformed", "too large"]) -> None:
        super().__init__(problem)
        self.problem = problem


class StreamedBody:
    """The body of a request to one of the streamed paths. Under another server, that of any request."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        # Set if the event loop has collected the body: the path is written in another way, such as /users/%69mport.
        self._problem = body_problem(environ)
        self._input = environ["wsgi.input"]
        length = environ.get("CONTENT_LENGTH", "")
        # None: the body is chunked. A request without either has no body.
        self._left = None if environ.get("HTTP_TRANSFER_ENCODING") else int(length or 0)

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; none at the end of the body.

        :raises BodyAborted: the rest of the body can't be read.
        """
        if self._problem is not None:
            raise BodyAborted("stalled" if self._problem == "late" else self._problem)
        if self._left is not None:
            size = min(size, self._left)
        try:
            data: bytes = self._input.read(size)
        except BodyStopped as error:
            raise BodyAborted(error.problem) from None
        except Exception as error:
            # A chunk may also lack its end because the client has gone.
            is_cut = isinstance(error, NoMoreData) or (
                isinstance(error, ChunkMissingTerminator) and body_has_ended(self._environ)
            )
            raise BodyAborted("disconnected" if is_cut else "malformed") from error
        if self._left is not None:
            self._left -= len(data)
            if not data and self._left:
                raise BodyAborted("disconnected")
        if self._left == 0 or not data:
            note_end_of_body(self._environ)
        return data
