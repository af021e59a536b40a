"""Sample animals."""

from __future__ import annotations

from collections.abc import Iterator

from storage.db_io.animals import INSERT_ANIMAL, Animal

INSERT = INSERT_ANIMAL

_MAMMAL = ["Animalia", "Chordata", "Mammalia"]
_BIRD = ["Animalia", "Chordata", "Aves"]

# Genus, the ranks above it, and its species, each with a typical adult length in centimeters (head and body; for
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


def rows() -> Iterator[Animal]:
    """The rows, in any order."""
    for genus, ranks, species_of_genus in _ANIMALS:
        for number, (species, size_cm) in enumerate(species_of_genus):
            image = f"https://commons.wikimedia.org/wiki/Category:{genus}_{species}"
            yield Animal(genus, species, image, float(size_cm), (number * 7 + len(species)) % 12, [*ranks, genus])
