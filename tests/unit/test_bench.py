"""The benchmark: comparison of responses, statistics, load generator, written tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.bench import documents
from dev.bench.compare import pins
from dev.bench.equality import normalize
from dev.bench.load import Response
from dev.bench.report import by_round
from dev.bench.resources import resources_of
from dev.bench.rounds import METRICS, Measurement
from dev.bench.stats import Spread, percentile, ratios, spread
from dev.bench.workloads import SHORT, Requests, all_workloads
from settings import PROJECT


def test_timestamps_are_compared_as_instants() -> None:
    """Different notations of one instant are equal; different instants are not."""
    same = ["2026-11-21T11:42:17.293Z", "2026-11-21T11:42:17.293000", "2026-11-21T13:42:17.293+02:00"]
    assert len({normalize(text) for text in same}) == 1
    assert normalize({"at": [same[0]]}) == normalize({"at": [same[2]]})
    assert normalize(same[0]) != normalize("2026-11-21T11:42:17.294Z")
    assert normalize("observer 2026") == "observer 2026"


def test_ratios_are_computed_within_rounds() -> None:
    """A round that was slow for both systems does not change the ratios.

    A round with only one system is ignored.
    """
    assert ratios({1: 10, 2: 100, 3: 30, 4: 7}, {1: 5, 2: 50, 3: 10}) == Spread(2, 2, 3)
    assert ratios({1: 10}, {2: 5}) is None


def test_spread_and_percentiles_of_known_values() -> None:
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
def test_load_generator_parses_responses_split_at_any_byte(body: bytes, step: int) -> None:
    """The response is complete at its last byte and not earlier, and all rows are counted."""
    received = b"HTTP/1.1 200 OK\r\n" + body
    response = Response(count_rows=True)
    complete = [response.feed(received[at : at + step]) for at in range(0, len(received), step)]
    assert complete == [False] * (len(complete) - 1) + [True]
    assert (response.status, response.rows) == (200, 2)


def test_comments_in_requirements_do_not_count_as_pins(tmp_path: Path) -> None:
    """`compare` installs a second environment only when a pin differs."""
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("# Old comment.\nflask==3.1.3  # HTTP\n\nclick==8.5.1\n")
    new.write_text("click==8.5.1  # new comment\nflask==3.1.3\n")
    assert pins(old) == pins(new) == {"flask==3.1.3", "click==8.5.1"}
    new.write_text("click==8.5.2\nflask==3.1.3\n")
    assert pins(old) != pins(new)


def test_older_revisions_are_measured_with_their_sample_resources(tmp_path: Path) -> None:
    """`compare` sends a revision without tests/testbed the same requests, to other paths."""
    old, new = resources_of(tmp_path), resources_of(PROJECT)
    requests = Requests(SHORT)
    for name in all_workloads(SHORT):
        for before, after in zip(requests.of(name, old), requests.of(name, new), strict=True):
            assert before.startswith((b"GET /users", b"POST /users", b"PATCH /users", b"GET /plant/"))
            renamed = before.replace(b" /users", b" /observers", 1).replace(b" /plant/", b" /find/", 1)
            assert renamed == after


def test_written_tables_match_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewriting the tables keeps their headings and plots, and all text outside the markers."""
    page = tmp_path / "performance.md"
    before = documents.PAGE.read_text()
    page.write_text(before)
    monkeypatch.setattr(documents, "PAGE", page)
    metrics = [metric for metric in METRICS if metric != "refused"]
    systems = ("driver", "fastapi", "flask", "fieldbook", "fastapi by batches")
    values = by_round([Measurement(1, "read", system, dict.fromkeys(metrics, 1.0)) for system in systems])
    machine = {"date": "2026-11-21", "commit": "56550a1", "cores": 2, "python": "3.11.7", "cassandra": "5.0.8"}
    growth = {"fieldbook": {10_000: 0, 100_000: 0, 1_000_000: 0}}
    documents.write_results(values, {"read": "request"}, growth, machine)
    after = page.read_text()
    assert _outside_markers(after) == _outside_markers(before)
    assert _headings(after) == _headings(before)
    assert documents.describe_machine(machine) in before


def _outside_markers(page: str) -> tuple[str, str]:
    return page.partition("<!-- bench:begin -->")[0], page.partition("<!-- bench:end -->")[2]


def _headings(page: str) -> list[str]:
    """Return the headings of the generated tables, and the links to plots."""
    lines = page.partition("<!-- bench:begin -->")[2].partition("<!-- bench:end -->")[0].splitlines()
    below = [*lines[1:], ""]
    return [line for line, next_line in zip(lines, below, strict=True) if next_line.startswith("| ---") or "![" in line]
