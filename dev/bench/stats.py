"""Statistics over rounds: median, range, ratios and percentiles."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """Median, minimum and maximum over several rounds."""

    median: float
    minimum: float
    maximum: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of the values. :raises ValueError: there are none."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(above: Mapping[int, float], below: Mapping[int, float]) -> Spread | None:
    """The spread of the ratios of two systems, each ratio taken within one round.

    Load on the machine in a round affects both systems, so it cancels out.

    :param above: values of one system by round number.
    :param below: values of the other system by round number.
    :returns: None when they have no round in common.
    """
    quotients = [above[number] / below[number] for number in sorted(above.keys() & below.keys()) if below[number]]
    return spread(quotients) if quotients else None


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of the values by the nearest-rank method.

    :raises ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
