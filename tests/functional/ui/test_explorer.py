"""The explorer: choose rows, watch them arrive, and download them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from storage.cql import Stream
from tests.support import LARGE, Service, TcpProxy, metric, service, wait_for
from tests.testbed.sample_data.finds import HAWKWEEDS
from web.media_types import CSV
from web.streaming import format_streaming_response

# The first test that needs many rows also waits until they are inserted.
pytestmark = pytest.mark.timeout(300)

ROWS = "[aria-selected]"
WINDOW = Callable[..., Page]
STREAM = "/observers/stream"


@pytest.fixture(scope="module")
def large(
    environment: dict[str, str], large_keyspace: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service whose table of observers has LARGE rows and the samples."""
    variables = environment | {"CASSANDRA_KEYSPACE": large_keyspace, "WEB_CONCURRENCY": "1"}
    with service(variables, tmp_path_factory.mktemp("large") / "log") as running:
        yield running


def outcome(page: Page) -> Any:
    return expect(page.locator("#outcome"))


def field(page: Page, view: str, label: str) -> Locator:
    return page.locator(f"fieldset[name={view}]").get_by_label(label)


def downloaded(page: Page, kind: str) -> tuple[str, str]:
    """The name and the content of the file that a button saves."""
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Download {kind}").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes().decode()


def body(live: Service, path: str, media_type: str) -> str:
    return live.client.get(path, headers={"Accept": media_type}).text


def test_partition_is_streamed_and_address_shows_the_same_rows_again(live: Service, window: WINDOW) -> None:
    page = window(live, "/ui/finds")
    outcome(page).to_contain_text("Complete. Rows: 2.")
    field(page, "partition", "Genus").fill("Hieracium")
    field(page, "partition", "From").fill("forma-2990")
    field(page, "partition", "Order").select_option("desc")
    page.get_by_role("button", name="Show rows").click()
    outcome(page).to_contain_text("Complete. Rows: 10.")
    expect(page.locator(ROWS).first).to_have_text(f"Hieraciumforma-2999{2999 % 7}")
    page.reload()
    outcome(page).to_contain_text("Complete. Rows: 10.")
    assert field(page, "partition", "From").input_value() == "forma-2990"


def test_errors_say_which_input_to_correct(live: Service, window: WINDOW) -> None:
    page = window(live, "/ui/finds?genus=Quercus&from=%20", expected=["422", "404"])
    error = page.get_by_role("alert")
    expect(error).to_contain_text("query.from")
    expect(error).to_contain_text("visible character")
    field(page, "partition", "From").fill("")
    page.get_by_role("button", name="Show rows").click()
    outcome(page).to_contain_text("Complete.")
    expect(error).to_have_count(0)
    # A slash would lead to another route.
    field(page, "partition", "Genus").fill("Quercus/robur")
    page.get_by_role("button", name="Show rows").click()
    assert field(page, "partition", "Genus").evaluate("(input) => input.validity.patternMismatch")
    page.goto("/ui/finds?explorer-view=row&genus=Quercus&species=unknown")
    expect(page.get_by_role("alert")).to_have_text("Find not found")
    field(page, "row", "Species").fill("robur")
    page.get_by_role("button", name="Show rows").click()
    outcome(page).to_contain_text("Complete. Rows: 1.")
    expect(page.locator(ROWS)).to_have_text("Quercusrobur41")


def test_large_stream_has_few_elements_and_scrolls_to_its_end(large: Service, window: WINDOW) -> None:
    page = window(large, "/ui/observers?explorer-view=stream&fetch_size=5000")
    outcome(page).to_contain_text(f"Complete. Rows: {LARGE + 50:,}.")
    grid = page.get_by_role("grid")
    expect(grid).to_have_attribute("aria-rowcount", str(LARGE + 51))
    grid.evaluate("(grid) => grid.scrollTo(0, grid.scrollHeight)")
    last = page.locator(f"[aria-rowindex='{LARGE + 51}']")
    expect(last).to_be_in_viewport()
    rows = body(large, f"{STREAM}?limit={LARGE + 50}&fetch_size=5000", "application/x-ndjson").splitlines()
    expect(last).to_contain_text(json.loads(rows[-1])["id"])
    assert page.locator("*").count() < 600


def test_stop_ends_the_stream_in_the_service(large: Service, window: WINDOW) -> None:
    page = window(large, "/ui/observers")
    outcome(page).to_contain_text("There are more pages.")
    page.get_by_label("Show", exact=True).select_option("All rows")
    field(page, "stream", "Fetch size").fill("10")
    page.get_by_role("button", name="Show rows").click()
    expect(page.locator("#progress")).to_have_text(re.compile(r"Rows: [1-9]"))
    page.get_by_role("button", name="Stop").click()
    outcome(page).to_contain_text("Stopped: the result is not complete. Rows: ")
    series = f'fieldbook_streams_ended_total{{outcome="disconnected",route="{STREAM}"}}'
    wait_for(lambda: metric(large, series) == 1, description="the stream to be counted as disconnected")


def test_pages_have_a_filter_and_lead_to_the_last_row(live: Service, window: WINDOW) -> None:
    page = window(live, "/ui/observers?fetch_size=20&limit=45")
    following = page.get_by_role("button", name="Next page")
    outcome(page).to_contain_text("There are more pages. Rows: 20.")
    first = page.locator(ROWS).first.inner_text()
    following.click()
    expect(page.locator(ROWS).first).not_to_have_text(first)
    outcome(page).to_contain_text("There are more pages. Rows: 20.")
    following.press("Enter")
    outcome(page).to_contain_text("Complete. Rows: 5.")
    expect(following).to_have_attribute("aria-disabled", "true")
    # These pages have a `Link` header.
    page.goto("/ui/finds?genus=Hieracium&limit=1000")
    outcome(page).to_contain_text("There are more pages. Rows: 1,000.")
    following.click()
    expect(page.locator(ROWS).first).to_contain_text("forma-1000")
    outcome(page).to_contain_text("There are more pages. Rows: 1,000.")


@pytest.mark.parametrize("genus", ["Hieracium", "Quercus"])
def test_downloads_equal_the_responses_of_the_service(live: Service, window: WINDOW, genus: str) -> None:
    page = window(live, f"/ui/finds?genus={genus}")
    outcome(page).to_contain_text("Complete.")
    assert downloaded(page, "CSV") == ("finds.csv", body(live, f"/find/{genus}", "text/csv"))
    assert downloaded(page, "NDJSON") == ("finds.ndjson", body(live, f"/find/{genus}", "application/x-ndjson"))


# Columns that the testbed does not have, and their values. None of the images exists on this host.
COLUMNS = {"genus": "text", "species": "text", "image_url": "text", "size": "double", "note": "text", "tags": "map"}
VALUES: list[dict[str, Any]] = [
    {"species": "a", "image_url": "/nothing.png", "size": 21.0, "note": "", "tags": {"a": [1.0]}},
    {"species": "b", "image_url": "https://other.example/b.png", "size": 1.5, "note": "a,b", "tags": {}},
    {"species": "c", "image_url": None, "size": None, "note": None, "tags": {}},
    {"species": "d", "image_url": "javascript:alert(1)", "size": -0.1, "note": "x\r\ny", "tags": {}},
    {"species": "<script>alert(1)</script>", "image_url": None, "size": 0.0, "note": '"', "tags": {}},
    {"species": "\u05d0\u05d1\u05d2", "image_url": None, "size": 0.0, "note": "\U0001f98a" * 100, "tags": {}},
]
# Replaces the forms, which have tests of their own.
FORMS = """
export const createRow = async () => false;
export const editRow = async (facts, row) => (row.species === "c" ? null : {...row, note: "edited"});
export const deleteRow = async () => true;
"""


def special_rows(live: Service) -> list[str]:
    """The rows above as JSON. The first image has a URL of the service itself."""
    rows = [{"genus": "Quercus"} | row for row in VALUES]
    rows[0]["image_url"] = live.url + rows[0]["image_url"]
    return [json.dumps(row, ensure_ascii=False) for row in rows]


@pytest.fixture
def made_up(live: Service, window: WINDOW) -> Page:
    """The explorer with the columns and values above, and with forms that answer at once."""
    page = window(live, "/ui/finds", expected=["404"])
    rows = special_rows(live)

    def explorer(route: Route) -> None:
        response = route.fetch()
        text = response.text()
        (facts,) = re.findall('data-facts="(.*?)"', text)
        changed = json.loads(html.unescape(facts)) | {"columns": COLUMNS, "links": ["image_url"]}
        route.fulfill(response=response, body=text.replace(facts, html.escape(json.dumps(changed))))

    page.route("**/ui/finds", explorer)
    page.route("**/find/Quercus?*", lambda route: route.fulfill(body="".join(f"{row}\n" for row in rows)))
    page.route("**/ui/static/edit.js", lambda route: route.fulfill(body=FORMS, content_type="text/javascript"))
    page.goto("/ui/finds")
    outcome(page).to_contain_text(f"Complete. Rows: {len(VALUES)}.")
    return page


def cells(page: Page, row: int) -> Locator:
    return page.locator(ROWS).nth(row).get_by_role("gridcell")


def test_values_are_shown_as_text_and_missing_images_as_placeholders(made_up: Page) -> None:
    page = made_up
    for row in range(3):
        expect(cells(page, row).nth(2)).to_contain_text("No image")
    link = cells(page, 1).nth(2).get_by_role("link")
    expect(link).to_have_attribute("href", "https://other.example/b.png")
    expect(link).to_have_attribute("rel", "noreferrer")
    expect(page.locator(".rows img")).to_have_count(0)
    expect(cells(page, 3).nth(2)).to_contain_text("javascript:alert(1)")
    expect(cells(page, 3).nth(2).locator("a")).to_have_count(0)
    expect(cells(page, 0)).to_have_text(["Quercus", "a", re.compile("No image"), "21.0", "", '{"a":[1.0]}'])
    expect(cells(page, 2).nth(4)).to_have_text("null")
    expect(cells(page, 4).nth(1)).to_have_text("<script>alert(1)</script>")
    expect(cells(page, 5).nth(1)).to_have_attribute("dir", "auto")
    expect(cells(page, 5).nth(4)).to_have_text("\U0001f98a" * 100)


def test_download_of_special_values_equals_the_csv_of_the_service(live: Service, made_up: Page) -> None:
    pages = Stream((page for page in [special_rows(live)]), tuple(COLUMNS))
    expected = b"".join(format_streaming_response(pages, CSV)).decode()
    assert downloaded(made_up, "CSV")[1] == expected


def test_changed_row_is_updated_and_deleted_row_is_removed(made_up: Page) -> None:
    page = made_up

    def choose(row: int, action: str) -> None:
        cells(page, row).first.click()
        page.get_by_role("button", name=action).click()

    choose(0, "Edit")
    expect(cells(page, 0).nth(4)).to_have_text("edited")
    choose(1, "Delete")
    expect(page.locator(ROWS)).to_have_count(len(VALUES) - 1)
    expect(cells(page, 1).nth(1)).to_have_text("c")
    # Another client has deleted this row.
    choose(1, "Edit")
    expect(cells(page, 1).nth(1)).to_have_text("d")


def test_broken_stream_is_not_a_complete_result(large: Service, window: WINDOW) -> None:
    proxy = TcpProxy("127.0.0.1", large.port)
    through_proxy: Any = SimpleNamespace(url=f"http://127.0.0.1:{proxy.port}")
    page = window(through_proxy, "/ui/observers?explorer-view=stream&fetch_size=10", expected=["ERR_"])
    expect(page.locator("#progress")).to_have_text(re.compile(r"Rows: [1-9]"))
    proxy.close()
    outcome(page).to_contain_text("Failed: the result is not complete. Rows: ")


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if target.evaluate("(element) => element === document.activeElement"):
            return
    raise AssertionError(f"Tab does not reach {target}")


def test_streams_and_details_work_with_the_keyboard_only(live: Service, window: WINDOW) -> None:
    page = window(live, "/ui/finds")
    grid = page.get_by_role("grid")
    tab_to(page, field(page, "partition", "Genus"))
    page.keyboard.type("Hieracium")
    page.keyboard.press("Enter")
    outcome(page).to_contain_text(f"Complete. Rows: {HAWKWEEDS:,}.")
    tab_to(page, grid)
    page.keyboard.press("End")
    last = page.locator(f"#row-{HAWKWEEDS - 1}")
    expect(last).to_be_in_viewport(ratio=0.9)
    expect(grid).to_have_attribute("aria-activedescendant", f"row-{HAWKWEEDS - 1}")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("PageUp")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#row-1")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("forma-0001")
    page.keyboard.press("Escape")
    expect(grid).to_be_focused()
