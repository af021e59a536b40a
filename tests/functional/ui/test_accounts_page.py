"""The page with which operators manage accounts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from cassandra.cluster import Session
from playwright.sync_api import Locator, Page, expect

from auth import accounts
from auth.passwords import Passwords
from settings import Settings
from storage.cql import QueryOptions
from tests.functional.auth.accounts import PASSWORD, WITHOUT_LIMITS, new_email, request_token
from tests.support import Service, service

NEW_PASSWORD = "staple battery horse"


@pytest.fixture(scope="module")
def secured(
    environment: dict[str, str], own_session: Session, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A service with AUTH=all, one worker and no accounts of other tests: the page shows 100 accounts at once."""
    variables = WITHOUT_LIMITS | {"WEB_CONCURRENCY": "1", "CASSANDRA_KEYSPACE": str(own_session.keyspace)}
    with service(environment | variables, tmp_path_factory.mktemp("secured") / "log") as running:
        yield running


@pytest.fixture
def open_page(
    secured: Service, window: Callable[..., Page], own_session: Session, settings: Settings
) -> Callable[..., tuple[Page, str]]:
    """Open the page, signed in to a new account: `open_page("operator", expected=["409"])`."""

    def signed_in(scope: str, **options: object) -> tuple[Page, str]:
        query = QueryOptions()
        email = accounts.create(own_session, new_email(), PASSWORD, [scope], Passwords(settings, query), query).email
        page = window(secured, "/ui/accounts", **options)
        page.get_by_role("alert").get_by_role("button", name="Sign in").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("E-mail").fill(email)
        dialog.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        return page, email

    return signed_in


def can_sign_in(running: Service, email: str, password: str) -> bool:
    return request_token(running, grant_type="password", username=email, password=password).status_code == 200


def row_of(page: Page, email: str) -> Locator:
    """Return the row of an account in the table."""
    return page.get_by_role("row").filter(has_text=email)


def create(page: Page, email: str, password: str = PASSWORD) -> None:
    form = page.get_by_role("form", name="Create an account")
    form.get_by_label("E-mail").fill(email)
    form.get_by_label("Password").fill(password)
    form.get_by_role("button", name="Create").click()


def test_operators_create_change_and_disable_accounts(
    secured: Service, open_page: Callable[..., tuple[Page, str]]
) -> None:
    page, own = open_page("operator", expected=["401"])
    expect(row_of(page, own)).to_contain_text("Your account")
    email = new_email()
    page.get_by_label("operator: everything").check()
    create(page, email)
    row = row_of(page, email)
    expect(row).to_contain_text("read, write, operator")
    assert can_sign_in(secured, email, PASSWORD)
    row.get_by_role("button", name="Disable").click()
    expect(row).to_contain_text("disabled")
    expect(row.get_by_role("button", name="Enable")).to_be_focused()
    assert not can_sign_in(secured, email, PASSWORD)
    row.get_by_role("button", name="Enable").press("Enter")
    expect(row).to_contain_text("active")
    row.get_by_role("button", name="Set password").click()
    dialog = page.get_by_role("dialog", name=f"Set the password of {email}")
    dialog.get_by_label("New password").fill(NEW_PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"The password of {email} is changed.")).to_be_visible()
    assert can_sign_in(secured, email, NEW_PASSWORD)
    page.reload()
    expect(row_of(page, email)).to_contain_text("active")


def test_errors_are_shown_beside_the_fields(open_page: Callable[..., tuple[Page, str]]) -> None:
    page, own = open_page("operator", expected=["401", "409", "422"])
    form = page.get_by_role("form", name="Create an account")
    # The browser accepts this domain, and the service does not.
    create(page, "ada@example.test")
    error = form.locator('[data-error="email"]')
    expect(error).to_contain_text("special-use or reserved name")
    assert form.get_by_label("E-mail").get_attribute("aria-describedby") == error.get_attribute("id")
    create(page, own)
    expect(error).to_be_hidden()
    expect(form.get_by_text("There is an account with this e-mail address.")).to_be_visible()
    expect(form.get_by_label("E-mail")).to_have_value(own)


def test_other_accounts_see_neither_the_list_nor_the_form(open_page: Callable[..., tuple[Page, str]]) -> None:
    page, _ = open_page("write", expected=["401", "403"])
    expect(page.get_by_text("This route requires the scope operator")).to_be_visible()
    expect(page.get_by_role("table")).to_be_hidden()
    expect(page.get_by_role("form", name="Create an account")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_dialog_have_no_serious_violation_of_accessibility(
    open_page: Callable[..., tuple[Page, str]], scheme: str
) -> None:
    page, own = open_page("operator", expected=["401"], color_scheme=scheme, viewport={"width": 360, "height": 740})
    expect(row_of(page, own)).to_be_visible()
    found = list(Axe().run(page).response["violations"])
    row_of(page, own).get_by_role("button", name="Set password").click()
    found += Axe().run(page).response["violations"]
    assert not [(each["id"], each["nodes"]) for each in found if each["impact"] in ("serious", "critical")]
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
