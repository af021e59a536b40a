"""Numbers of several rounds: the median, and how far they lie apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """The median of some rounds, their least and their greatest value."""

    median: float
    least: float
    greatest: float


def spread(values: Sequence[float]) -> Spread:
    """:raises ValueError: of none."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> Spread | None:
    """Of two contenders' values by round: each ratio within one round, so that what the machine did then drops out.

    :returns: None when they have no round in common.
    """
    found = [above[number] / below[number] for number in sorted(above.keys() & below.keys()) if below[number]]
    return spread(found) if found else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is not below so many percent of the values (nearest rank).

    :raises ValueError: of none.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
