"""Imports over HTTP: rows from files, errors by line, and background jobs."""

from __future__ import annotations

import gzip
import json
import threading
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cassandra.cluster import Session

from jobs.engine import Engine
from jobs.imports import upload
from jobs.imports.kind import Imports, kinds_of_jobs
from settings import Settings
from storage.cql import QueryOptions
from storage.cql.bulk_write import pack_rows, row_binder
from storage.db_io.import_chunks import Chunk, delete_chunks, read_chunk, store_chunk
from storage.db_io.jobs import create_job, find_job, new_job
from storage.errors import StorageTimeout, StorageUnavailable
from tests.support import OBSERVER, Service, TcpProxy, wait_for
from tests.testbed.app import RESOURCES, create_app
from tests.testbed.database import count_chunks
from tests.testbed.db_io.finds import TABLE as FINDS

NDJSON = {"Content-Type": "application/x-ndjson"}
CSV = {"Content-Type": "text/csv"}


@pytest.fixture
def genus() -> str:
    """A genus that no other test uses."""
    return f"Genus {uuid.uuid4().hex}"


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in documents)


def finds(genus: str, count: int) -> bytes:
    return lines(*({"genus": genus, "species": f"s{number:06}", "sightings": number} for number in range(count)))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("as_form", [False, True])
@pytest.mark.parametrize("file_format", ["csv", "ndjson"])
def test_valid_lines_are_written_and_others_are_reported(
    live: Service, genus: str, file_format: str, as_form: bool, compressed: bool
) -> None:
    if file_format == "csv":
        data = f"genus,species,sightings\n{genus},a,1\n{genus},b,x\n\n{genus},c,\n".encode()
        error = {
            "line": 3,
            "loc": ["sightings"],
            "msg": "Input should be JSON: a number, true, false, an array or an object",
        }
        headers = dict(CSV)
    else:
        data = lines(
            {"genus": genus, "species": "a", "sightings": 1}, {"genus": genus}, {"genus": genus, "species": "c"}
        )
        error = {"line": 2, "loc": ["species"], "msg": "Field required"}
        headers = dict(NDJSON)
    if as_form:
        request = httpx.Request("POST", "http://x", files={"file": (f"file.{file_format}", data)})
        data, headers = request.read(), {"Content-Type": request.headers["Content-Type"]}
    if compressed:
        data, headers = gzip.compress(data), headers | {"Content-Encoding": "gzip"}
    response = live.client.post("/find/import", content=data, headers=headers)
    assert (response.status_code, response.json()) == (200, {"read": 3, "written": 2, "failed": 1, "errors": [error]})
    assert live.client.get(f"/find/{genus}").json() == [
        {"genus": genus, "species": "a", "sightings": 1},
        {"genus": genus, "species": "c", "sightings": 0},
    ]


def test_imported_rows_with_generated_ids_are_like_created_ones(live: Service) -> None:
    email = f"{uuid.uuid4().hex}@example.org"
    response = live.client.post("/observers/import", content=lines(OBSERVER | {"email": email}) * 2, headers=NDJSON)
    assert response.json() == {"read": 2, "written": 2, "failed": 0, "errors": []}
    stored = [each for each in live.client.get("/observers/stream?limit=1000000").json() if each["email"] == email]
    assert len({each["id"] for each in stored}) == 2
    url = f"/observers/{stored[0]['id']}"
    read = live.client.get(url)
    assert read.json() == stored[0]
    changed = live.client.patch(url, json={"age": 37}, headers={"If-Match": read.headers["ETag"]})
    assert (changed.status_code, changed.json()["age"]) == (200, 37)
    assert live.client.patch(url, json={"age": 38}, headers={"If-Match": read.headers["ETag"]}).status_code == 412
    assert live.client.delete(url).status_code == 204
    assert live.client.get(url).status_code == 404


def test_repeating_a_chunk_changes_no_newer_row(
    live: Service, session: Session, settings: Settings, genus: str
) -> None:
    """A late attempt of an import writes its rows again. Rows that were changed or deleted meanwhile stay so."""
    email = f"{uuid.uuid4().hex}@example.org"
    started = [
        live.client.post("/find/import?background=1", content=finds(genus, 3), headers=NDJSON),
        live.client.post(
            "/observers/import?background=1", content=lines(OBSERVER | {"email": email}) * 2, headers=NDJSON
        ),
    ]
    kind = kinds_of_jobs(RESOURCES)["import"]
    jobs = [find_job(session, uuid.UUID(each.json()["id"]), QueryOptions()) for each in started]

    def write() -> None:
        for job in jobs:
            assert kind.step(session, job, QueryOptions()).rows == job.rows_total

    def observers() -> list[Any]:
        stream = live.client.get("/observers/stream?limit=1000000").json()
        return [each for each in stream if each["email"] == email]

    write()
    first, second = observers()
    changed = live.client.patch(f"/observers/{first['id']}", json={"age": 99}).json()
    live.client.delete(f"/observers/{second['id']}")
    live.client.post("/find", json={"genus": genus, "species": "s000000", "sightings": 77})
    live.client.delete(f"/find/{genus}/s000001")
    write()
    assert observers() == [changed]
    assert {each["species"]: each["sightings"] for each in live.client.get(f"/find/{genus}").json()} == {
        "s000000": 77,
        "s000002": 2,
    }


def test_last_of_several_lines_with_the_same_key_wins(live: Service, genus: str) -> None:
    """The last line wins with all of its columns, in one batch and in different chunks."""
    first = {"genus": genus, "species": "twice", "sightings": 9}
    last = first | {"sightings": 2}
    data = lines(first, last) + finds(genus, 9000) + lines(first, last)
    assert live.client.post("/find/import", content=data, headers=NDJSON).json()["written"] == 9004
    assert live.client.get(f"/find/{genus}/twice").json() == last


def test_strict_writes_nothing_unless_every_line_is_valid(live: Service, session: Session, genus: str) -> None:
    before = count_chunks(session)
    data = finds(genus, 300) + b"x\n" * 150
    response = live.client.post("/find/import?strict=1", content=data, headers=NDJSON)
    problem = response.json()
    assert (response.status_code, len(problem["errors"])) == (422, 100)
    assert problem["errors"][0]["loc"] == ["body", 301]
    assert "150" in problem["detail"]
    assert live.client.get(f"/find/{genus}").json() == []
    assert count_chunks(session) == before
    assert live.client.post("/find/import?strict=true", content=finds(genus, 2), headers=NDJSON).status_code == 200


def test_first_hundred_errors_are_returned(live: Service) -> None:
    response = live.client.post("/find/import", content=b"{}\n" * 1000, headers=NDJSON).json()
    assert (response["read"], response["written"], response["failed"]) == (1000, 0, 1000)
    assert len(response["errors"]) == 100


def test_a_file_that_cannot_be_read_is_refused(live: Service, session: Session) -> None:
    before = count_chunks(session)
    response = live.client.post("/find/import", content=b"genus,species,size\nA,b,1\n", headers=CSV)
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", 1]
    assert "Column 3" in response.json()["detail"]
    # The quotation mark is missing after chunks were stored.
    data = b"genus,species\n" + b"".join(b"Genus x,%d\n" % number for number in range(60_000)) + b'"A,b\n'
    response = live.client.post("/find/import", content=data, headers=CSV)
    assert response.status_code == 422
    assert "no closing quotation mark" in response.json()["detail"]
    assert live.client.get("/find/Genus x").json() == []
    assert count_chunks(session) == before


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {"Content-Type": "application/json"}, 415),
        ("", {}, 415),
        ("", CSV | {"Content-Encoding": "br"}, 415),
        ("", CSV | {"Content-Encoding": "gzip"}, 400),
        ("", {"Content-Type": "multipart/form-data"}, 400),
        ("?background=yes", CSV, 422),
        ("?unknown=1", CSV, 422),
        ("", CSV | {"X-Consistency-Level": "ONE"}, 422),
        ("", CSV | {"Accept": "text/html"}, 406),
    ],
)
def test_invalid_requests_are_rejected(live: Service, query: str, headers: dict[str, str], status: int) -> None:
    response = live.client.post(f"/find/import{query}", content=b"genus,species\nA,b\n", headers=headers)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")


def test_get_on_the_path_of_an_import_is_the_list_of_that_genus(live: Service) -> None:
    live.client.post("/find", json={"genus": "import", "species": "a"})
    assert live.client.get("/find/import").json() == [{"genus": "import", "species": "a", "sightings": 0}]
    assert live.client.get("/observers/import").status_code == 405


# --- jobs ------------------------------------------------------------------------------------------------------


@pytest.fixture
def work(session: Session, settings: Settings) -> Callable[[str], str]:
    """Do the work of a job worker: `work(job_id)`."""
    engine = Engine(kinds_of_jobs(RESOURCES), lease=30, timeout=10)
    return lambda job_id: engine.work(session, uuid.UUID(job_id))


def test_many_rows_become_a_job(live: Service, session: Session, genus: str, work: Callable[[str], str]) -> None:
    before = count_chunks(session)
    response = live.client.post("/find/import", content=finds(genus, 10_001) + b"x\n", headers=NDJSON)
    assert response.status_code == 202
    url = response.headers["Location"]
    queued = live.client.get(url).json()
    assert queued == response.json()
    assert (queued["state"], queued["rows_failed"], queued["percent"], queued["result"]) == ("queued", 1, 0.0, None)
    assert live.client.get(f"/find/{genus}").json() == []
    assert count_chunks(session) > before
    assert work(queued["id"]) == "ended"
    done = live.client.get(url).json()
    assert (done["state"], done["percent"], done["attempts"]) == ("succeeded", 100.0, 1)
    assert done["bytes_done"] == done["bytes_total"]
    assert done["result"] == {"read": 10_002, "written": 10_001, "failed": 1}
    assert [each["line"] for each in done["errors"]] == [10_002]
    assert len(live.client.get(f"/find/{genus}").json()) == 10_001
    assert count_chunks(session) == before


def test_ten_thousand_rows_are_written_during_the_request(live: Service, genus: str) -> None:
    response = live.client.post("/find/import", content=finds(genus, 10_000), headers=NDJSON)
    assert (response.status_code, response.json()["written"]) == (200, 10_000)
    assert len(live.client.get(f"/find/{genus}").json()) == 10_000


def test_a_request_works_on_an_import_until_its_deadline(
    session: Session, settings: Settings, genus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []

    def work(engine: Engine, session: Session, job_id: uuid.UUID, limit: float) -> str:
        seconds.append(limit)
        return "continue"

    monkeypatch.setattr(Engine, "work", work)
    client = create_app(settings, session).test_client()
    for headers in ({}, {"X-Request-Timeout": "5"}, {"X-Request-Timeout": "60"}):
        with client.post("/find/import", data=finds(genus, 3), headers=NDJSON | headers) as response:
            assert response.status_code == 202
    assert seconds[0] == seconds[2] == 20
    assert 0 < seconds[1] <= 5


def test_jobs_are_listed_newest_first_and_by_state(live: Service, genus: str, work: Callable[[str], str]) -> None:
    def start() -> str:
        return str(live.client.post("/find/import?background=1", content=finds(genus, 1), headers=NDJSON).json()["id"])

    first, second = start(), start()
    work(first)
    listed = [each["id"] for each in live.client.get("/jobs?limit=100").json()]
    assert listed.index(second) < listed.index(first)
    queued = live.client.get("/jobs?state=queued&limit=100").json()
    assert second in [each["id"] for each in queued]
    assert {each["state"] for each in queued} == {"queued"}
    page = live.client.get("/jobs?limit=1")
    assert [each["id"] for each in page.json()] == [second]
    assert [each["id"] for each in live.client.get(page.links["next"]["url"]).json()] == [first]


def test_a_cancelled_job_writes_nothing(
    live: Service, session: Session, genus: str, work: Callable[[str], str]
) -> None:
    before = count_chunks(session)
    url = live.client.post("/find/import?background=1", content=finds(genus, 5), headers=NDJSON).headers["Location"]
    cancelled = live.client.delete(url)
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    assert work(cancelled.json()["id"]) == "ended"
    assert live.client.get(f"/find/{genus}").json() == []
    assert count_chunks(session) == before
    assert live.client.delete(url).status_code == 409
    assert live.client.post(f"{url}/retry").status_code == 409


def test_a_failed_job_can_be_retried(live: Service, session: Session, genus: str, work: Callable[[str], str]) -> None:
    started = live.client.post("/find/import?background=1", content=finds(genus, 5), headers=NDJSON)
    url, job_id = started.headers["Location"], started.json()["id"]
    chunk = read_chunk(session, uuid.UUID(job_id), 0, QueryOptions())
    delete_chunks(session, uuid.UUID(job_id), 1, QueryOptions())
    assert work(job_id) == "ended"
    failed = live.client.get(url).json()
    assert (failed["state"], "have expired. Send the file again." in failed["failure"]) == ("failed", True)
    store_chunk(session, uuid.UUID(job_id), 0, chunk, QueryOptions())
    retried = live.client.post(f"{url}/retry")
    assert (retried.status_code, retried.json()["state"], retried.headers["Location"]) == (202, "queued", url)
    assert work(job_id) == "ended"
    assert live.client.get(url).json()["state"] == "succeeded"
    assert len(live.client.get(f"/find/{genus}").json()) == 5


def test_import_of_an_unknown_resource_is_left_to_another_worker(
    live: Service, session: Session, genus: str, work: Callable[[str], str]
) -> None:
    """During a release, an old worker may get an import of a new resource."""
    started = live.client.post("/find/import?background=1", content=finds(genus, 5), headers=NDJSON).json()
    assert Engine({"import": Imports({})}, 30, 10).work(session, uuid.UUID(started["id"])) == "later"
    waiting = live.client.get(f"/jobs/{started['id']}").json()
    assert (waiting["state"], waiting["failure"]) == ("queued", "This version of the service has no resource finds.")
    wait_for(lambda: work(started["id"]) == "ended", description="the end of the backoff")
    assert len(live.client.get(f"/find/{genus}").json()) == 5


def test_a_row_that_cassandra_rejects_fails_the_job_at_once(
    session: Session, genus: str, work: Callable[[str], str]
) -> None:
    """The models of the resources accept no such row, but another version of them may have."""
    insert = FINDS.insert
    assert insert is not None
    bind = row_binder(session, insert, QueryOptions())
    values = {"genus": genus, "species": "a", "sightings": 1}
    rows = [
        bind([(values | changes)[column] for column in insert.columns]) for changes in ({}, {"genus": "x" * 70_000})
    ]
    job = new_job("import", "finds", "tests")._replace(chunks=1, rows_total=2)
    store_chunk(session, job.id, 0, Chunk(2, 100, pack_rows(insert.columns, rows)), QueryOptions())
    create_job(session, job, QueryOptions())
    assert work(str(job.id)) == "ended"
    failed = find_job(session, job.id, QueryOptions(), serial=True)
    assert (failed.state, failed.attempts, failed.failure) == (
        "failed",
        1,
        "Cassandra rejects one of the valid rows 1 to 2 of the file: "
        "Key length of 70000 is longer than maximum of 65535",
    )


@pytest.mark.parametrize("job_id", ["6a7f5a1e-ccf1-11f0-8d3e-325096b39f47", "0b6a2a34-6a0e-4b0c-9a55-3f5a2d8f3f1c"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("DELETE", ""), ("POST", "/retry")])
def test_unknown_jobs_are_not_found(live: Service, method: str, suffix: str, job_id: str) -> None:
    assert live.client.request(method, f"/jobs/{job_id}{suffix}").status_code == 404


def test_accounts_see_their_own_jobs_and_operators_all(as_account: Callable[..., httpx.Client], genus: str) -> None:
    owner, other = as_account(scopes=("operator",)), as_account(scopes=("operator",))
    reader = as_account(scopes=("read", "write"))
    assert reader.post("/find/import", content=finds(genus, 1), headers=NDJSON).status_code == 403
    url = owner.post("/find/import?background=1", content=finds(genus, 1), headers=NDJSON).headers["Location"]
    assert len(owner.get("/jobs").json()) == 1
    assert other.get("/jobs").json() == reader.get("/jobs").json() == []
    assert (owner.get(url).status_code, other.get(url).status_code, reader.get(url).status_code) == (200, 200, 404)
    assert reader.delete(url).status_code == 404
    assert other.delete(url).status_code == 202


# --- faults ----------------------------------------------------------------------------------------------------


def test_import_continues_in_the_background_if_cassandra_fails_while_it_writes(
    start: Callable[..., Service], session: Session, proxy: TcpProxy, genus: str, work: Callable[[str], str]
) -> None:
    running = start(
        {"CASSANDRA_PORT": str(proxy.port), "REQUEST_TIMEOUT": "1", "JOB_LEASE": "2", "WEB_CONCURRENCY": "1"}
    )
    data = finds(genus, 9000)
    responses: list[httpx.Response] = []
    thread = threading.Thread(
        target=lambda: responses.append(running.client.post("/find/import", content=data, headers=NDJSON))
    )
    thread.start()
    wait_for(lambda: session.execute("SELECT id FROM jobs WHERE state = 'running' LIMIT 1 ALLOW FILTERING").one())
    proxy.pause(4)
    thread.join(60)
    (response,) = responses
    assert response.status_code in (200, 202), response.text
    if response.status_code == 202:
        job_id = response.json()["id"]
        wait_for(lambda: work(job_id) == "ended", timeout=60, description="the end of the job")
    wait_for(running.healthy, description="the connection to Cassandra")
    assert len(running.client.get(f"/find/{genus}").json()) == 9000


def test_a_chunk_that_cannot_be_stored_is_tried_again(
    session: Session, settings: Settings, genus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception] = [StorageTimeout("late", may_have_applied=True), StorageUnavailable("away")]

    def store(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        store_chunk(*arguments)

    monkeypatch.setattr(upload, "store_chunk", store)
    monkeypatch.setattr(upload, "_PAUSES", (0.0, 0.0))
    client = create_app(settings, session).test_client()
    response = client.post("/find/import", data=finds(genus, 3), headers=NDJSON, buffered=True)
    assert (response.status_code, response.json["written"], errors) == (200, 3, [])
