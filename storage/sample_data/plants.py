"""Sample plants: a few common ones, and a large genus to stream."""

from __future__ import annotations

from collections.abc import Iterator

from storage.db_io.plants import INSERT_PLANT, Plant

INSERT = INSERT_PLANT

_PLANTS = [
    Plant("Quercus", "robur", 41),
    Plant("Quercus", "petraea", 17),
    Plant("Quercus", "pubescens", 3),
    Plant("Primula", "veris", 58),
    Plant("Primula", "elatior", 22),
    Plant("Gentiana", "acaulis", 9),
    Plant("Gentiana", "lutea", 4),
]

# Hawkweeds (Hieracium) seed without pollination, so each local form is a species of its own: more than 10,000 have
# names. That makes them a realistic genus to stream. The forms here are numbered.
HAWKWEEDS = 12_000


def rows() -> Iterator[Plant]:
    """The rows, in any order."""
    yield from _PLANTS
    for number in range(1, HAWKWEEDS + 1):
        yield Plant("Hieracium", f"forma-{number:05}", number % 7)
