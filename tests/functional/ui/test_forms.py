"""Forms that create, edit and delete rows, and the dialog about two versions of a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote
from uuid import uuid4

import pytest
from axe_playwright_python.sync_playwright import Axe
from jinja2 import Environment, FileSystemLoader
from playwright.sync_api import Locator, Page, Route, expect
from pydantic import Field

import api  # noqa: F401  # imports ui in the right order
from schemas import fields, parameters
from schemas.base import Body
from tests.support import OBSERVER, PROJECT, Service
from ui.forms import row_fields

Window = Callable[..., Page]
ROW_URL = re.compile(r"/observers/[0-9a-f-]+$")
TEMPLATES = Environment(loader=FileSystemLoader(PROJECT / "ui" / "templates"), autoescape=True)

HOSTILE = "<script>alert(1)</script> \"'`&amp; ${1} \u202eمرحبا שלום 👩‍🌾"
RUN = """([name, row]) => {
    const facts = JSON.parse(document.querySelector("#explorer").dataset.facts);
    window.result = import("/ui/static/edit.js")
        .then((edit) => edit[name](facts, row))
        .then((value) => (value === undefined ? "nothing" : value));
    // Without this, Playwright would wait for the dialog to close.
    return null;
}"""


def start(page: Page, function: str, row: dict[str, Any] | None = None) -> Locator:
    """Open a dialog as the buttons of the explorer do: `start(page, "editRow", row)`."""
    page.evaluate(RUN, [function, row])
    dialog = page.locator("dialog[open]").first
    expect(dialog).to_be_visible()
    return dialog


def result(page: Page) -> Any:
    """What the function returned, once the dialog is closed; "nothing" for undefined."""
    expect(page.locator("dialog[open]")).to_have_count(0)
    return page.evaluate("window.result")


def press(dialog: Locator, name: str) -> None:
    dialog.get_by_role("button", name=name, exact=True).click()


def value_of(dialog: Locator, column: str) -> Locator:
    return dialog.locator(f"#field-{column}")


def error_of(dialog: Locator, column: str) -> Locator:
    return dialog.locator(f"#field-{column}-help .error")


@pytest.fixture
def observer(live: Service) -> dict[str, Any]:
    """A new observer."""
    response = live.client.post("/observers", json=OBSERVER)
    return dict(response.json())


def stored(live: Service, row: dict[str, Any]) -> dict[str, Any]:
    return dict(live.client.get(f"/observers/{row['id']}").json())


def change(live: Service, row: dict[str, Any], **changes: object) -> None:
    """Change an observer as another person would."""
    assert live.client.patch(f"/observers/{row['id']}", json=changes).status_code == 200


# --- create ------------------------------------------------------------------------------------------------


def test_errors_are_shown_beside_their_fields(live: Service, window: Window) -> None:
    """Values that the browser accepts and the service rejects stay in the form."""
    page = window(live, "/ui/observers", expected=["422"])
    dialog = start(page, "createRow")
    press(dialog, "Save")
    for column in ("name", "email", "age"):
        expect(error_of(dialog, column)).to_have_text("Please fill out this field.")
    expect(value_of(dialog, "name")).to_be_focused()

    value_of(dialog, "name").fill("Grace")
    value_of(dialog, "email").fill("nobody")
    value_of(dialog, "age").fill("36")
    press(dialog, "Save")
    email = value_of(dialog, "email")
    expect(error_of(dialog, "email")).to_contain_text("An email address must have an @-sign")
    expect(email).to_be_focused()
    expect(email).to_have_attribute("aria-invalid", "true")
    expect(email).to_have_accessible_description(re.compile("An email address must have an @-sign.*text, required"))
    expect(error_of(dialog, "name")).to_be_empty()
    expect(value_of(dialog, "name")).to_have_value("Grace")

    email.fill("grace@example.org")
    press(dialog, "Save")
    assert result(page) is True
    expect(page.locator("#messages")).to_have_text("Created.")


def test_a_retry_after_an_unknown_outcome_creates_one_row(live: Service, window: Window) -> None:
    """The response to the first request is lost. The retry has the same key; a changed body has another one."""
    page = window(live, "/ui/observers", expected=["ERR_FAILED", "504"])
    keys: list[str | None] = []

    def lose_response(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) == 1:
            route.fetch()
            route.abort()
        elif len(keys) == 3:
            route.fulfill(status=504, content_type="application/problem+json", body='{"detail": "Too late."}')
        else:
            route.continue_()

    page.route("**/observers", lose_response)
    email = f"{uuid4().hex}@example.org"
    dialog = start(page, "createRow")
    for column, text in (OBSERVER | {"email": email}).items():
        value_of(dialog, column).fill(str(text))
    press(dialog, "Save")
    expect(dialog.get_by_text("may be stored nevertheless")).to_be_visible()
    press(dialog, "Save")
    assert result(page) is True
    assert keys[0] == keys[1] is not None
    observers = live.client.get("/observers/stream", params={"limit": 100_000}).json()
    assert len([each for each in observers if each["email"] == email]) == 1

    dialog = start(page, "createRow")
    for column, text in (OBSERVER | {"email": email}).items():
        value_of(dialog, column).fill(str(text))
    press(dialog, "Save")
    expect(dialog.get_by_role("alert")).to_contain_text("Too late.")
    expect(dialog.get_by_text("may be stored nevertheless")).to_be_visible()
    value_of(dialog, "age").fill("37")
    press(dialog, "Save")
    assert result(page) is True
    assert len(set(keys)) == 3


def test_hostile_text_is_stored_and_shown_unchanged(live: Service, window: Window) -> None:
    page = window(live, "/ui/finds")
    genus = f"{uuid4().hex} {HOSTILE}".replace("/", "")
    row = {"genus": genus[:100], "species": "🦊" * 100, "sightings": 3}
    dialog = start(page, "createRow")
    for column, text in row.items():
        value_of(dialog, column).fill(str(text))
    press(dialog, "Save")
    assert result(page) is True
    path = f"/find/{quote(row['genus'], safe='')}/{quote(row['species'])}"
    assert live.client.get(path).json() == row

    dialog = start(page, "editRow", row)
    expect(dialog).to_contain_text("The last save wins")
    expect(value_of(dialog, "genus")).to_have_value(row["genus"])
    expect(value_of(dialog, "genus")).to_have_attribute("readonly", "")
    value_of(dialog, "sightings").fill("4")
    value_of(dialog, "sightings").press("Enter")
    assert result(page) == row | {"sightings": 4}
    assert live.client.get(path).json() == row | {"sightings": 4}

    dialog = start(page, "deleteRow", row)
    for column in ("genus", "species"):
        expect(dialog.locator("td", has_text=row[column])).to_have_text(row[column])
    press(dialog, "Delete")
    assert result(page) is True
    assert live.client.get(path).status_code == 404
    assert page.locator("script:not([src])").count() == 0


# --- two versions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["Save mine anyway", "Keep what is stored"])
def test_an_edit_that_loses_a_race_shows_both_versions(
    live: Service, window: Window, observer: dict[str, Any], choice: str
) -> None:
    """Two windows edit the same row. The second one to save decides with both versions on the screen."""
    first, second = (window(live, "/ui/observers", expected=["412"]) for _ in range(2))
    dialogs = [start(page, "editRow", observer) for page in (first, second)]
    expect(dialogs[0]).to_have_accessible_name("Edit row")
    value_of(dialogs[0], "name").fill(HOSTILE)
    value_of(dialogs[1], "name").fill("Mine")
    press(dialogs[0], "Save")
    expect(first.locator("dialog[open]")).to_have_count(0)

    press(dialogs[1], "Save")
    conflict = second.get_by_role("dialog", name="Somebody else has changed this row", exact=True)
    row = conflict.get_by_role("row", name="name ≠ differs")
    expect(row.locator("td")).to_have_text(["Mine", HOSTILE])
    expect(conflict.get_by_role("row", name="age")).to_be_visible()
    expect(conflict.get_by_role("row", name="age ≠ differs")).to_have_count(0)
    press(conflict, choice)
    expect(second.locator("dialog[open]")).to_have_count(0)
    assert stored(live, observer)["name"] == ("Mine" if choice.startswith("Save") else HOSTILE)
    assert result(second) == stored(live, observer)


def test_a_second_lost_race_asks_again(live: Service, window: Window, observer: dict[str, Any]) -> None:
    """The form shows the new values of the fields that this person has not changed."""
    page = window(live, "/ui/observers", expected=["412"])
    dialog = start(page, "editRow", observer)
    value_of(dialog, "age").fill("40")
    change(live, observer, age=50, name="Other")
    press(dialog, "Save")
    values = dialog.get_by_role("row", name="age ≠ differs").locator("td")
    expect(values).to_have_text(["40", "50"])
    expect(value_of(dialog, "name")).to_have_value("Other")
    change(live, observer, age=51)
    press(dialog, "Save mine anyway")
    expect(values).to_have_text(["40", "51"])
    # The value that the form showed at first is a change now.
    value_of(dialog, "age").fill("36")
    press(dialog, "Save mine anyway")
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert stored(live, observer)["age"] == 36
    assert stored(live, observer)["name"] == "Other"


def test_a_repeated_change_that_was_stored_already(live: Service, window: Window, observer: dict[str, Any]) -> None:
    """The answer to the first request is lost. The second one finds the values stored, and no other version."""
    page = window(live, "/ui/observers", expected=["ERR_FAILED", "412"])

    def lose_response(route: Route) -> None:
        route.fetch()
        route.abort()

    dialog = start(page, "editRow", observer)
    page.route(ROW_URL, lose_response, times=1)
    value_of(dialog, "age").fill("40")
    press(dialog, "Save")
    expect(dialog.get_by_text("may be stored nevertheless")).to_be_visible()
    press(dialog, "Save")
    expect(dialog.get_by_text("Both versions have the same values")).to_be_visible()
    press(dialog, "Keep what is stored")
    assert result(page) == stored(live, observer)
    assert stored(live, observer)["age"] == 40


def test_a_row_that_is_gone(live: Service, window: Window, observer: dict[str, Any]) -> None:
    page = window(live, "/ui/observers", expected=["404", "412"])
    dialog = start(page, "editRow", observer)
    value_of(dialog, "name").fill("Mine")
    live.client.delete(f"/observers/{observer['id']}")
    press(dialog, "Save")
    expect(dialog.get_by_role("alert")).to_contain_text("Observer not found")
    expect(dialog.get_by_text("Copy your values")).to_be_visible()
    expect(value_of(dialog, "name")).to_have_value("Mine")
    press(dialog, "Cancel")
    assert result(page) is None
    page.evaluate(RUN, ["editRow", observer])
    assert result(page) is None
    expect(page.locator("#messages")).to_have_text("Observer not found")


def test_delete_of_a_changed_row_asks_again(live: Service, window: Window, observer: dict[str, Any]) -> None:
    page = window(live, "/ui/observers", expected=["412", "404"])
    dialog = start(page, "deleteRow", observer)
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    change(live, observer, age=99)
    press(dialog, "Delete")
    expect(dialog).to_contain_text("Somebody else has changed this row")
    expect(dialog.get_by_role("region", name="Versions")).to_be_focused()
    expect(dialog.get_by_role("row", name="age ≠ differs").locator("td")).to_have_text(["36", "99"])
    page.keyboard.press("Escape")
    assert result(page) is False
    assert stored(live, observer)["age"] == 99
    dialog = start(page, "deleteRow", observer)
    press(dialog, "Delete")
    assert result(page) is True
    assert live.client.get(f"/observers/{observer['id']}").status_code == 404


# --- keyboard and accessibility ----------------------------------------------------------------------------


def test_an_edit_by_keyboard_only(live: Service, window: Window, observer: dict[str, Any]) -> None:
    """The focus goes from one dialog to the next and back to where it was; Escape cancels."""
    page = window(live, "/ui/observers", expected=["412"])
    link = page.get_by_role("navigation").get_by_role("link").first
    link.focus()
    dialog = start(page, "editRow", observer)
    expect(value_of(dialog, "name")).to_be_focused()
    page.keyboard.type("Lost")
    page.keyboard.press("Escape")
    assert result(page) == "nothing"
    expect(link).to_be_focused()
    assert stored(live, observer) == observer

    start(page, "editRow", observer)
    change(live, observer, age=50)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(value_of(dialog, "age")).to_be_focused()
    page.keyboard.type("41")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Versions")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Save mine anyway")).to_be_focused()
    page.keyboard.press("Enter")
    assert result(page)["age"] == 41
    expect(link).to_be_focused()

    start(page, "deleteRow", observer)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert result(page) is True
    expect(link).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dialogs_have_no_serious_violation_of_accessibility(
    live: Service, window: Window, observer: dict[str, Any], scheme: str
) -> None:
    page = window(live, "/ui/observers", expected=["412", "422"], color_scheme=scheme)

    def check() -> None:
        found = Axe().run(page).response["violations"]
        assert not [(each["id"], each["nodes"]) for each in found if each["impact"] in ("serious", "critical")]

    dialog = start(page, "createRow")
    press(dialog, "Save")
    expect(error_of(dialog, "age")).to_have_text("Please fill out this field.")
    check()
    page.keyboard.press("Escape")

    dialog = start(page, "editRow", observer)
    value_of(dialog, "name").fill("Mine")
    change(live, observer, name="Theirs")
    press(dialog, "Save")
    expect(page.get_by_role("row", name="name ≠ differs")).to_be_visible()
    check()
    press(page.locator("dialog[open]").last, "Keep what is stored")
    assert result(page)["name"] == "Theirs"

    dialog = start(page, "deleteRow", observer)
    change(live, observer, name="Changed")
    press(dialog, "Delete")
    expect(page.get_by_role("row", name="name ≠ differs")).to_be_visible()
    check()

    # A form with an input of each kind.
    page = window(live, "/ui/finds", color_scheme=scheme)
    show_form(page, ROW)
    check()


# --- types -------------------------------------------------------------------------------------------------


class EveryType(Body):
    """A body with a field of each CQL type, as in generated resources."""

    a_ascii: fields.Ascii
    a_text: fields.Text | None = None
    a_name: fields.Name
    a_email: fields.Email
    a_url: fields.Url
    a_boolean: fields.Boolean
    a_tinyint: fields.TinyInt
    a_int: fields.Int | None = None
    a_bigint: fields.BigInt
    a_varint: fields.VarInt
    a_decimal: fields.Decimal
    a_float: fields.Float
    a_double: fields.Double | None = None
    a_timestamp: fields.Timestamp
    a_date: fields.Date
    a_time: fields.Time
    a_duration: fields.Duration
    a_inet: fields.Inet
    a_blob: fields.Blob | None = None
    a_uuid: fields.Uuid
    a_timeuuid: fields.TimeUuid
    a_list: fields.ListOf[fields.Text] = []
    a_set: fields.SetOf[fields.BigInt] = []
    a_map: fields.MapOf[parameters.Timestamp, fields.SetOf[fields.Uuid]] = {}
    a_vector: Annotated[list[fields.Float], Field(min_length=3, max_length=3)] | None = None


TYPES = {
    "a_name": "text",
    "a_email": "text",
    "a_url": "text",
    "a_list": "list<text>",
    "a_set": "set<bigint>",
    "a_map": "map<timestamp, set<uuid>>",
    "a_vector": "vector<float, 3>",
}
COLUMNS = {column: TYPES.get(column, column.removeprefix("a_")) for column in EveryType.model_fields}
UUID = "123e4567-e89b-42d3-a456-426614174000"
ROW: dict[str, Any] = {
    "a_ascii": "fox",
    "a_text": 'été "🦊"\r\n\tsecond line',
    "a_name": "Ada",
    "a_email": "ada@exämple.org",
    "a_url": "https://example.org/ü",
    "a_boolean": False,
    "a_tinyint": -128,
    "a_int": 0,
    "a_bigint": "9223372036854775807",
    "a_varint": "123456789012345678901234567890",
    "a_decimal": "21.350",
    "a_float": 21.35,
    "a_double": 1e21,
    "a_timestamp": "2026-11-21T06:50:04.610Z",
    "a_date": "2026-11-21",
    "a_time": "08:30:00.000000001",
    "a_duration": "-P1Y2M3DT4H5M6.5S",
    "a_inet": "2001:db8::1",
    "a_blob": "AP8Q",
    "a_uuid": UUID,
    "a_timeuuid": "8a1dac20-c0a5-11f0-8de9-0242ac120002",
    "a_list": ["b", "", "a\nb"],
    "a_set": ["9", "10"],
    "a_map": {"2026-11-21T06:50:04.000Z": [UUID]},
    "a_vector": [0.1, 2, -3.5],
}
# Values that the inputs of browsers do not hold, and null.
EDGES: dict[str, Any] = {
    **ROW,
    "a_text": "",
    "a_int": None,
    "a_double": None,
    "a_timestamp": "+10000-01-01T00:00:00.000Z",
    "a_date": "-0044-03-15",
    "a_blob": "",
    "a_list": [],
    "a_map": {},
    "a_vector": None,
}
FORM = """([html, row]) => import("/ui/static/form.js").then((forms) => {
    const explorer = document.querySelector("#explorer");
    explorer.innerHTML = html;
    window.form = forms.rowForm(explorer);
    window.showErrors = (errors) => forms.showErrors(explorer, errors);
    if (row) window.form.set(row);
})"""


def show_form(page: Page, row: dict[str, Any] | None) -> None:
    macros: Any = TEMPLATES.get_template("ui/forms.html").module
    html = macros.row_fields_of(row_fields(EveryType.model_json_schema(), COLUMNS))
    page.evaluate(FORM, [html, row])


def test_an_unedited_form_keeps_every_value(live: Service, window: Window) -> None:
    page = window(live, "/ui/finds")
    for row in (ROW, EDGES):
        show_form(page, row)
        assert page.evaluate("form.body()") == row
        assert page.evaluate("row => form.body(row)", row) == {}


def test_values_of_every_type_can_be_entered(live: Service, window: Window) -> None:
    """What a person enters is what the service reads, and the values of docs/types.md are among them."""
    page = window(live, "/ui/finds")
    show_form(page, None)
    form = page.locator("#explorer")
    entered = ROW | {"a_text": 'été "🦊"\nsecond line'}
    for column, value in entered.items():
        control = value_of(form, column)
        if control.evaluate("each => each.tagName") == "SELECT":
            control.select_option("false")
        elif column == "a_timestamp":
            control.fill("2026-11-21T06:50:04.61")
        elif column in ("a_list", "a_set", "a_map", "a_vector"):
            control.fill(page.evaluate("JSON.stringify", value))
        else:
            control.fill(str(value))
    body = page.evaluate("form.body()")
    assert body == entered
    EveryType.model_validate(body)


def test_an_edited_form_sends_only_changes(live: Service, window: Window) -> None:
    """An empty input is null, except for text, and an empty list for lists."""
    page = window(live, "/ui/finds")
    show_form(page, ROW)
    form = page.locator("#explorer")
    for column in ("a_text", "a_int", "a_vector", "a_list"):
        value_of(form, column).fill("")
    value_of(form, "a_timestamp").fill("2026-11-21T06:50")
    value_of(form, "a_double").fill("-1.5e-300")
    value_of(form, "a_boolean").select_option("true")
    assert page.evaluate("row => form.body(row)", ROW) == {
        "a_text": "",
        "a_int": None,
        "a_vector": None,
        "a_list": [],
        "a_timestamp": "2026-11-21T06:50:00.000Z",
        "a_double": -1.5e-300,
        "a_boolean": True,
    }


def test_null_and_empty_text_differ(live: Service, window: Window) -> None:
    page = window(live, "/ui/finds")
    show_form(page, ROW)
    form = page.locator("#explorer")
    is_null = form.get_by_label("a_text is null")
    is_null.check()
    expect(value_of(form, "a_text")).to_have_value("")
    assert page.evaluate("row => form.body(row)", ROW) == {"a_text": None}
    is_null.uncheck()
    assert page.evaluate("row => form.body(row)", ROW) == {"a_text": ""}
    is_null.check()
    value_of(form, "a_text").fill("text")
    expect(is_null).not_to_be_checked()
    assert page.evaluate("row => form.body(row)", ROW) == {"a_text": "text"}


def test_inputs_reject_what_they_cannot_send(live: Service, window: Window) -> None:
    page = window(live, "/ui/finds")
    show_form(page, ROW)
    form = page.locator("#explorer")
    for column, text in {"a_tinyint": "-129", "a_int": "1.5", "a_map": "{"}.items():
        value_of(form, column).fill(text)
    value_of(form, "a_float").press_sequentially("1e")
    value_of(form, "a_decimal").fill("")
    page.evaluate("try { form.body() } catch (error) { showErrors(error.errors) }")
    for column in ("a_tinyint", "a_int", "a_float", "a_decimal", "a_map"):
        expect(error_of(form, column)).not_to_be_empty()
        expect(value_of(form, column)).to_have_attribute("aria-invalid", "true")
    expect(value_of(form, "a_tinyint")).to_be_focused()
    assert form.locator("[aria-invalid=true]").count() == 5
