"""The benchmark's own arithmetic: what it takes for equal, and how it makes medians and ratios."""

from __future__ import annotations

import pytest

from dev.bench.equality import normalize
from dev.bench.load import Response
from dev.bench.stats import Spread, percentile, ratios, spread


def test_timestamps_are_compared_as_instants() -> None:
    """However a moment is written it is the same one, and another is another."""
    same = ["2026-11-21T11:42:17.293Z", "2026-11-21T11:42:17.293000", "2026-11-21T13:42:17.293+02:00"]
    assert len({normalize(text) for text in same}) == 1
    assert normalize({"at": [same[0]]}) == normalize({"at": [same[2]]})
    assert normalize(same[0]) != normalize("2026-11-21T11:42:17.294Z")
    assert normalize("observer 2026") == "observer 2026"


def test_ratios_are_made_within_rounds() -> None:
    """A round in which the machine was slow for both does not move them; one that only one has does not count."""
    assert ratios({1: 10, 2: 100, 3: 30, 4: 7}, {1: 5, 2: 50, 3: 10}) == Spread(2, 2, 3)
    assert ratios({1: 10}, {2: 5}) is None


def test_median_spread_and_percentiles() -> None:
    assert spread([3, 1, 2]) == Spread(2, 1, 3)
    assert percentile(range(1, 101), 50) == 50
    assert percentile(range(1, 101), 99) == 99
    assert percentile([7], 99) == 7


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
@pytest.mark.parametrize(
    "body",
    [
        b'Content-Length: 23\r\n\r\n[{"id":"a"},{"id":"b"}]',
        b'Transfer-Encoding: chunked\r\n\r\nf\r\n[{"id":"a"},{"i\r\n8\r\nd":"b"}]\r\n0\r\n\r\n',
    ],
    ids=["length", "chunked"],
)
def test_the_load_generator_reads_answers_however_they_are_cut(body: bytes, step: int) -> None:
    """Whole at the last byte and not before, with all rows counted."""
    wire = b"HTTP/1.1 200 OK\r\n" + body
    answer = Response(count_rows=True)
    ends = [answer.feed(wire[at : at + step]) for at in range(0, len(wire), step)]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert (answer.status, answer.rows) == (200, 2)
