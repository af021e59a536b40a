"""Animals."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schemas.base import Body, Path
from schemas.fields import Count, Name, Segment, Url


class Animal(Body):
    """An animal, as the client sends and receives it."""

    genus: Segment
    species: Segment
    image_url: Url | None = None
    size_cm: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sightings: Count = 0
    taxonomy: Annotated[list[Name], Field(max_length=100)] = []


class AnimalGenusPath(Path):
    """Path of all animals of a genus."""

    genus: str = Field(description="First part of the Latin name, for example `Vulpes`.")


class AnimalPath(AnimalGenusPath):
    """Path of one animal."""

    species: str = Field(description="Second part of the Latin name, for example `zerda`.")
