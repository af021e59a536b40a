"""Plants: one partition a genus, one row a species, and no limit to their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cassandra.cluster import Session

from storage.cql.execution import QueryOptions, Row, Stream
from storage.cql.statements import Statement, run, stream

PLANT_COLUMNS = ("genus", "species", "sightings")

INSERT_PLANT = Statement(
    "insert_plant", "INSERT INTO {keyspace}.plants (genus, species, sightings) VALUES (?, ?, ?)", "write"
)
SELECT_PLANT = Statement(
    "select_plant", "SELECT genus, species, sightings FROM {keyspace}.plants WHERE genus = ? AND species = ?"
)
SELECT_PLANTS_BY_GENUS = Statement(
    "select_plants_by_genus", "SELECT genus, species, sightings FROM {keyspace}.plants WHERE genus = ?"
)
DELETE_PLANT = Statement("delete_plant", "DELETE FROM {keyspace}.plants WHERE genus = ? AND species = ?", "write")


def store_plant(session: Session, plant: Sequence[Any], options: QueryOptions | None = None) -> None:
    """Inserts or replaces a plant, given in the order of `PLANT_COLUMNS`."""
    run(session, INSERT_PLANT, plant, options or QueryOptions())


def retrieve_plant(session: Session, genus: str, species: str, options: QueryOptions | None = None) -> Row | None:
    """The plant, in the order of `PLANT_COLUMNS`, or None."""
    return next(iter(run(session, SELECT_PLANT, (genus, species), options or QueryOptions()).rows), None)


def retrieve_plants_by_genus(session: Session, genus: str, options: QueryOptions | None = None) -> Stream:
    """Pages of the plants of a genus, by species, in the order of `PLANT_COLUMNS`."""
    return stream(session, SELECT_PLANTS_BY_GENUS, (genus,), options or QueryOptions())


def delete_plant(session: Session, genus: str, species: str, options: QueryOptions | None = None) -> None:
    """Deletes the plant if there is one."""
    run(session, DELETE_PLANT, (genus, species), options or QueryOptions())
