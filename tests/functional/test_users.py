"""Users over HTTP: create, read, update and delete, versions, pages and batches."""

from __future__ import annotations

import re
import string
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api import create_app
from settings import Settings
from storage.db_io.cluster import paging_scope
from tests.support import USER, Service
from web import pagination


@pytest.fixture
def create(live: Service) -> Callable[..., httpx.Response]:
    """Create a user and return the response: `create(name="Grace")`."""

    def create_user(**fields: Any) -> httpx.Response:
        response = live.client.post("/users", json=USER | fields)
        assert response.status_code == 201, response.text
        return response

    return create_user


def url(created: httpx.Response) -> str:
    return str(created.headers["Location"])


def test_created_user_can_be_read(live: Service, create: Callable[..., httpx.Response]) -> None:
    """POST returns the same user and ETag as a later GET, with times in UTC."""
    created = create(name="Grace 🐢")
    body = created.json()
    assert body.keys() == {"id", "name", "email", "age", "created_at", "updated_at"}
    assert (body["name"], body["email"], body["age"]) == ("Grace 🐢", USER["email"], 36)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", body["created_at"])
    assert url(created) == f"/users/{body['id']}"
    read = live.client.get(url(created))
    assert (read.status_code, read.json(), read.headers["ETag"]) == (200, body, created.headers["ETag"])


def test_put_replaces_all_fields_and_patch_some(live: Service, create: Callable[..., httpx.Response]) -> None:
    """PUT and PATCH return the same user as a later GET; PATCH keeps the fields that it does not name."""
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


def test_deleted_user_stays_deleted(live: Service, create: Callable[..., httpx.Response]) -> None:
    """GET, PUT and PATCH of a deleted user return 404, and neither PUT nor PATCH restores it."""
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
def test_invalid_user_id_is_rejected(live: Service, create: Callable[..., httpx.Response], method: str) -> None:
    """An id that is not a UUID in canonical form returns 400; a user that does not exist returns 404."""
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
        assert (response.status_code, response.json()["detail"]) == (
            400,
            "Invalid UUID: it must have 8-4-4-4-12 hexadecimal digits",
        )


# --- versions ----------------------------------------------------------------------------------------------


def test_if_none_match_returns_304_until_the_user_changes(live: Service, create: Callable[..., httpx.Response]) -> None:
    """A client with the current version gets 304 without a body; after a change it gets the user."""
    created = create()
    etag = created.headers["ETag"]
    fresh = live.client.get(url(created), headers={"If-None-Match": f'"other", {etag}'})
    assert (fresh.status_code, fresh.content, fresh.headers["ETag"]) == (304, b"", etag)
    live.client.patch(url(created), json={"age": 1})
    assert live.client.get(url(created), headers={"If-None-Match": etag}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_match_rejects_an_outdated_version(
    live: Service, create: Callable[..., httpx.Response], method: str
) -> None:
    """A write with an outdated or unknown ETag returns 412 and changes nothing."""
    created = create()
    changed = live.client.patch(url(created), json={"name": "Changed"})
    body = {"PUT": USER, "PATCH": {"age": 1}}.get(method)
    for tag in (created.headers["ETag"], '"nonsense"', "nonsense", '""', ",", ""):
        rejected = live.client.request(method, url(created), json=body, headers={"If-Match": tag})
        assert rejected.status_code == 412
    assert live.client.get(url(created)).json() == changed.json()


@pytest.mark.parametrize("form", ['"{}"', 'W/"{}"', '"{}-gzip"', 'W/"{}-gzip"', '"{};br"', '"x", "{}"', "*"])
def test_if_match_accepts_etags_that_a_proxy_modified(
    live: Service, create: Callable[..., httpx.Response], form: str
) -> None:
    """A proxy that compresses makes an ETag weak or adds a suffix; the version is still the same."""
    created = create()
    tag = form.format(created.headers["ETag"].strip('"'))
    patched = live.client.patch(url(created), json={"age": 1}, headers={"If-Match": tag})
    assert patched.status_code == 200
    tag = form.format(patched.headers["ETag"].strip('"'))
    assert live.client.delete(url(created), headers={"If-Match": tag}).status_code == 204


def test_if_match_on_a_deleted_user_is_rejected(live: Service, create: Callable[..., httpx.Response]) -> None:
    """DELETE returns 412 (the version does not exist); PUT and PATCH return 404 (the user does not exist)."""
    created = create()
    condition = {"If-Match": created.headers["ETag"]}
    live.client.delete(url(created))
    assert live.client.delete(url(created), headers=condition).status_code == 412
    assert live.client.delete(url(created), headers={"If-Match": "*"}).status_code == 412
    assert live.client.patch(url(created), json={"age": 1}, headers=condition).status_code == 404
    assert live.client.put(url(created), json=USER, headers=condition).status_code == 404


# --- pages -------------------------------------------------------------------------------------------------


@pytest.fixture
def populated(start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]) -> Service:
    """A service whose keyspace has 250 users: ages 0 to 99 twice, and ages 0 to 49 a third time."""
    add_users(keyspace, 250)
    return start({"CASSANDRA_KEYSPACE": keyspace})


def test_link_headers_lead_through_all_users(populated: Service) -> None:
    """Following Link headers returns each user once, in pages of the requested size."""
    seen: list[str] = []
    sizes = []
    next_url = "/users?limit=100"
    while next_url:
        response = populated.client.get(next_url)
        assert response.status_code == 200
        sizes.append(len(response.json()))
        seen += [user["id"] for user in response.json()]
        next_url = response.links.get("next", {}).get("url")
        assert len(sizes) < 10
    assert sizes[:3] == [100, 100, 50]
    assert sum(sizes[3:]) == 0
    assert len(set(seen)) == 250


def test_default_page_has_ten_users(populated: Service) -> None:
    assert len(populated.client.get("/users").json()) == 10


def test_page_states_lead_through_all_filtered_users(populated: Service) -> None:
    """The pages hold every user of at least the requested age, each once, and no other user."""
    seen: list[dict[str, Any]] = []
    state = None
    for _ in range(50):
        parameters: dict[str, Any] = {"fetch_size": 40, "age_filter": 30}
        page = populated.client.get("/users/stream/pages", params=parameters | ({"page_state": state} if state else {}))
        body = page.json()
        assert len(body["users"]) <= 40
        seen += body["users"]
        assert body["has_more"] == (body["page_state"] is not None)
        state = body["page_state"]
        if state is None:
            break
    assert len({user["id"] for user in seen}) == len(seen) == 160
    assert min(user["age"] for user in seen) == 30


def test_page_states_are_rejected_if_modified_or_used_for_another_query(populated: Service) -> None:
    """A page_state is valid only unmodified and for the query that returned it. Otherwise: 400."""
    filtered_state = populated.client.get("/users/stream/pages?fetch_size=10&age_filter=20").json()["page_state"]
    link = populated.client.get("/users?limit=10").links["next"]["url"]
    list_state = httpx.URL(link).params["page_state"]
    assert (
        populated.client.get("/users/stream/pages", params={"age_filter": 20, "page_state": filtered_state}).status_code
        == 200
    )
    requests = [
        ("/users/stream/pages", {"page_state": filtered_state}),
        ("/users/stream/pages", {"page_state": filtered_state, "age_filter": 21}),
        ("/users/stream/pages", {"page_state": list_state}),
        ("/users", {"page_state": filtered_state}),
        ("/users", {"page_state": list_state.split(".")[0]}),
        ("/users", {"page_state": "🦊"}),
        ("/users", {"page_state": ""}),
    ]
    # Each character is significant, including the last base64 character of the signature.
    for position in [0, 5, list_state.index(".") + 1, len(list_state) - 10, len(list_state) - 1]:
        for other in string.ascii_letters + string.digits + "-_":
            if list_state[position] != other:
                requests.append(("/users", {"page_state": list_state[:position] + other + list_state[position + 1 :]}))
    requests += [("/users", {"page_state": list_state + end}) for end in ("=", "!", "\n", " ", "\0", "é", ".a")]
    requests += [("/users", {"page_state": list_state[:-5] + inside + list_state[-5:]}) for inside in "=!~ \n"]
    for path, parameters in requests:
        response = populated.client.get(path, params=parameters)
        assert response.status_code == 400, (path, parameters, response.text)
        assert "page_state" in response.json()["detail"]


def test_page_state_that_cassandra_rejects_returns_400(
    start: Callable[..., Service], session: Any, settings: Settings
) -> None:
    """A correctly signed page_state that Cassandra no longer accepts is a client error."""
    running = start()
    with create_app(settings, session).app_context():
        token = pagination.sign(b"\x01\x02no paging state", f"users {paging_scope(session)}")
    response = running.client.get("/users", params={"page_state": token})
    assert (response.status_code, "page_state" in response.json()["detail"]) == (400, True)


def test_links_keep_the_path_prefix_of_a_proxy(start: Callable[..., Service]) -> None:
    """Behind a trusted proxy that adds a path prefix, Location and Link start with that prefix."""
    proxied = start({"TRUSTED_PROXIES": "1"})
    headers = {"X-Forwarded-Prefix": "/field", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}
    created = proxied.client.post("/users", json=USER, headers=headers)
    assert created.headers["Location"].startswith("/field/users/")
    assert (
        proxied.client.get("/users?limit=1", headers=headers).links["next"]["url"].startswith("/field/users?limit=1&")
    )
    assert proxied.client.get("/", headers=headers).json()["docs"] == "/field/docs"


def test_forwarded_headers_are_ignored_without_a_trusted_proxy(live: Service) -> None:
    """A client cannot change the service's links with X-Forwarded-Prefix."""
    created = live.client.post("/users", json=USER, headers={"X-Forwarded-Prefix": "/evil"})
    assert created.headers["Location"].startswith("/users/")


# --- batches -----------------------------------------------------------------------------------------------


def stored_names(session: Any, keyspace: str) -> set[str]:
    return {name for (name,) in session.execute(f"SELECT name FROM {keyspace}.users")}


def test_batch_creates_all_users(live: Service) -> None:
    """The users of a batch are returned in order, and each can be read."""
    response = live.client.post("/users/batch", json=[USER | {"name": f"B {n}"} for n in range(100)])
    assert response.status_code == 201
    body = response.json()
    assert body["created"] == len(body["users"]) == 100
    assert [user["name"] for user in body["users"]] == [f"B {n}" for n in range(100)]
    for user in body["users"][::33]:
        assert live.client.get(f"/users/{user['id']}").json() == user


def test_one_invalid_user_rejects_the_batch(live: Service, session: Any, settings: Any) -> None:
    """The error names the index and the field of the invalid user, and no user of the batch is stored."""
    name = uuid.uuid4().hex
    users = [USER | {"name": name} for _ in range(5)]
    users[3] = users[3] | {"age": 151}
    response = live.client.post("/users/batch", json=users)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", 3, "age"]]
    assert name not in stored_names(session, settings.cassandra_keyspace)


@pytest.mark.parametrize("count", [0, 101])
def test_batch_with_too_few_or_too_many_users_is_rejected(live: Service, count: int) -> None:
    response = live.client.post("/users/batch", json=[USER] * count)
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body"])


def test_batch_over_cassandras_size_limit_is_rejected(live: Service, session: Any, settings: Any) -> None:
    """A batch that Cassandra rejects as too large returns 413 and stores nothing."""
    name = "🦉" * 100
    response = live.client.post("/users/batch", json=[USER | {"name": name, "email": f"{'a' * 60}@example.org"}] * 100)
    assert response.status_code == 413
    assert name not in stored_names(session, settings.cassandra_keyspace)
