"""Features that all resources with a server-generated id share: versions, pages and batches."""

from __future__ import annotations

import string
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from api import create_app
from settings import Settings
from storage.db_io.cluster import paging_scope
from tests.support import OBSERVER, Service, service, wait_for
from tests.testbed import database
from web import pagination


@pytest.fixture
def create(live: Service) -> Callable[..., httpx.Response]:
    """Create an observer and return the response: `create(name="Grace")`."""

    def create_observer(**fields: Any) -> httpx.Response:
        response = live.client.post("/observers", json=OBSERVER | fields)
        assert response.status_code == 201, response.text
        return response

    return create_observer


def url(created: httpx.Response) -> str:
    return str(created.headers["Location"])


def test_deleted_observer_stays_deleted(live: Service, create: Callable[..., httpx.Response]) -> None:
    """GET, PUT and PATCH of a deleted observer return 404, and neither PUT nor PATCH restores it."""
    created = create()
    assert live.client.delete(url(created)).status_code == 204
    assert live.client.delete(url(created)).status_code == 204
    for response in (
        live.client.get(url(created)),
        live.client.put(url(created), json=OBSERVER),
        live.client.patch(url(created), json={"age": 1}),
    ):
        assert (response.status_code, response.json()["detail"]) == (404, "Observer not found")
    assert live.client.get(url(created)).status_code == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_invalid_observer_id_is_rejected(live: Service, create: Callable[..., httpx.Response], method: str) -> None:
    """An id that is not a UUID in canonical form returns 400; an observer that does not exist returns 404."""
    body = OBSERVER if method in ("PUT", "PATCH") else None
    real = create().json()["id"]
    for text in (
        "not-a-uuid",
        f"%7B{real}%7D",
        f"urn:uuid:{real}",
        real.replace("-", ""),
        f"%20{real}",
        f"+{real[1:]}",
    ):
        response = live.client.request(method, f"/observers/{text}", json=body)
        assert (response.status_code, response.json()["detail"]) == (
            400,
            "Invalid UUID: it must have 8-4-4-4-12 hexadecimal digits",
        )


# --- versions ----------------------------------------------------------------------------------------------


def test_if_none_match_returns_304_until_the_observer_changes(
    live: Service, create: Callable[..., httpx.Response]
) -> None:
    """A client with the current version gets 304 without a body; after a change it gets the observer."""
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
    body = {"PUT": OBSERVER, "PATCH": {"age": 1}}.get(method)
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


def test_if_match_on_a_deleted_observer_is_rejected(live: Service, create: Callable[..., httpx.Response]) -> None:
    """DELETE returns 412 (the version does not exist); PUT and PATCH return 404 (the observer does not exist)."""
    created = create()
    condition = {"If-Match": created.headers["ETag"]}
    live.client.delete(url(created))
    assert live.client.delete(url(created), headers=condition).status_code == 412
    assert live.client.delete(url(created), headers={"If-Match": "*"}).status_code == 412
    assert live.client.patch(url(created), json={"age": 1}, headers=condition).status_code == 404
    assert live.client.put(url(created), json=OBSERVER, headers=condition).status_code == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("form", ["*", '"{}"', 'W/"{}"', '"x", "{}"', '"{}-gzip"'])
def test_if_none_match_rejects_a_write_to_the_given_version(
    live: Service, create: Callable[..., httpx.Response], method: str, form: str
) -> None:
    """A write whose If-None-Match has the current version returns 412 and changes nothing."""
    created = create()
    tag = form.format(created.headers["ETag"].strip('"'))
    body = {"PUT": OBSERVER, "PATCH": {"age": 1}}.get(method)
    for condition in ({}, {"If-Match": created.headers["ETag"]}, {"If-Match": "*"}, {"If-Match": '"other"'}):
        headers = {"If-None-Match": tag} | condition
        assert live.client.request(method, url(created), json=body, headers=headers).status_code == 412
    read = live.client.get(url(created))
    assert (read.json(), read.headers["ETag"]) == (created.json(), created.headers["ETag"])


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_if_none_match_accepts_a_write_to_another_version(
    live: Service, create: Callable[..., httpx.Response], method: str
) -> None:
    """A write whose If-None-Match has only other versions succeeds, also with If-Match."""
    created = create()
    current = live.client.patch(url(created), json={"name": "Changed"}).headers["ETag"]
    body = {"PUT": OBSERVER, "PATCH": {"age": 1}}.get(method)
    if method != "DELETE":
        unknown = live.client.request(method, url(created), json=body, headers={"If-None-Match": '"nonsense"'})
        assert unknown.status_code == 200
        current = unknown.headers["ETag"]
    headers = {"If-None-Match": created.headers["ETag"], "If-Match": current}
    written = live.client.request(method, url(created), json=body, headers=headers)
    assert written.status_code == (204 if method == "DELETE" else 200)
    assert live.client.get(url(created)).status_code == (404 if method == "DELETE" else 200)


@pytest.mark.parametrize("tag", ["*", '"nonsense"'])
def test_if_none_match_on_an_observer_that_does_not_exist(live: Service, tag: str) -> None:
    """PUT and PATCH return 404 and create nothing. DELETE returns 204, but 412 with If-Match."""
    path, headers = f"/observers/{uuid.uuid4()}", {"If-None-Match": tag}
    assert live.client.put(path, json=OBSERVER, headers=headers).status_code == 404
    assert live.client.patch(path, json={"age": 1}, headers=headers).status_code == 404
    assert live.client.get(path, headers=headers).status_code == 404
    assert live.client.delete(path, headers=headers).status_code == 204
    assert live.client.delete(path, headers=headers | {"If-Match": "*"}).status_code == 412


def test_head_returns_304_as_get_does(live: Service, create: Callable[..., httpx.Response]) -> None:
    created = create()
    for tag in (created.headers["ETag"], "*"):
        for method in ("GET", "HEAD"):
            fresh = live.client.request(method, url(created), headers={"If-None-Match": tag})
            assert (fresh.status_code, fresh.content, fresh.headers["ETag"]) == (304, b"", created.headers["ETag"])
    assert live.client.head(url(created), headers={"If-None-Match": '"nonsense"'}).status_code == 200


# --- pages -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def populated(
    environment: dict[str, str],
    settings: Settings,
    session: Session,
    add_observers: Callable[[str, int], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    """A service whose keyspace has 250 observers: ages 0 to 99 twice, and ages 0 to 49 a third time."""
    with database.new_keyspace(session, settings) as name:
        add_observers(name, 250)
        variables = environment | {"CASSANDRA_KEYSPACE": name}
        with service(variables, tmp_path_factory.mktemp("populated") / "log") as running:
            yield running


def test_link_headers_lead_through_all_observers(populated: Service) -> None:
    """Following Link headers returns each observer once, in pages of the requested size."""
    seen: list[str] = []
    sizes = []
    next_url = "/observers?limit=100"
    while next_url:
        response = populated.client.get(next_url)
        assert response.status_code == 200
        sizes.append(len(response.json()))
        seen += [observer["id"] for observer in response.json()]
        next_url = response.links.get("next", {}).get("url")
        assert len(sizes) < 10
    assert sizes[:3] == [100, 100, 50]
    assert sum(sizes[3:]) == 0
    assert len(set(seen)) == 250


def test_page_states_are_rejected_if_modified_or_used_for_another_query(populated: Service) -> None:
    """A page_state is valid only unmodified and for the query that returned it. Otherwise: 400."""
    for number in range(2):
        populated.client.post("/find", json={"genus": "Quercus", "species": f"species {number}"})
    links = [
        populated.client.get(path).links["next"]["url"] for path in ("/observers?limit=10", "/find/Quercus?limit=1")
    ]
    state, find_state = (httpx.URL(link).params["page_state"] for link in links)
    for link in links:
        assert populated.client.get(link).status_code == 200
    requests = [
        ("/observers", {"page_state": find_state}),
        ("/find/Quercus", {"limit": 1, "page_state": state}),
        ("/find/Quercus", {"limit": 1, "page_state": find_state, "order": "desc"}),
        ("/find/Primula", {"limit": 1, "page_state": find_state}),
        ("/observers", {"page_state": state.split(".")[0]}),
        ("/observers", {"page_state": "🦊"}),
        ("/observers", {"page_state": ""}),
    ]
    # Each character is significant, including the last base64 character of the signature.
    for position in [0, 5, state.index(".") + 1, len(state) - 10, len(state) - 1]:
        for other in string.ascii_letters + string.digits + "-_":
            if state[position] != other:
                requests.append(("/observers", {"page_state": state[:position] + other + state[position + 1 :]}))
    requests += [("/observers", {"page_state": state + end}) for end in ("=", "!", "\n", " ", "\0", "é", ".a")]
    requests += [("/observers", {"page_state": state[:-5] + inside + state[-5:]}) for inside in "=!~ \n"]
    for path, parameters in requests:
        response = populated.client.get(path, params=parameters)
        assert response.status_code == 400, (path, parameters, response.text)
        assert "page_state" in response.json()["detail"]


def test_page_state_that_cassandra_rejects_returns_400(live: Service, session: Any, settings: Settings) -> None:
    """A correctly signed page_state that Cassandra no longer accepts is a client error."""
    with create_app(settings, session).app_context():
        token = pagination.sign(b"\x01\x02no paging state", f"/observers [] {paging_scope(session)}")
    response = live.client.get("/observers", params={"page_state": token})
    assert (response.status_code, response.json()["detail"]) == (400, "Cassandra no longer accepts this page_state.")
    # The driver closed its connection after this error. The next tests need a new one.
    wait_for(live.healthy, description="a new connection to Cassandra")


# --- batches -----------------------------------------------------------------------------------------------


def stored_names(session: Any, keyspace: str) -> set[str]:
    return {name for (name,) in session.execute(f"SELECT name FROM {keyspace}.observers")}


def test_batch_creates_all_observers(live: Service) -> None:
    """The observers of a batch are returned in order, and each can be read."""
    response = live.client.post("/observers/batch", json=[OBSERVER | {"name": f"B {n}"} for n in range(100)])
    assert response.status_code == 201
    body = response.json()
    assert body["created"] == len(body["observers"]) == 100
    assert [observer["name"] for observer in body["observers"]] == [f"B {n}" for n in range(100)]
    for observer in body["observers"][::33]:
        assert live.client.get(f"/observers/{observer['id']}").json() == observer


def test_one_invalid_observer_rejects_the_batch(live: Service, session: Any, settings: Any) -> None:
    """The error names the index and the field of the invalid observer, and no observer of the batch is stored."""
    name = uuid.uuid4().hex
    observers = [OBSERVER | {"name": name} for _ in range(5)]
    observers[3] = observers[3] | {"age": 151}
    response = live.client.post("/observers/batch", json=observers)
    assert response.status_code == 422
    assert [error["loc"] for error in response.json()["errors"]] == [["body", 3, "age"]]
    assert name not in stored_names(session, settings.cassandra_keyspace)


@pytest.mark.parametrize("count", [0, 101])
def test_batch_with_too_few_or_too_many_observers_is_rejected(live: Service, count: int) -> None:
    response = live.client.post("/observers/batch", json=[OBSERVER] * count)
    assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, ["body"])


def test_batch_over_cassandras_size_limit_is_rejected(live: Service, session: Any, settings: Any) -> None:
    """A batch that Cassandra rejects as too large returns 413 and stores nothing."""
    name = "🦉" * 100
    response = live.client.post(
        "/observers/batch", json=[OBSERVER | {"name": name, "email": f"{'a' * 60}@example.org"}] * 100
    )
    assert response.status_code == 413
    assert name not in stored_names(session, settings.cassandra_keyspace)


def test_links_lead_through_the_pages_of_a_partition_with_any_name(live: Service) -> None:
    """The path in a Link is escaped, so that a client can use it as it is."""
    genus = f"été #1? & 100 % +{uuid.uuid4().hex[:6]}"
    for species in ("a", "b", "c"):
        created = live.client.post("/find", json={"genus": genus, "species": species})
        assert created.status_code == 201
    seen, url = [], created.headers["Location"].rpartition("/")[0] + "?limit=2&from=b&order=desc"
    while url:
        page = live.client.get(url)
        seen += [row["species"] for row in page.json()]
        url = page.links.get("next", {}).get("url")
    assert seen == ["c", "b"]
