"""`page_state`: the limit of a walk over pages, the clocks of several instances, and previous signing keys."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session
from itsdangerous import TimestampSigner

from api import create_app
from settings import Settings
from storage.db_io.cluster import paging_scope
from tests.support import OBSERVER, Service
from web import pagination

EXPIRED = "page_state has expired: start again without it"


@pytest.fixture(scope="module", autouse=True)
def _enough_observers(live: Service) -> None:
    """At least 30 observers, so that each walk has several pages."""
    assert live.client.post("/observers/batch", json=[OBSERVER] * 30).status_code == 201


def page(running: Service, **parameters: Any) -> httpx.Response:
    return running.client.get("/observers/stream/pages", params=parameters)


def two_pages(running: Service, state: str) -> list[list[Any]]:
    """Return the rows of the page of this page_state, and those of the next page.

    A page_state contains the time in seconds, so the page_states of two equal pages can differ.
    """
    pages = []
    for _ in range(2):
        body = page(running, page_state=state, fetch_size=10).json()
        assert len(body["observers"]) == 10
        pages.append(body["observers"])
        state = body["page_state"]
    return pages


@pytest.mark.parametrize(
    ("limit", "fetch_sizes", "expected"),
    [
        (25, (10, 10, 10), [10, 10, 5]),
        (25, (10, 12, 5000), [10, 12, 3]),
        (20, (10, 10), [10, 10]),
        (10, (10,), [10]),
        (3, (10,), [3]),
        (1, (5000,), [1]),
    ],
)
def test_limit_is_the_total_of_all_pages(
    live: Service, limit: int, fetch_sizes: tuple[int, ...], expected: list[int]
) -> None:
    """The last page has the rest, and no page_state. Later requests may leave the limit out."""
    seen: list[str] = []
    sizes = []
    parameters: dict[str, Any] = {"limit": limit}
    for number, fetch_size in enumerate(fetch_sizes, 1):
        body = page(live, **parameters, fetch_size=fetch_size).json()
        seen += [observer["id"] for observer in body["observers"]]
        sizes.append(len(body["observers"]))
        assert body["has_more"] == (number < len(fetch_sizes)) == (body["page_state"] is not None)
        parameters = {"page_state": body["page_state"]} | ({"limit": limit} if number % 2 else {})
    assert sizes == expected
    assert seen == [observer["id"] for observer in live.client.get(f"/observers/stream?limit={limit}").json()]


def test_limit_above_the_number_of_rows_returns_all(live: Service) -> None:
    limit = 10**19
    rows, state = [], None
    for _ in range(1000):
        body = page(live, limit=limit, fetch_size=5000, **({"page_state": state} if state else {})).json()
        rows += body["observers"]
        state = body["page_state"]
        if state is None:
            break
    assert rows == live.client.get("/observers/stream?limit=10000000").json()


def test_limit_zero_returns_an_empty_page(live: Service) -> None:
    response = page(live, limit=0)
    assert (response.status_code, response.text) == (200, '{"observers":[],"has_more":false,"page_state":null}')


def test_another_limit_than_that_of_the_walk_is_rejected(live: Service) -> None:
    limited, unlimited = (page(live, fetch_size=10, **limit).json()["page_state"] for limit in ({"limit": 25}, {}))
    for state, limit in ((limited, 24), (limited, 26), (limited, 0), (unlimited, 25), (unlimited, 0)):
        response = page(live, page_state=state, limit=limit)
        assert response.status_code == 400, (state, limit)
        assert response.json()["detail"] == "Invalid page_state: it was issued for another limit"


def test_the_limit_in_a_page_state_is_authenticated(live: Service) -> None:
    state = page(live, limit=25, fetch_size=10).json()["page_state"]
    limit, left, rest = state.split(".", 2)
    assert (limit, left) == ("25", "15")
    unlimited = page(live, fetch_size=10).json()["page_state"]
    for changed in (f"25.16.{rest}", f"26.15.{rest}", f"25.015.{rest}", rest, f"15.{rest}", f"25.15.{unlimited}"):
        response = page(live, page_state=changed)
        assert (response.status_code, "page_state" in response.json()["detail"]) == (400, True), changed


def test_page_states_without_a_limit_keep_their_form(live: Service, session: Session, settings: Settings) -> None:
    """An instance of the version before the limit issues and accepts paging state, time and signature."""
    assert settings.secret_key is not None
    state = page(live, fetch_size=10).json()["page_state"]
    signer = TimestampSigner(
        settings.secret_key.get_secret_value(),
        salt=f"page_state observers/stream/pages {paging_scope(session)}",
        key_derivation="hmac",
        digest_method=hashlib.sha384,
    )
    paging_state = signer.unsign(state)
    assert b"." not in paging_state
    resigned = signer.sign(paging_state).decode()
    assert two_pages(live, resigned) == two_pages(live, state)


@pytest.mark.parametrize("limit", ["-1", "1.5", "x", ""])
def test_invalid_limits_are_rejected(live: Service, limit: str) -> None:
    response = page(live, limit=limit)
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["query", "limit"])


@pytest.mark.parametrize(
    ("seconds", "accepted"),
    [(2, True), (240, True), (400, False), (10**9, False), (-24 * 3600 + 60, True), (-24 * 3600 - 60, False)],
)
def test_page_state_of_an_instance_with_another_clock(
    live: Service,
    session: Session,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    accepted: bool,
) -> None:
    """A page_state is accepted if it was signed at most 5 minutes ahead of this instance's clock, for 24 hours."""
    scope = f"observers/stream/pages {paging_scope(session)}"
    state = page(live, fetch_size=10).json()["page_state"]
    with create_app(settings, session).app_context():
        paging_state = pagination.verify(state, scope)
        monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: int(time.time()) + seconds)
        token = pagination.sign(paging_state, scope)
    response = page(live, page_state=token)
    assert response.status_code == (200 if accepted else 400)
    if not accepted:
        assert response.json()["detail"] == EXPIRED


def test_signing_key_is_rotated_without_rejected_page_states(
    live: Service, session: Session, settings: Settings, start: Callable[..., Service]
) -> None:
    """An instance accepts what the previous keys signed, and signs with SECRET_KEY only."""
    assert settings.secret_key is not None
    old, new = settings.secret_key.get_secret_value(), "the next secret of the tests"
    rotated = start({"SECRET_KEY": new, "SECRET_KEY_PREVIOUS": f"a key that was used earlier, {old}"})
    old_state = page(live, fetch_size=10, limit=30).json()["page_state"]
    assert two_pages(rotated, old_state) == two_pages(live, old_state)
    link = live.client.get("/observers?limit=1").links["next"]["url"]
    assert rotated.client.get(link).status_code == 200
    # What the rotated instance signs, an instance accepts only if it knows the new key.
    new_state = page(rotated, fetch_size=10).json()["page_state"]
    assert page(rotated, page_state=new_state).status_code == 200
    assert page(live, page_state=new_state).status_code == 400
    # The first step of a rotation makes the new key known.
    prepared = Settings(**settings.model_dump() | {"secret_key_previous": new})
    with create_app(prepared, session).app_context():
        assert pagination.verify(new_state, f"observers/stream/pages {paging_scope(session)}")
        assert len(prepared.signing_keys) == 2
        assert prepared.signing_keys[-1] == old.encode()
