"""Animals: one partition a genus, one row a species."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cassandra.cluster import Session

from storage.cql.execution import QueryOptions, Row, Stream
from storage.cql.statements import Statement, run, stream

ANIMAL_COLUMNS = ("genus", "species", "image_url", "size_cm", "sightings", "taxonomy")

INSERT_ANIMAL = Statement(
    "insert_animal",
    "INSERT INTO {keyspace}.animals (genus, species, image_url, size_cm, sightings, taxonomy) "
    "VALUES (?, ?, ?, ?, ?, ?)",
    "write",
)
SELECT_ANIMAL = Statement(
    "select_animal",
    "SELECT genus, species, image_url, size_cm, sightings, taxonomy FROM {keyspace}.animals "
    "WHERE genus = ? AND species = ?",
)
SELECT_ANIMALS_BY_GENUS = Statement(
    "select_animals_by_genus",
    "SELECT genus, species, image_url, size_cm, sightings, taxonomy FROM {keyspace}.animals WHERE genus = ?",
)
DELETE_ANIMAL = Statement("delete_animal", "DELETE FROM {keyspace}.animals WHERE genus = ? AND species = ?", "write")


def store_animal(session: Session, animal: Sequence[Any], options: QueryOptions | None = None) -> None:
    """Inserts or replaces an animal, given in the order of `ANIMAL_COLUMNS`."""
    run(session, INSERT_ANIMAL, animal, options or QueryOptions())


def retrieve_animal(session: Session, genus: str, species: str, options: QueryOptions | None = None) -> Row | None:
    """The animal, in the order of `ANIMAL_COLUMNS`, or None."""
    return next(iter(run(session, SELECT_ANIMAL, (genus, species), options or QueryOptions()).rows), None)


def retrieve_animals_by_genus(session: Session, genus: str, options: QueryOptions | None = None) -> Stream:
    """Pages of the animals of a genus, by species, in the order of `ANIMAL_COLUMNS`."""
    return stream(session, SELECT_ANIMALS_BY_GENUS, (genus,), options or QueryOptions())


def delete_animal(session: Session, genus: str, species: str, options: QueryOptions | None = None) -> None:
    """Deletes the animal if there is one."""
    run(session, DELETE_ANIMAL, (genus, species), options or QueryOptions())
