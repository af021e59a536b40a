"""The lines of a file, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


class LineError(NamedTuple):
    """Why a line has no valid row.

    :ivar line: number of the line, from 1.
    :ivar loc: the field; empty for the whole line.
    :ivar msg: the rule.
    """

    line: int
    loc: list[str | int]
    msg: str

    @classmethod
    def too_long(cls, line: int, max_line: int) -> LineError:
        """The error of a line that is longer than a row may be."""
        return cls(line, [], f"A row must have at most {max_line} bytes (MAX_BODY_BYTES)")


class FileError(Exception):
    """The file as a whole can't be read.

    :ivar line: number of the line, from 1.
    :ivar msg: a sentence.
    """

    def __init__(self, line: int, msg: str) -> None:
        super().__init__(f"line {line}: {msg}")
        self.line, self.msg = line, msg


def lines(
    chunks: Iterable[bytes],
    max_line: int,
    ends: Literal[b"\n", b"\r\n"],
    dropped: Callable[[bytes], None] = lambda piece: None,
) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers, from 1. They keep their line ends.

    :param chunks: the bytes of the file.
    :param max_line: bytes of a line.
    :param ends: LF: only LF ends a line. CRLF: LF, CR and CRLF do.
    :param dropped: gets the bytes of lines that are too long, in pieces, before the line is returned.
    :returns: for each line its bytes, or None if it is too long.
    :raises FileError: the file is compressed.
    """
    number, is_skipping, after_cr = 0, False, False
    # The beginning of a line that has not ended. It is split only at its end: a client may send one byte at a time.
    begun = bytearray()
    for chunk in chunks:
        begun += chunk
        if number == 0 and begun.startswith(_GZIP):
            raise FileError(
                1,
                "The file is compressed with gzip. Send it as the body with Content-Encoding: gzip. On the command "
                "line, its name must end with .gz.",
            )
        if after_cr or b"\n" in chunk or (ends == b"\r\n" and b"\r" in chunk):
            parts = _split(bytes(begun), ends)
            # CR may be the first half of CRLF, so it ends no line yet if it is the last byte.
            begun = bytearray() if parts[-1].endswith(b"\n") else bytearray(parts.pop())
            for part in parts:
                number += 1
                is_too_long = is_skipping or len(part) > max_line
                if is_too_long:
                    dropped(part)
                yield number, None if is_too_long else part
                is_skipping = False
            after_cr = ends == b"\r\n" and begun.endswith(b"\r")
        if len(begun) > max_line:
            is_skipping = True
            kept = 1 if after_cr else 0
            dropped(bytes(begun[: len(begun) - kept]))
            del begun[: len(begun) - kept]
    if is_skipping:
        dropped(bytes(begun))
        yield number + 1, None
    elif begun:
        yield number + 1, bytes(begun)


def _split(data: bytes, ends: Literal[b"\n", b"\r\n"]) -> list[bytes]:
    if ends == b"\r\n":
        return data.splitlines(keepends=True)
    *whole, rest = data.split(b"\n")
    return [part + b"\n" for part in whole] + ([rest] if rest else [])
