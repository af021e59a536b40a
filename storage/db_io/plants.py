"""Plants: one partition per genus, one row per species."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from cassandra.cluster import Session

from storage.cql import QueryOptions, Statement, Stream, Table, execute, stream
from storage.errors import RowNotFound


class Plant(NamedTuple):
    """A row of `plants`."""

    genus: Annotated[str, "text"]
    species: Annotated[str, "text"]
    sightings: Annotated[int, "int"]


INSERT_PLANT = Statement(
    "insert_plant",
    "INSERT INTO {keyspace}.plants ({columns}) VALUES ({values})",
    Plant._fields,
    kind="write",
)
SELECT_PLANT = Statement(
    "select_plant",
    "SELECT {columns} FROM {keyspace}.plants WHERE genus = ? AND species = ?",
    Plant._fields,
)
SELECT_PLANTS_BY_GENUS = Statement(
    "select_plants_by_genus",
    "SELECT {columns} FROM {keyspace}.plants WHERE genus = ?",
    Plant._fields,
    json_rows=True,
)
DELETE_PLANT = Statement(
    "delete_plant",
    "DELETE FROM {keyspace}.plants WHERE genus = ? AND species = ?",
    kind="write",
)

TABLE = Table("plants", Plant, insert=INSERT_PLANT, partition_key=("genus",), clustering_key={"species": "asc"})


def store_plant(session: Session, plant: Plant, options: QueryOptions) -> None:
    """Insert or replace a plant."""
    execute(session, INSERT_PLANT, plant, options)


def retrieve_plant(session: Session, genus: str, species: str, options: QueryOptions) -> Plant:
    """Read one plant.

    :raises RowNotFound: the plant does not exist.
    """
    rows = execute(session, SELECT_PLANT, (genus, species), options).rows
    if not rows:
        raise RowNotFound("Plant not found")
    return Plant._make(rows[0])


def retrieve_plants_by_genus(session: Session, genus: str, options: QueryOptions) -> Stream:
    """Stream all plants of a genus by species, as JSON."""
    return stream(session, SELECT_PLANTS_BY_GENUS, (genus,), options)


def delete_plant(session: Session, genus: str, species: str, options: QueryOptions) -> None:
    """Delete a plant, if it exists."""
    execute(session, DELETE_PLANT, (genus, species), options)
