"""Fixtures of the tests in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import TIMEOUT, Watch, browser, chromium
from tests.support import Service


@pytest.fixture(scope="session")
def running_browser() -> Iterator[Browser]:
    """The browser of this run."""
    if chromium() is None:
        pytest.skip("needs Chromium: install the package chromium")
    with browser() as started:
        yield started


@pytest.fixture
def window(running_browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a window of its own: `window(live, "/ui/users")`, with the options of a Playwright context.

    Two windows share no cookies. At the end of the test, no page may have printed an error on the console, or sent a
    request to another host. A test that expects an error passes a part of it: `window(live, "/", expected=["409"])`.
    """
    watches: list[Watch] = []
    contexts = []

    def open_window(service: Service, path: str, expected: list[str] | None = None, **options: object) -> Page:
        context = running_browser.new_context(base_url=service.url, **options)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT)
        contexts.append(context)
        watch = Watch(service.url.partition("//")[2], expected or [])
        watches.append(watch)
        context.on("page", watch.of)
        page = context.new_page()
        page.goto(path)
        return page

    yield open_window
    for watch in watches:
        watch.check()
    for context in contexts:
        context.close()
