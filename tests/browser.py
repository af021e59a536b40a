"""A real browser: Chromium of the system, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

# Milliseconds for which Playwright waits for an element or a condition. In CI, two test processes share two cores.
TIMEOUT = 20_000


def chromium() -> str | None:
    """The path of the browser; None if the system has none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser in headless mode."""
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        # The sandbox of Chromium does not work for root.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        yield started
        started.close()


@dataclass
class Watch:
    """Record errors on the console and requests to other hosts, which no page may cause.

    :ivar expected: parts of console errors that a test expects, for example "409". The browser reports each response
        with an error status.
    """

    host: str
    expected: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def of(self, page: Page) -> None:
        """Watch a page from now on."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._request)

    def check(self) -> None:
        """Check that there was no unexpected error and no request to another host."""
        unexpected = [error for error in self.errors if not any(part in error for part in self.expected)]
        assert not unexpected, unexpected
        assert not self.foreign, self.foreign

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url')})")

    def _request(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme in ("http", "https", "ws", "wss") and url.netloc != self.host:
            self.foreign.append(request.url)
