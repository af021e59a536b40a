"""Finds."""

from __future__ import annotations

from schemas import parameters
from schemas.base import Body, ListQuery, Path
from schemas.fields import Count, Segment, optional


class Find(Body):
    """A find, as the client sends and receives it."""

    genus: Segment
    species: Segment
    sightings: Count = 0


class FindsPath(Path):
    """Path of all finds of a genus."""

    genus: parameters.Segment


class FindsQuery(ListQuery):
    """Query parameters of `GET /find/<genus>`."""

    from_: parameters.Segment | None = optional(alias="from")
    to: parameters.Segment | None = optional()


class FindPath(FindsPath):
    """Path of one find."""

    species: parameters.Segment
