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
    """Return the spread of the values. :raises ValueError: there are no values."""
    if not values:
        raise ValueError("no values")
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Mapping[int, float], denominators: Mapping[int, float]) -> Spread | None:
    """Return the spread of the ratios of two systems, each ratio taken within one round.

    Other load on the machine during a round affects both systems, so it hardly changes the ratio.

    :param numerators: values of one system by round number.
    :param denominators: values of the other system by round number.
    :returns: None if no round has values of both systems.
    """
    rounds = sorted(numerators.keys() & denominators.keys())
    quotients = [numerators[number] / denominators[number] for number in rounds if denominators[number]]
    return spread(quotients) if quotients else None


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the percentile of the values by the nearest-rank method.

    :raises ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
