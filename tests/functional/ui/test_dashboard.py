"""The dashboard: figures under load, and the banner for each state of the service."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import httpx
from playwright.sync_api import Locator, Page, Route, expect

from tests.support import Service, TcpProxy

# Milliseconds: the limits of the dashboard.
KILLED_WORKER, PAUSED_NODE = 5_000, 15_000


def figure(page: Page, title: str) -> Locator:
    """The value of a tile."""
    return page.locator("dl > div").filter(has=page.get_by_text(title, exact=True)).locator("dd")


def chart(page: Page, title: str) -> Locator:
    return page.locator("section").filter(has=page.get_by_role("heading", name=title))


def banners(page: Page, text: str = "") -> Locator:
    """The states in the banner that are shown and have this text."""
    return page.get_by_role("alert").locator("p:visible").filter(has_text=text)


def start_time(banner: Locator) -> datetime:
    """The start time in a banner, of today."""
    text = banner.inner_text()
    found = re.search(r"(?:Since|At) (\d\d:\d\d:\d\d): ", text)
    assert found, text
    return datetime.combine(datetime.now(), datetime.strptime(found[1], "%H:%M:%S").time())


@contextmanager
def load(running: Service) -> Iterator[None]:
    """Send requests one after the other until the block ends."""
    stopped = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            while not stopped.is_set():
                client.get("/find/Quercus/robur")
                client.get("/find/stream")
                client.get("/nowhere")

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_figures_change_under_load(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/ui/dashboard")
    expect(figure(page, "Workers")).to_have_text("2")
    expect(figure(page, "Nodes up")).to_have_text("1")
    expect(figure(page, "Quorum")).to_have_text("yes")
    expect(figure(page, "Requests in flight")).to_have_text(re.compile(r"^\d+ of 96$"))
    expect(chart(page, "Requests by status")).not_to_contain_text("200: ")
    with load(live):
        for title in ("Requests per second", "Queries per second", "Latency p50, ms", "Latency p99, ms"):
            expect(figure(page, title)).to_have_text(re.compile(r"^[\d.,]*[1-9]"))
        expect(chart(page, "Requests by status")).to_contain_text(re.compile(r"200: .*404: "))
        expect(chart(page, "Queries by statement")).to_contain_text("select_find: ")
        expect(chart(page, "Ended streams by outcome")).to_contain_text("finished: ")
        expect(chart(page, "Latency").locator("desc")).to_have_text(re.compile(r"^Now p50: \d"))
    # The requests of the dashboard do not count as load.
    expect(figure(page, "Requests per second")).to_have_text(re.compile(r"^0"))
    expect(banners(page)).to_have_count(0)


def test_killed_worker_is_shown_within_five_seconds(start: Callable[..., Service], window: Callable[..., Page]) -> None:
    running = start({"WEB_CONCURRENCY": "2"})
    page = window(running, "/ui/dashboard", expected=["ERR_"])
    expect(figure(page, "Workers")).to_have_text("2")
    expect(banners(page)).to_have_count(0)
    os.kill(running.workers()[0], signal.SIGKILL)
    expect(banners(page, "a worker has ended")).to_be_visible(timeout=KILLED_WORKER)
    expect(figure(page, "Workers")).to_have_text("2")


def test_paused_node_is_shown_with_its_start_time(
    start: Callable[..., Service], proxy: TcpProxy, window: Callable[..., Page]
) -> None:
    variables = {"CASSANDRA_HEARTBEAT_INTERVAL": "1", "CASSANDRA_HEARTBEAT_TIMEOUT": "1"}
    running = start({"CASSANDRA_PORT": str(proxy.port)} | variables)
    page = window(running, "/ui/dashboard", expected=["503"])
    expect(figure(page, "Quorum")).to_have_text("yes")
    expect(banners(page)).to_have_count(0)
    paused = datetime.now()
    proxy.pause()
    unhealthy = banners(page, "the service is unhealthy")
    expect(unhealthy).to_be_visible(timeout=PAUSED_NODE)
    # The page shows whole seconds.
    since = start_time(unhealthy)
    assert paused - timedelta(seconds=1) <= since <= datetime.now()
    expect(banners(page, "1 of 1")).to_be_visible()
    expect(figure(page, "Nodes down")).to_have_text("1")
    assert start_time(unhealthy) == since
    proxy.resume()
    expect(banners(page)).to_have_count(0)
    expect(figure(page, "Nodes up")).to_have_text("1")


def test_draining_and_unreachable_service(start: Callable[..., Service], window: Callable[..., Page]) -> None:
    running = start({"DRAIN_SECONDS": "4"})
    page = window(running, "/ui/dashboard", expected=["503", "ERR_"])
    expect(figure(page, "Workers")).to_have_text("1")
    running.process.terminate()
    expect(banners(page, "the service is draining")).to_be_visible()
    unreachable = banners(page, "the service is unreachable")
    expect(unreachable).to_be_visible()
    expect(banners(page)).to_have_count(1)
    assert start_time(unreachable) <= datetime.now()


def test_metrics_that_need_a_scope(live: Service, window: Callable[..., Page]) -> None:
    """Without the scope for /metrics, the page says what is needed, and shows the figures of /health."""
    page = window(live, "/", expected=["403"])

    def refuse(route: Route) -> None:
        route.fulfill(status=403, json={"title": "Forbidden", "detail": "This requires the scope operator."})

    page.route("**/metrics", refuse)
    page.get_by_role("link", name="Dashboard").first.click()
    expect(banners(page)).to_contain_text("sign in with the scope operator")
    expect(figure(page, "Quorum")).to_have_text("yes")
    expect(figure(page, "Workers")).to_have_text("–")
    page.unroute("**/metrics")
    expect(banners(page)).to_have_count(0)
    expect(figure(page, "Workers")).to_have_text("2")
