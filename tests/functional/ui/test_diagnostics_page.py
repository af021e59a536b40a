"""The page of the diagnostics: probes, their timeline, and the comparison."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, Page, expect

from tests.support import Service

NAMES = ("Async", "Sync")


def probe(page: Page, title: str) -> Locator:
    """The part of the page for one probe."""
    return page.get_by_role("region", name=title, exact=True)


def test_short_probes_show_their_findings_and_events(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/ui/diagnostics")
    titles = ("Query error", "Streaming error", "Concurrent streams", "Nested contexts", "Cancellation", "Status")
    for title in titles:
        probe(page, title).get_by_role("button", name="Run").click()
        expect(probe(page, title).get_by_role("status")).to_have_text(re.compile(r"Answered after \S+ ms"))
        assert probe(page, title).locator("dt").count() > 1
    nested = probe(page, "Nested contexts")
    first, *events, last = nested.get_by_role("listitem").all_inner_texts()
    assert events == [
        *("cluster opened", "session opened", "stream opened"),
        *("stream closed", "session closed", "cluster closed"),
    ]
    assert (first, last) == ("Request sent", nested.get_by_role("status").inner_text())
    expect(nested.locator("dt", has_text="correct order").locator("+ dd")).to_have_text("true")
    expect(probe(page, "Concurrent streams").locator("pre")).to_contain_text('"count": 20')


def test_chart_compares_the_probes_that_send_many_queries(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/ui/diagnostics")
    count = page.get_by_label("Number of queries")
    # By keyboard only.
    count.focus()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("20")
    page.keyboard.press("Enter")
    chart = page.get_by_role("group", name="Requests per second")
    expect(chart.locator("label")).to_have_text([re.compile(rf"^{name}: \S+ requests/s, \S+ s$") for name in NAMES])
    rates = [bar.evaluate("bar => bar.value / bar.max") for bar in chart.get_by_role("meter").all()]
    assert max(rates) == 1
    assert all(0 < rate <= 1 for rate in rates)
    expect(probe(page, "Sync").locator("dt", has_text=re.compile("^requests$")).locator("+ dd")).to_have_text("20")


def test_long_probe_shows_that_it_runs_and_can_be_stopped(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/ui/diagnostics")
    slow = probe(page, "Slow query")
    expect(slow.get_by_role("button", name="Stop")).to_be_hidden()
    slow.get_by_role("button", name="Run").click()
    expect(slow.get_by_role("progressbar")).to_be_visible()
    slow.get_by_role("button", name="Stop").click()
    expect(slow.get_by_role("status")).to_have_text(re.compile(r"Stopped after"))
    expect(slow.get_by_role("progressbar")).to_be_hidden()


def test_failed_probe_shows_the_error_of_the_service(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/ui/diagnostics", expected=["503"])
    problem = {"title": "Service Unavailable", "status": 503, "detail": "Cassandra can't be reached."}
    page.route("**/context_manager_safety/query_error", lambda route: route.fulfill(status=503, json=problem))
    failing = probe(page, "Query error")
    failing.get_by_role("button", name="Run").click()
    expect(failing.get_by_role("status")).to_contain_text("Cassandra can't be reached.")
    expect(failing.locator("dl")).to_have_count(0)


def test_every_probe_is_on_the_page(live: Service) -> None:
    """The page lists the routes of the diagnostics in the OpenAPI document."""
    paths = live.client.get("/openapi.json").json()["paths"]
    page = live.client.get("/ui/diagnostics", headers={"Accept": "text/html"}).text
    operations = [(path, each) for path, methods in paths.items() for each in methods.values()]
    probes = [path for path, operation in operations if "diagnostics" in operation["tags"]]
    assert len(probes) > 5
    assert probes == re.findall(r'data-path="([^"]+)"', page)


def test_page_is_absent_without_the_diagnostics(start: Callable[..., Service]) -> None:
    running = start({"DIAGNOSTICS": "false"})
    assert running.client.get("/ui/diagnostics").status_code == 404
    home = running.client.get("/", headers={"Accept": "text/html"})
    assert home.headers["Content-Type"].startswith("text/html")
    assert "/ui/diagnostics" not in home.text


def test_page_names_the_scope_that_probes_require(guarded: Service, window: Callable[..., Page]) -> None:
    page = window(guarded, "/ui/diagnostics")
    expect(page.get_by_text("sign in with an account that has the scope operator")).to_be_visible()
    expect(page.get_by_role("button", name="Run")).to_have_count(0)
