"""The lines of a file, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

BOM = b"\xef\xbb\xbf"


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


def lines(chunks: Iterable[bytes], max_line: int, ends: Literal[b"\n", b"\r\n"]) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a file with their numbers, from 1. They keep their line ends.

    :param chunks: the bytes of the file.
    :param max_line: bytes of a line.
    :param ends: the bytes that end a line, alone or as CRLF.
    :returns: for each line its bytes, or None if it is too long.
    """
    number, is_skipping = 0, False
    # The beginning of a line that has not ended. It is joined only at its end: a client may send one byte at a time.
    begun: list[bytes] = []
    size = 0
    for chunk in chunks:
        begun.append(chunk)
        size += len(chunk)
        if b"\n" in chunk or b"\r" in chunk or (len(begun) > 1 and begun[-2].endswith(b"\r")):
            parts = _split(b"".join(begun), ends)
            # CR may be the first half of CRLF, so it ends no line yet if it is the last byte.
            rest = b"" if parts[-1].endswith(b"\n") else parts.pop()
            for part in parts:
                number += 1
                yield number, None if is_skipping or len(part) > max_line else part
                is_skipping = False
            begun, size = [rest], len(rest)
        if size > max_line:
            # Dropped, except for its last byte, which may be CR.
            begun, size, is_skipping = [begun[-1][-1:]], 1, True
    if size or is_skipping:
        yield number + 1, None if is_skipping else b"".join(begun)


def _split(data: bytes, ends: Literal[b"\n", b"\r\n"]) -> list[bytes]:
    if ends == b"\r\n":
        return data.splitlines(keepends=True)
    *whole, rest = data.split(b"\n")
    return [part + b"\n" for part in whole] + ([rest] if rest else [])
