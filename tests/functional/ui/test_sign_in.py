"""Sign-in of the pages: the session, its cookie, several tabs, and forged requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookies import Morsel, SimpleCookie
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session
from playwright.sync_api import BrowserContext, Page, expect

from auth import accounts
from auth.passwords import Passwords
from settings import Settings
from storage.cql import QueryOptions
from storage.db_io.accounts import find_account
from tests.functional.auth.accounts import PASSWORD, WITHOUT_LIMITS, new_email
from tests.support import Service, service

COOKIE = "fieldbook_session"
# Seconds. The pages renew the access token after 70 % of it.
LIFETIME = 3
OWN_PAGE = {"X-Requested-With": "fieldbook", "Sec-Fetch-Site": "same-origin"}


@pytest.fixture(scope="module")
def secured(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with AUTH=all, whose access tokens are valid for some seconds."""
    variables = WITHOUT_LIMITS | {
        "ACCESS_TOKEN_LIFETIME": str(LIFETIME),
        "TRUSTED_PROXIES": "1",
        "TRUSTED_HOSTS": "127.0.0.1,localhost",
        "WEB_CONCURRENCY": "1",
        "SIGN_IN_LIMIT_ACCOUNT": "5 per 5 minutes",
    }
    with service(environment | variables, tmp_path_factory.mktemp("secured") / "log") as running:
        yield running


@pytest.fixture
def account(session: Session, settings: Settings) -> Callable[..., str]:
    """Create an account with PASSWORD, and return its address: `account("read")`."""

    def create(*scopes: str) -> str:
        options = QueryOptions()
        return accounts.create(session, new_email(), PASSWORD, scopes, Passwords(settings, options), options).email

    return create


def fill_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """Fill in the form in the open dialog, and send it."""
    dialog = page.get_by_role("dialog", name="Sign in")
    dialog.get_by_label("E-mail").fill(email)
    dialog.get_by_label("Password").fill(password)
    dialog.get_by_role("button", name="Sign in").click()


def sign_in(page: Page, email: str) -> None:
    """Sign in with the button in the header."""
    page.locator("#account").get_by_role("button", name="Sign in").click()
    fill_in(page, email)
    expect(page.locator("#account")).to_contain_text(email)


def session_cookie(context: BrowserContext) -> dict[str, Any]:
    """Return the cookie of the session, the only one."""
    (cookie,) = context.cookies()
    return dict(cookie)


# --- in a browser ------------------------------------------------------------------------------------------


def test_session_survives_a_reload_and_no_script_can_read_its_tokens(
    secured: Service, window: Callable[..., Page], account: Callable[..., str]
) -> None:
    page = window(secured, "/")
    email = account("read", "write")
    sign_in(page, email)
    cookie = session_cookie(page.context)
    assert (cookie["name"], cookie["path"], cookie["domain"]) == (COOKIE, "/ui/session", "127.0.0.1")
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    page.reload()
    expect(page.locator("#account")).to_contain_text(email)
    stored = "[document.cookie, JSON.stringify(localStorage), JSON.stringify(sessionStorage)]"
    assert page.evaluate(stored) == ["", "{}", "{}"]
    assert session_cookie(page.context)["value"] != cookie["value"]


def test_wrong_passwords_and_too_many_attempts_are_explained(
    secured: Service, window: Callable[..., Page], account: Callable[..., str]
) -> None:
    page = window(secured, "/", expected=["401", "429"])
    email = account("read")
    page.locator("#account").get_by_role("button", name="Sign in").click()
    error = page.get_by_role("dialog").get_by_role("alert")
    for _ in range(5):
        fill_in(page, email, "wrong")
        expect(error).to_have_text("There is no active account with this e-mail address and password.")
    fill_in(page, email)
    expect(error).to_contain_text("Too many attempts to sign in to this account")
    expect(error).to_contain_text("Try again in")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert page.context.cookies() == []


def test_scopes_decide_which_links_are_shown(
    secured: Service, window: Callable[..., Page], account: Callable[..., str]
) -> None:
    for scopes, shown in ((("read",), False), (("operator",), True)):
        page = window(secured, "/")
        navigation = page.get_by_role("navigation")
        expect(navigation.get_by_role("link", name="Dashboard")).to_be_visible()
        expect(navigation.get_by_role("link", name="Accounts")).to_be_hidden()
        sign_in(page, account(*scopes))
        for name in ("Imports", "Accounts"):
            expect(navigation.get_by_role("link", name=name)).to_be_visible(visible=shown)


def test_two_tabs_renew_their_tokens_and_sign_out_together(
    secured: Service, window: Callable[..., Page], account: Callable[..., str]
) -> None:
    """Both tabs send requests, two at once, until each has replaced its access token twice. No request is refused."""
    first = window(secured, "/")
    email = account("read")
    sign_in(first, email)
    second = first.context.new_page()
    second.goto("/ui/jobs")
    expect(second.locator("#account")).to_contain_text(email)
    requests = """async () => {
        const {call} = await import("/ui/static/api.js");
        performance.setResourceTimingBufferSize(100_000);
        const isRenewal = ({name}) => name.endsWith("/ui/session/token");
        const renewals = () => performance.getEntriesByType("resource").filter(isRenewal).length;
        const before = renewals();
        const statuses = new Set();
        while (renewals() < before + 2) {
            const responses = await Promise.all([1, 2].map(() => call("GET", "/jobs")));
            for (const {status} of responses) statuses.add(status);
        }
        return [...statuses];
    }"""
    for page in (first, second):
        page.evaluate(f"() => {{ window.statuses = ({requests})(); }}")
    for page in (first, second):
        assert page.evaluate("window.statuses") == [200]
    second.locator("#account").get_by_role("button", name="Sign out").click()
    for page in (first, second):
        expect(page.locator("#account").get_by_role("button", name="Sign in")).to_be_visible()
    expect(first.get_by_text("Your session has ended.")).to_be_visible()
    assert first.context.cookies() == []


def test_a_revoked_session_asks_for_a_sign_in_and_then_sends_the_form(
    secured: Service, window: Callable[..., Page], account: Callable[..., str], session: Session
) -> None:
    page = window(secured, "/ui/jobs", expected=["401"])
    email = account("read", "write")
    sign_in(page, email)
    # A disabled and enabled account: all of its refresh tokens are revoked.
    options = QueryOptions()
    for disabled in (True, False):
        found = find_account(session, email, options)
        assert found
        assert accounts.set_disabled(session, found, disabled, options)
    page.evaluate(
        """async () => {
            const {call} = await import("/ui/static/api.js");
            const {renew} = await import("/ui/static/session.js");
            await renew();
            const json = {name: "Ada", email: "ada@example.org", age: 36};
            window.created = call("POST", "/observers", {json}).then(({status}) => status);
        }"""
    )
    expect(page.get_by_text("Your session has ended.")).to_be_visible()
    fill_in(page, email)
    assert page.evaluate("window.created") == 201
    expect(page.get_by_text("Your session has ended.")).to_be_hidden()


def test_pages_of_other_origins_can_not_use_the_session(
    secured: Service, window: Callable[..., Page], account: Callable[..., str]
) -> None:
    """`localhost` and 127.0.0.1 are different origins and sites. The forged requests carry no cookie, and get 403."""
    page = window(secured, "/", expected=["403", "CORS", "Content Security Policy", "ERR_FAILED"])
    sign_in(page, account("read"))
    cookie = session_cookie(page.context)
    origin = secured.url.replace("127.0.0.1", "localhost")
    with httpx.Client() as client:
        preflight = client.options(
            f"{secured.url}/ui/session/token",
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "x-requested-with",
            },
        )
    assert "Access-Control-Allow-Origin" not in preflight.headers
    attacker = page.context.browser.new_context(bypass_csp=True) if page.context.browser else page.context
    attacker.add_cookies([cookie])  # type: ignore[list-item]
    other = attacker.new_page()
    other.goto(f"{origin}/health/live")
    for headers in ("{}", '{"X-Requested-With": "fieldbook"}'):
        for path, method in (("/ui/session/token", "POST"), ("/ui/session", "DELETE")):
            with pytest.raises(Exception, match="Failed to fetch"):
                other.evaluate(
                    f"fetch('{secured.url}{path}', {{method: '{method}', credentials: 'include', headers: {headers}}})"
                )
    # A form needs no preflight.
    with other.expect_response("**/ui/session/token") as response:
        other.evaluate(
            f"""() => {{
                const form = document.createElement("form");
                form.method = "post";
                form.action = "{secured.url}/ui/session/token";
                document.body.append(form);
                form.submit();
            }}"""
        )
    assert response.value.status == 403
    assert "cookie" not in response.value.request.all_headers()
    attacker.close()
    page.reload()
    expect(page.locator("#account").get_by_role("button", name="Sign out")).to_be_visible()


# --- over HTTP ---------------------------------------------------------------------------------------------


def post_session(running: Service, email: str, **headers: str) -> httpx.Response:
    """Sign in as a page does, on a new connection."""
    body = {"email": email, "password": PASSWORD}
    return httpx.post(f"{running.url}/ui/session", json=body, headers=OWN_PAGE | headers, timeout=30)


def renew(running: Service, token: str) -> httpx.Response:
    """Renew an access token as a page does, on a new connection."""
    headers = OWN_PAGE | {"Cookie": f"{COOKIE}={token}"}
    return httpx.post(f"{running.url}/ui/session/token", headers=headers, timeout=30)


def cookie_of(response: httpx.Response) -> Morsel[str]:
    """Return the cookie that a response sets."""
    return SimpleCookie(response.headers["Set-Cookie"])[COOKIE]


def test_sign_in_returns_the_access_token_and_sets_the_cookie(secured: Service, account: Callable[..., str]) -> None:
    email = account("read", "write")
    response = post_session(secured, email)
    assert response.status_code == 200
    assert response.json() == {
        "access_token": response.json()["access_token"],
        "token_type": "Bearer",
        "expires_in": LIFETIME,
        "scope": "read write",
        "email": email,
    }
    assert response.headers["Cache-Control"] == "no-store"
    cookie = cookie_of(response)
    assert cookie.value not in response.text
    assert cookie["path"] == "/ui/session"
    assert cookie["max-age"] == str(30 * 86400)
    assert (cookie["httponly"], cookie["secure"], cookie["samesite"]) == (True, True, "Strict")
    prefixed = cookie_of(post_session(secured, email, **{"X-Forwarded-Prefix": "/fieldbook"}))
    assert prefixed["path"] == "/fieldbook/ui/session"


def test_simultaneous_renewals_with_one_cookie_get_the_same_successor(
    secured: Service, account: Callable[..., str]
) -> None:
    """Two tabs without a common lock may use the cookie at the same time."""
    token = cookie_of(post_session(secured, account("read"))).value
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: renew(secured, token), range(2))
    assert (first.status_code, second.status_code) == (200, 200)
    assert cookie_of(first).value == cookie_of(second).value != token


def test_sign_out_revokes_the_refresh_token_without_an_access_token(
    secured: Service, account: Callable[..., str]
) -> None:
    token = cookie_of(post_session(secured, account("read"))).value
    headers = OWN_PAGE | {"Cookie": f"{COOKIE}={token}"}
    response = httpx.delete(f"{secured.url}/ui/session", headers=headers)
    assert response.status_code == 204
    assert (cookie_of(response).value, cookie_of(response)["max-age"]) == ("", "0")
    refused = renew(secured, token)
    assert (refused.status_code, cookie_of(refused).value) == (204, "")
    # Safe to send more than once, and without a session.
    assert httpx.delete(f"{secured.url}/ui/session", headers=headers).status_code == 204
    assert httpx.post(f"{secured.url}/ui/session/token", headers=OWN_PAGE).status_code == 204


def test_another_sign_in_revokes_the_session_that_it_replaces(secured: Service, account: Callable[..., str]) -> None:
    token = cookie_of(post_session(secured, account("read"))).value
    assert post_session(secured, account("read"), Cookie=f"{COOKIE}={token}").status_code == 200
    assert renew(secured, token).status_code == 204


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"X-Requested-With": "fieldbook", "Sec-Fetch-Site": "cross-site"},
        {"X-Requested-With": "fieldbook", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_that_no_page_of_the_service_sends_are_rejected(
    secured: Service, account: Callable[..., str], headers: dict[str, str]
) -> None:
    """Without the header, a form could send the request; other sites could sign a person in to their own account."""
    email = account("read")
    token = cookie_of(post_session(secured, email)).value
    for method, path in (("POST", "/ui/session"), ("POST", "/ui/session/token"), ("DELETE", "/ui/session")):
        response = httpx.request(
            method,
            f"{secured.url}{path}",
            headers=headers | {"Cookie": f"{COOKIE}={token}"},
            json={"email": email, "password": PASSWORD} if path == "/ui/session" and method == "POST" else None,
        )
        assert response.status_code == 403, (method, path)
        assert "Set-Cookie" not in response.headers
    assert renew(secured, token).status_code == 200


def test_read_only_mode_signs_in_without_a_cookie_and_signs_out(
    secured: Service, start: Callable[..., Service], account: Callable[..., str]
) -> None:
    email = account("read")
    token = cookie_of(post_session(secured, email)).value
    read_only = start(WITHOUT_LIMITS | {"READ_ONLY": "true"})
    renewed = renew(read_only, token)
    assert (renewed.status_code, "Set-Cookie" in renewed.headers) == (200, False)
    # Another account signs in: a reload must not bring back the first one.
    replaced = post_session(read_only, account("read"), Cookie=f"{COOKIE}={token}")
    assert (replaced.status_code, cookie_of(replaced).value) == (200, "")
    response = httpx.delete(f"{read_only.url}/ui/session", headers=OWN_PAGE | {"Cookie": f"{COOKIE}={token}"})
    assert (response.status_code, cookie_of(response).value) == (204, "")
