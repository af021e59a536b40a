"""Users over HTTP: create, read, update and delete, versions, pages, the age filter and batches."""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent_with_args

from settings import Settings
from storage import db_connect
from storage.cql import QueryOptions
from storage.cql.statement import cql_text
from storage.db_io import users
from storage.db_io.users import INSERT_USER, SELECT_USERS_BY_AGE
from tests.functional.problems import assert_problem
from tests.support import Service, service
from tests.testbed import database

USER = {"name": "Ada", "email": "ada@example.org", "age": 36}


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


@pytest.fixture(scope="module")
def add_users(session: Session) -> Callable[[str, int], None]:
    """Insert users of ages 0 to 99: `add_users(keyspace, 1000)`."""

    def insert_users(keyspace: str, count: int) -> None:
        rows = [users.TABLE.new(USER | {"age": number % 100}) for number in range(count)]
        execute_concurrent_with_args(session, session.prepare(cql_text(INSERT_USER, keyspace)), rows)

    return insert_users


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


def test_every_route_and_format_encodes_a_user_identically(live: Service) -> None:
    """Rows that Cassandra encodes as JSON equal those that the service encodes.

    The user has special characters in its name, and times.
    """
    name = r""""created_at": "2020-01-01 00:00:00.000Z" \\ 'é' 🦊 {"id": 1}, ],"""
    posted = live.client.post("/users", json={"name": name, "email": "alike@example.org", "age": 150})
    assert posted.status_code == 201, posted.text
    user = posted.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", user["created_at"])
    assert live.client.get(f"/users/{user['id']}").json() == user

    def streamed(accept: str) -> str:
        return live.client.get("/users/stream?limit=100000&age_filter=150", headers={"Accept": accept}).text

    pages = live.client.get("/users/stream/pages?fetch_size=5000&age_filter=150").json()["users"]
    csv_rows = [row | {"age": int(row["age"])} for row in csv.DictReader(io.StringIO(streamed("text/csv")))]
    ndjson_rows = [json.loads(line) for line in streamed("application/x-ndjson").splitlines()]
    listed = live.client.get("/users?limit=100")
    list_rows = listed.json()
    while user not in list_rows and "next" in listed.links:
        listed = live.client.get(listed.links["next"]["url"])
        list_rows += listed.json()
    for rows_found in (pages, csv_rows, ndjson_rows, json.loads(streamed("application/json")), list_rows):
        assert user in rows_found


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


# --- pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def populated(
    environment: dict[str, str],
    settings: Settings,
    session: Session,
    add_users: Callable[[str, int], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service whose keyspace has 250 users: ages 0 to 99 twice, and ages 0 to 49 a third time."""
    with database.new_keyspace(session, settings) as name:
        add_users(name, 250)
        variables = environment | {"CASSANDRA_KEYSPACE": name}
        with service(variables, tmp_path_factory.mktemp("populated") / "log") as running:
            yield running


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


def test_limit_of_filtered_pages_counts_the_users_that_are_returned(populated: Service) -> None:
    """The pages have as many users in total as the limit; the filter skips others."""
    sizes, state = [], None
    for _ in range(10):
        parameters: dict[str, Any] = {"limit": 75, "fetch_size": 30, "age_filter": 30}
        page = populated.client.get("/users/stream/pages", params=parameters | ({"page_state": state} if state else {}))
        sizes.append(len(page.json()["users"]))
        state = page.json()["page_state"]
        if state is None:
            break
    assert (sum(sizes), max(sizes), page.json()["has_more"]) == (75, 30, False)
    empty = populated.client.get("/users/stream/pages?limit=0")
    assert (empty.status_code, empty.text) == (200, '{"users":[],"has_more":false,"page_state":null}')


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
        ("/users", {"page_state": f"{list_state}x"}),
        ("/users/stream/pages", {"page_state": f"{filtered_state}x", "age_filter": 20}),
    ]
    for path, parameters in requests:
        response = populated.client.get(path, params=parameters)
        assert response.status_code == 400, (path, parameters, response.text)
        assert "page_state" in response.json()["detail"]


# --- age filter ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/users/stream?age_filter=-1", "age_filter"),
        ("/users/stream?age_filter=151", "age_filter"),
        ("/users/stream?age_filter=NaN", "age_filter"),
        ("/users/stream?age_filter='; DROP TABLE users; --", "age_filter"),
        ("/users/stream?agefilter=30", "agefilter"),
        ("/users/stream/pages?fetch_size=-1", "fetch_size"),
        ("/users/stream/pages?age_filter=x", "age_filter"),
    ],
)
def test_invalid_filters_are_rejected(live: Service, path: str, name: str) -> None:
    """A misspelled filter is an error too: otherwise the response would have all users."""
    problem = assert_problem(live.client.get(path), 422)
    assert problem["errors"][0]["loc"] == ["query", name]


def test_age_filter_returns_users_of_at_least_that_age(
    start: Callable[..., Service], keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """A stream with age_filter has every user of at least that age, and no other user."""
    add_users(keyspace, 1000)
    running = start({"CASSANDRA_KEYSPACE": keyspace})
    ages = [row["age"] for row in running.client.get("/users/stream?limit=5000&fetch_size=10&age_filter=90").json()]
    assert sorted(ages) == [age for age in range(90, 100) for _ in range(10)]


@pytest.mark.usefixtures("needs_cassandra_5")
def test_age_filter_uses_the_index(session: Session, settings: Settings) -> None:
    """Cassandra reads the index on the age; it does not filter all rows."""
    cql = cql_text(SELECT_USERS_BY_AGE, settings.cassandra_keyspace)
    trace = session.execute(session.prepare(cql), (90,), trace=True).get_query_trace()
    assert any("users_age" in event.description for event in trace.events)


def test_age_filter_works_without_the_index(
    session: Session, settings: Settings, keyspace: str, add_users: Callable[[str, int], None]
) -> None:
    """Without the index, Cassandra filters the rows itself and returns the same users, page by page."""
    add_users(keyspace, 300)
    session.execute(f"DROP INDEX IF EXISTS {keyspace}.users_age", timeout=60)
    own_session = db_connect.open_session(settings, keyspace)
    try:
        pages = list(users.stream_users(own_session, 1000, 10, 95, QueryOptions()))
        assert sum(map(len, pages)) == 15
        first = users.retrieve_users_page(own_session, 10, 95, None, QueryOptions())
        second = users.retrieve_users_page(own_session, 10, 95, first.paging_state, QueryOptions())
        assert first.paging_state is not None
        assert len(set(first.rows + second.rows)) == 15
    finally:
        own_session.cluster.shutdown()


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
    batch = [USER | {"name": name} for _ in range(5)]
    batch[3] = batch[3] | {"age": 151}
    response = live.client.post("/users/batch", json=batch)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", 3, "age"]]
    assert name not in stored_names(session, settings.cassandra_keyspace)


@pytest.mark.parametrize("count", [0, 101])
def test_batch_with_too_few_or_too_many_users_is_rejected(live: Service, count: int) -> None:
    response = live.client.post("/users/batch", json=[USER] * count)
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body"])
