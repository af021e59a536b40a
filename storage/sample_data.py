"""The sample rows of a new field book. Nothing but `db_initialize.py` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

_MAMMAL = ["Animalia", "Chordata", "Mammalia"]
_BIRD = ["Animalia", "Chordata", "Aves"]

# Genus, the ranks above it, and its species with a typical adult length in centimetres (head and body; of
# snakes, salamanders and birds the whole animal).
_ANIMALS: list[tuple[str, list[str], list[tuple[str, float]]]] = [
    ("Vulpes", [*_MAMMAL, "Carnivora", "Canidae"], [("vulpes", 70), ("lagopus", 55), ("zerda", 35), ("corsac", 55)]),
    ("Canis", [*_MAMMAL, "Carnivora", "Canidae"], [("lupus", 130), ("latrans", 85), ("aureus", 80)]),
    ("Lynx", [*_MAMMAL, "Carnivora", "Felidae"], [("lynx", 105), ("pardinus", 95), ("rufus", 80), ("canadensis", 90)]),
    ("Martes", [*_MAMMAL, "Carnivora", "Mustelidae"], [("martes", 50), ("foina", 47), ("zibellina", 45)]),
    ("Lepus", [*_MAMMAL, "Lagomorpha", "Leporidae"], [("europaeus", 60), ("timidus", 53), ("americanus", 43)]),
    ("Parus", [*_BIRD, "Passeriformes", "Paridae"], [("major", 14), ("cinereus", 13), ("minor", 14)]),
    (
        "Corvus",
        [*_BIRD, "Passeriformes", "Corvidae"],
        [("corax", 63), ("corone", 48), ("frugilegus", 46), ("cornix", 48)],
    ),
    ("Strix", [*_BIRD, "Strigiformes", "Strigidae"], [("aluco", 39), ("uralensis", 59), ("nebulosa", 67)]),
    ("Vipera", ["Animalia", "Chordata", "Reptilia", "Squamata", "Viperidae"], [("berus", 65), ("aspis", 70)]),
    (
        "Salamandra",
        ["Animalia", "Chordata", "Amphibia", "Urodela", "Salamandridae"],
        [("salamandra", 20), ("atra", 13)],
    ),
]

_PLANTS: list[tuple[str, str, int]] = [
    ("Quercus", "robur", 41),
    ("Quercus", "petraea", 17),
    ("Quercus", "pubescens", 3),
    ("Primula", "veris", 58),
    ("Primula", "elatior", 22),
    ("Gentiana", "acaulis", 9),
    ("Gentiana", "lutea", 4),
]

# Hawkweeds seed without pollination, so that every local form breeds true: more than 10,000 have been named.
# That makes them the genus to stream; the forms here are numbered.
HAWKWEEDS = 12_000

_NAMES = ["Ada", "Bela", "Cleo", "Dara", "Emil", "Fen", "Gita", "Hugo", "Ines", "Jun"]
_USERS = 50
_NAMESPACE = UUID("8a6e3a56-6c0f-4d2b-9d1e-3f3a5b7f9c10")


def animals() -> Iterator[tuple[Any, ...]]:
    """Rows in the order of `db_io.ANIMAL_COLUMNS`."""
    for genus, ranks, species_of_genus in _ANIMALS:
        for number, (species, size_cm) in enumerate(species_of_genus):
            image = f"https://commons.wikimedia.org/wiki/Category:{genus}_{species}"
            yield (genus, species, image, float(size_cm), (number * 7 + len(species)) % 12, [*ranks, genus])


def plants() -> Iterator[tuple[Any, ...]]:
    """Rows in the order of `db_io.PLANT_COLUMNS`."""
    yield from _PLANTS
    for number in range(1, HAWKWEEDS + 1):
        yield ("Hieracium", f"forma-{number:05}", number % 7)


def users() -> Iterator[tuple[Any, ...]]:
    """Rows in the order of `db_io.User`; the same ids every time."""
    created = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(_USERS):
        name = f"{_NAMES[number % len(_NAMES)]} {chr(65 + number // len(_NAMES))}."
        email = f"observer{number:02}@example.org"
        yield (
            uuid5(_NAMESPACE, f"user {number}"),
            name,
            email,
            18 + number * 37 % 63,
            created,
            created,
            uuid5(_NAMESPACE, f"version {number}"),
        )
