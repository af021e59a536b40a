"""The home page, and the accessibility of all pages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support import Service

PAGES = ("/", "/ui/dashboard", "/ui/observers", "/ui/finds", "/ui/jobs", "/ui/diagnostics")


def test_home_page_shows_health_and_commands(live: Service, window: Callable[..., Page]) -> None:
    page = window(live, "/", permissions=["clipboard-read", "clipboard-write"])
    expect(page.locator("#health")).to_contain_text("The service is healthy")
    expect(page.locator("pre")).to_have_count(3)
    page.get_by_role("button", name="Copy").first.click()
    assert page.evaluate("navigator.clipboard.readText()").startswith(f"curl {live.url}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PAGES)
def test_pages_have_no_serious_violation_of_accessibility(
    live: Service, window: Callable[..., Page], path: str, scheme: str
) -> None:
    page = window(live, path, color_scheme=scheme)
    page.wait_for_load_state("networkidle")
    found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], [node["html"] for node in each["nodes"]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
    assert not serious
