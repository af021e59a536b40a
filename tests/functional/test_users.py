"""Users over HTTP: their life, their versions, their pages and their batches."""

from __future__ import annotations

import re
import string
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from storage import db_io
from tests.support import USER, Service
from web import pagination as paging


@pytest.fixture
def create(live: Service) -> Callable[..., httpx.Response]:
    def create_user(**fields: Any) -> httpx.Response:
        response = live.client.post("/users", json=USER | fields)
        assert response.status_code == 201, response.text
        return response

    return create_user


def url(created: httpx.Response) -> str:
    return str(created.headers["Location"])


def test_create_and_read(live: Service, create: Callable[..., httpx.Response]) -> None:
    """The answer to POST is the user as a later GET shows it, with times in UTC and the same ETag."""
    created = create(name="Grace 🐢")
    body = created.json()
    assert body.keys() == {"id", "name", "email", "age", "created_at", "updated_at"}
    assert (body["name"], body["email"], body["age"]) == ("Grace 🐢", USER["email"], 36)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body["created_at"])
    assert url(created) == f"/users/{body['id']}"
    read = live.client.get(url(created))
    assert (read.status_code, read.json(), read.headers["ETag"]) == (200, body, created.headers["ETag"])


def test_put_changes_all_and_patch_some(live: Service, create: Callable[..., httpx.Response]) -> None:
    """PUT and PATCH answer with the user as a later GET shows it; PATCH leaves the rest as it is."""
    created = create()
    put = live.client.put(url(created), json={"name": "Bea", "email": "bea@example.org", "age": 50})
    assert (put.status_code, put.json()["name"], put.json()["age"]) == (200, "Bea", 50)
    patched = live.client.patch(url(created), json={"age": 51})
    assert patched.status_code == 200
    assert patched.json() | {"updated_at": None} == put.json() | {"age": 51, "updated_at": None}
    assert patched.json()["created_at"] == created.json()["created_at"]
    assert patched.json()["updated_at"] >= put.json()["updated_at"]
    read = live.client.get(url(created))
    assert (read.json(), read.headers["ETag"]) == (patched.json(), patched.headers["ETag"])


def test_delete_is_final(live: Service, create: Callable[..., httpx.Response]) -> None:
    """A deleted user is gone for every call, and neither PUT nor PATCH brings it back."""
    created = create()
    assert live.client.delete(url(created)).status_code == 204
    assert live.client.delete(url(created)).status_code == 204
    for response in (
        live.client.get(url(created)),
        live.client.put(url(created), json=USER),
        live.client.patch(url(created), json={"age": 1}),
    ):
        assert (response.status_code, response.json()["detail"]) == (404, "User not found")
    assert live.client.get(url(created)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_an_id_that_is_no_uuid(live: Service, create: Callable[..., httpx.Response], method: str) -> None:
    """What is no UUID, or one in an unusual form, is told apart from a user that is not there."""
    body = USER if method in ("PUT", "PATCH") else None
    real = create().json()["id"]
    for text in (
        "not-a-uuid",
        f"%7B{real}%7D",
        f"urn:uuid:{real}",
        real.replace("-", ""),
        f"%20{real}",
        f"+{real[1:]}",
    ):
        response = live.client.request(method, f"/users/{text}", json=body)
        assert (response.status_code, response.json()["detail"]) == (400, "Invalid UUID")


# --- versions ----------------------------------------------------------------------------------------------


def test_if_none_match(live: Service, create: Callable[..., httpx.Response]) -> None:
    """A client that has the version already gets 304 without a body; after a change it gets the user."""
    created = create()
    etag = created.headers["ETag"]
    fresh = live.client.get(url(created), headers={"If-None-Match": f'"other", {etag}'})
    assert (fresh.status_code, fresh.content, fresh.headers["ETag"]) == (304, b"", etag)
    live.client.patch(url(created), json={"age": 1})
    assert live.client.get(url(created), headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_refuses_an_old_version(live: Service, create: Callable[..., httpx.Response], method: str) -> None:
    """A writer that has not seen the last change is refused, and changes nothing."""
    created = create()
    changed = live.client.patch(url(created), json={"name": "Changed"})
    body = {"PUT": USER, "PATCH": {"age": 1}}.get(method)
    for tag in (created.headers["ETag"], '"nonsense"', "nonsense", '""', ",", ""):
        refused = live.client.request(method, url(created), json=body, headers={"If-Match": tag})
        assert refused.status_code == 412
    assert live.client.get(url(created)).json() == changed.json()


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"{}-gzip"', 'W/"{}-gzip"', '"{};br"', '"x", "{}"', "*"])
def test_if_match_takes_the_version_as_proxies_hand_it_on(
    live: Service, create: Callable[..., httpx.Response], form: str
) -> None:
    """A proxy that compresses makes an ETag weak or adds a suffix; it is still the same version."""
    created = create()
    tag = form.format(created.headers["ETag"].strip('"'))
    patched = live.client.patch(url(created), json={"age": 1}, headers={"If-Match": tag})
    assert patched.status_code == 200
    tag = form.format(patched.headers["ETag"].strip('"'))
    assert live.client.delete(url(created), headers={"If-Match": tag}).status_code == 204


def test_if_match_on_a_user_that_is_gone(live: Service, create: Callable[..., httpx.Response]) -> None:
    """DELETE says that the version is not there; PUT and PATCH say that the user is not there."""
    created = create()
    condition = {"If-Match": created.headers["ETag"]}
    live.client.delete(url(created))
    assert live.client.delete(url(created), headers=condition).status_code == 412
    assert live.client.delete(url(created), headers={"If-Match": "*"}).status_code == 412
    assert live.client.patch(url(created), json={"age": 1}, headers=condition).status_code == 404
    assert live.client.put(url(created), json=USER, headers=condition).status_code == 404


# --- pages -------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]) -> Service:
    """A service whose keyspace has 250 users: ages 0 to 99, twice, and 0 to 49 once more."""
    add_users(keyspace, 250)
    return start({"CASSANDRA_KEYSPACE": keyspace})


def test_following_links_to_the_end(crowd: Service) -> None:
    """The Link header leads through all users, each once, in pages of the size asked for."""
    seen: list[str] = []
    sizes = []
    following = "/users?limit=100"
    while following:
        response = crowd.client.get(following)
        assert response.status_code == 200
        sizes.append(len(response.json()))
        seen += [user["id"] for user in response.json()]
        following = response.links.get("next", {}).get("url")
        assert len(sizes) < 10
    assert sizes[:3] == [100, 100, 50]
    assert sum(sizes[3:]) == 0
    assert len(set(seen)) == 250


def test_default_page_is_ten(crowd: Service) -> None:
    assert len(crowd.client.get("/users").json()) == 10


def test_following_page_states_to_the_end_with_a_filter(crowd: Service) -> None:
    """Paging and filtering are the database's: the pages hold all users of the age, and no other."""
    seen: list[dict[str, Any]] = []
    state = None
    for _ in range(50):
        parameters: dict[str, Any] = {"fetch_size": 40, "age_filter": 30}
        page = crowd.client.get("/users/stream/pages", params=parameters | ({"page_state": state} if state else {}))
        body = page.json()
        assert len(body["users"]) <= 40
        seen += body["users"]
        assert body["has_more"] == (body["page_state"] is not None)
        state = body["page_state"]
        if state is None:
            break
    assert len({user["id"] for user in seen}) == len(seen) == 160
    assert min(user["age"] for user in seen) == 30


def test_page_states_of_others_are_refused(crowd: Service) -> None:
    """A page_state is good for the query that made it, unchanged: anything else is 400, never rows."""
    pages = crowd.client.get("/users/stream/pages?fetch_size=10&age_filter=20").json()["page_state"]
    link = crowd.client.get("/users?limit=10").links["next"]["url"]
    state = httpx.URL(link).params["page_state"]
    assert crowd.client.get("/users/stream/pages", params={"age_filter": 20, "page_state": pages}).status_code == 200
    attempts = [
        ("/users/stream/pages", {"page_state": pages}),
        ("/users/stream/pages", {"page_state": pages, "age_filter": 21}),
        ("/users/stream/pages", {"page_state": state}),
        ("/users", {"page_state": pages}),
        ("/users", {"page_state": state.split(".")[0]}),
        ("/users", {"page_state": "🦊"}),
        ("/users", {"page_state": ""}),
    ]
    # Every single character matters, the last one of the signature's base64 too.
    for position in [0, 5, state.index(".") + 1, len(state) - 10, len(state) - 1]:
        for other in string.ascii_letters + string.digits + "-_":
            if state[position] != other:
                attempts.append(("/users", {"page_state": state[:position] + other + state[position + 1 :]}))
    attempts += [("/users", {"page_state": state + end}) for end in ("=", "!", "\n", " ", "\0", "é", ".a")]
    attempts += [("/users", {"page_state": state[:-5] + inside + state[-5:]}) for inside in "=!~ \n"]
    for path, parameters in attempts:
        response = crowd.client.get(path, params=parameters)
        assert response.status_code == 400, (path, parameters, response.text)
        assert "page_state" in response.json()["detail"]


def test_a_page_state_that_cassandra_refuses(start: Callable[..., Service], session: Any) -> None:
    """One that is signed and no longer means anything to the server is the client's to drop, and not a fault."""
    running = start()
    token = paging.sign(b"\x01\x02no paging state", f"users {db_io.paging_scope(session)}")
    response = running.client.get("/users", params={"page_state": token})
    assert (response.status_code, "page_state" in response.json()["detail"]) == (400, True)


def test_links_keep_the_prefix_of_a_proxy(start: Callable[..., Service]) -> None:
    """Behind a proxy that serves the API under a path, Location and Link lead back through that path."""
    behind = start({"TRUSTED_PROXIES": "1"})
    headers = {"X-Forwarded-Prefix": "/field", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}
    created = behind.client.post("/users", json=USER, headers=headers)
    assert created.headers["Location"].startswith("/field/users/")
    assert behind.client.get("/users?limit=1", headers=headers).links["next"]["url"].startswith("/field/users?limit=1&")
    assert behind.client.get("/", headers=headers).json()["docs"] == "/field/docs"


def test_forwarded_headers_are_not_believed_without_a_proxy(live: Service) -> None:
    """A client cannot choose where the service's links lead."""
    created = live.client.post("/users", json=USER, headers={"X-Forwarded-Prefix": "/evil"})
    assert created.headers["Location"].startswith("/users/")


# --- batches -----------------------------------------------------------------------------------------------


def names_in(session: Any, keyspace: str) -> set[str]:
    return {name for (name,) in session.execute(f"SELECT name FROM {keyspace}.users")}


def test_batch_creates_all(live: Service) -> None:
    """Each user of a batch is created and can be read."""
    response = live.client.post("/users/batch", json=[USER | {"name": f"B {n}"} for n in range(100)])
    assert response.status_code == 201
    body = response.json()
    assert body["created"] == len(body["users"]) == 100
    assert [user["name"] for user in body["users"]] == [f"B {n}" for n in range(100)]
    for user in body["users"][::33]:
        assert live.client.get(f"/users/{user['id']}").json() == user


def test_one_bad_user_stops_the_batch(live: Service, session: Any, settings: Any) -> None:
    """The error names the index and the field of the bad user, and none of the others is stored."""
    mark = uuid.uuid4().hex
    users = [USER | {"name": mark} for _ in range(5)]
    users[3] = users[3] | {"age": 151}
    response = live.client.post("/users/batch", json=users)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", 3, "age"]]
    assert mark not in names_in(session, settings.cassandra_keyspace)


@pytest.mark.parametrize("count", [0, 101])
def test_batch_of_a_wrong_size(live: Service, count: int) -> None:
    response = live.client.post("/users/batch", json=[USER] * count)
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body"])


def test_batch_over_the_servers_size(live: Service, session: Any, settings: Any) -> None:
    """A batch that Cassandra finds too large is 413 and stores nothing."""
    mark = "🦉" * 100
    response = live.client.post("/users/batch", json=[USER | {"name": mark, "email": f"{'a' * 60}@example.org"}] * 100)
    assert response.status_code == 413
    assert mark not in names_in(session, settings.cassandra_keyspace)
