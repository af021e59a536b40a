"""Plants."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Body, Path
from schemas.fields import Count, Segment


class Plant(Body):
    """A plant, as the client sends and receives it."""

    genus: Segment
    species: Segment
    sightings: Count = 0


class PlantGenusPath(Path):
    """Path of all plants of a genus."""

    genus: str = Field(description="First part of the Latin name, for example `Quercus`.")


class PlantPath(PlantGenusPath):
    """Path of one plant."""

    species: str = Field(description="Second part of the Latin name, for example `robur`.")
