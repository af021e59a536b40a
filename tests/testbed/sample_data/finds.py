"""Sample finds: a few oaks and primroses, and a genus of several pages."""

from __future__ import annotations

from collections.abc import Iterator

from tests.testbed.db_io.finds import INSERT_FIND, Find

INSERT = INSERT_FIND

HAWKWEEDS = 3000


def rows() -> Iterator[Find]:
    """The rows, in any order."""
    yield Find("Quercus", "robur", 41)
    yield Find("Quercus", "petraea", 17)
    yield Find("Primula", "veris", 58)
    for number in range(HAWKWEEDS):
        yield Find("Hieracium", f"forma-{number:04}", number % 7)
