"""Animals: one partition per genus, one row per species."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, Stream, Table, execute, stream
from storage.errors import RowNotFound


class Animal(NamedTuple):
    """A row of `animals`."""

    genus: Annotated[str, "text"]
    species: Annotated[str, "text"]
    image_url: Annotated[str | None, "text"]
    size_cm: Annotated[float | None, "double"]
    sightings: Annotated[int, "int"]
    taxonomy: Annotated[list[str], "frozen<list<text>>"]


INSERT_ANIMAL = Statement(
    "insert_animal",
    "INSERT INTO {keyspace}.animals ({columns}) VALUES ({values})",
    Animal._fields,
    kind="write",
)
SELECT_ANIMAL = Statement(
    "select_animal",
    "SELECT {columns} FROM {keyspace}.animals WHERE genus = ? AND species = ?",
    Animal._fields,
)
SELECT_ANIMALS_BY_GENUS = Statement(
    "select_animals_by_genus",
    "SELECT {columns} FROM {keyspace}.animals WHERE genus = ?",
    Animal._fields,
    json_rows=True,
)
DELETE_ANIMAL = Statement(
    "delete_animal",
    "DELETE FROM {keyspace}.animals WHERE genus = ? AND species = ?",
    kind="write",
)

TABLE = Table("animals", Animal, insert=INSERT_ANIMAL, partition_key=("genus",), clustering_key={"species": "asc"})


def store_animal(session: Session, animal: Animal, options: QueryOptions) -> None:
    """Insert or replace an animal."""
    execute(session, INSERT_ANIMAL, animal, options)


def retrieve_animal(session: Session, genus: str, species: str, options: QueryOptions) -> Animal:
    """Read one animal.

    :raises RowNotFound: the animal does not exist.
    """
    rows = execute(session, SELECT_ANIMAL, (genus, species), options).rows
    if not rows:
        raise RowNotFound("Animal not found")
    return Animal._make(rows[0])


def retrieve_animals_by_genus(session: Session, genus: str, options: QueryOptions) -> Stream:
    """Stream all animals of a genus by species, as JSON."""
    return stream(session, SELECT_ANIMALS_BY_GENUS, (genus,), options)


def delete_animal(session: Session, genus: str, species: str, options: QueryOptions) -> None:
    """Delete an animal, if it exists."""
    execute(session, DELETE_ANIMAL, (genus, species), options)
