"""The page of the imports: upload, progress, errors by line, and the jobs."""

from __future__ import annotations

import gzip
import json
import re
import uuid
from collections.abc import Callable

import pytest
from cassandra.cluster import Session
from playwright.sync_api import Locator, Page, expect

from auth import accounts
from auth.passwords import Passwords
from jobs.engine import Engine
from jobs.imports.kind import kinds_of_jobs
from settings import Settings
from storage.cql import QueryOptions
from storage.db_io.import_chunks import delete_chunks, read_chunk, store_chunk
from tests.functional.auth.accounts import PASSWORD, new_email
from tests.support import Service, wait_for
from tests.testbed.app import RESOURCES

# Puts a file into a DataTransfer and drops it on the page, as a person does with a mouse.
DROP = """([name, text]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name));
  const target = document.querySelector("#file-help");
  const send = (type) => target.dispatchEvent(
    new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true}));
  if (send("dragover")) throw new Error("The page does not accept files.");
  send("drop");
}"""


@pytest.fixture
def genus() -> str:
    """A genus that no other test uses."""
    return f"Genus {uuid.uuid4().hex}"


@pytest.fixture
def work(session: Session, settings: Settings) -> Callable[[str], str]:
    """Do the work of a job worker: `work(job_id)`."""
    engine = Engine(kinds_of_jobs(RESOURCES), lease=30, timeout=10)
    return lambda job_id: engine.work(session, uuid.UUID(job_id))


def csv(genus: str, *sightings: object) -> str:
    """A CSV file with a row for each number of sightings."""
    return "genus,species,sightings\n" + "".join(f"{genus},s{row},{count}\n" for row, count in enumerate(sightings))


def choose(page: Page, name: str, content: str | bytes) -> None:
    """Choose a file of finds."""
    data = content if isinstance(content, bytes) else content.encode()
    page.get_by_label("Resource").select_option("finds")
    page.get_by_label("CSV or NDJSON file").set_input_files({"name": name, "mimeType": "", "buffer": data})


def upload(page: Page, name: str, content: str | bytes) -> None:
    """Choose a file of finds, and import it."""
    choose(page, name, content)
    page.get_by_role("button", name="Import").click()


def outcome(page: Page) -> Locator:
    return page.locator("#outcome")


def errors(part: Page | Locator) -> list[str]:
    """The lines of a table of errors."""
    return [" | ".join(row.locator("td").all_inner_texts()) for row in part.locator("tbody tr").all()]


def start_job(page: Page, genus: str) -> tuple[str, Locator]:
    """Import five rows in the background. Return the id of the job and its entry on the page."""
    page.get_by_label("Import in the background").check()
    upload(page, "finds.csv", csv(genus, 1, "x", 3, 4, 5))
    expect(outcome(page)).to_contain_text("continues in the background")
    entry = page.locator("#jobs > li").first
    expect(entry.get_by_role("heading", name="finds: queued")).to_be_focused()
    return str(entry.get_attribute("id")), entry


def test_dropped_file_is_imported_and_errors_are_shown_by_line(
    live: Service, window: Callable[..., Page], genus: str
) -> None:
    page = window(live, "/ui/jobs")
    page.get_by_label("Resource").select_option("finds")
    page.evaluate(DROP, ["finds.csv", csv(genus, 1, "x", 3)])
    page.get_by_role("button", name="Import").click()
    expect(outcome(page)).to_have_text("Rows: 3 read, 2 written, 1 failed.")
    message = "Input should be JSON: a number, true, false, an array or an object"
    assert errors(page.locator("#errors")) == [f"3 | sightings | {message}"]
    assert [row["sightings"] for row in live.client.get(f"/find/{genus}").json()] == [1, 3]
    job = page.locator("#jobs > li").first
    expect(job.get_by_role("heading", name="finds: succeeded")).to_be_visible()
    job.get_by_text("Errors by line").click()
    assert errors(job) == [f"3 | sightings | {message}"]


def test_file_is_imported_by_keyboard(live: Service, window: Callable[..., Page], genus: str) -> None:
    """NDJSON, compressed with gzip. The dialog that Enter opens in the field is not a part of the page."""
    page = window(live, "/ui/jobs")
    page.get_by_label("Resource").focus()
    page.keyboard.type("finds")
    page.keyboard.press("Tab")
    file = page.get_by_label("CSV or NDJSON file")
    expect(file).to_be_focused()
    line = json.dumps({"genus": genus, "species": "a"}).encode()
    file.set_input_files({"name": "finds.ndjson.gz", "mimeType": "", "buffer": gzip.compress(line)})
    for _ in range(3):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Import")).to_be_focused()
    page.keyboard.press("Enter")
    expect(outcome(page)).to_have_text("Rows: 1 read, 1 written, 0 failed.")
    expect(page.get_by_role("region", name="Errors by line")).to_have_count(0)
    assert len(live.client.get(f"/find/{genus}").json()) == 1


def test_refused_files_are_explained(live: Service, window: Callable[..., Page], genus: str) -> None:
    page = window(live, "/ui/jobs", expected=["422"])
    upload(page, "finds.txt", csv(genus, 1))
    expect(outcome(page)).to_contain_text("Choose one file. Its name must end with .csv")
    upload(page, "finds.csv", "genus,<b>colour</b>\n")
    expect(outcome(page)).to_have_text(re.compile("^Line 1: .*<b>colour</b>.* Nothing was written.$"))
    page.get_by_label("Write no row unless all lines are valid").check()
    upload(page, "finds.csv", csv(genus, 1, "x"))
    expect(outcome(page)).to_contain_text("Not valid")
    assert [line[:14] for line in errors(page.locator("#errors"))] == ["3 | sightings "]
    assert live.client.get(f"/find/{genus}").json() == []


def test_background_import_shows_its_progress_and_its_end(
    live: Service, window: Callable[..., Page], genus: str, work: Callable[[str], str]
) -> None:
    page = window(live, "/ui/jobs")
    job_id, job = start_job(page, genus)
    progress = job.get_by_role("progressbar", name="Progress of the import")
    assert progress.evaluate("bar => bar.value") == 0
    job.get_by_text("Errors by line").click()
    assert work(job_id) == "ended"
    expect(job.get_by_role("heading", name="finds: succeeded")).to_be_visible()
    # Screen readers announce the end.
    expect(job.get_by_role("heading")).to_have_attribute("aria-live", "polite")
    expect(job.locator("[data-field=rows_done]")).to_have_text("4")
    assert progress.evaluate("bar => bar.value") == 100
    # The update replaces no elements: the errors stay open.
    assert errors(job)
    expect(job.get_by_role("region", name="Errors by line")).to_be_visible()
    expect(job.get_by_role("button")).to_have_count(0)


def test_jobs_are_cancelled(live: Service, window: Callable[..., Page], genus: str) -> None:
    """A second window still shows the button, and then the error of the service."""
    page = window(live, "/ui/jobs")
    job_id, job = start_job(page, genus)
    # The other window does not see that the job has ended.
    queued = live.client.get(f"/jobs/{job_id}").json()
    other = window(live, "/ui/jobs", expected=["409"])
    other.route("**/jobs?*", lambda route: route.fulfill(json=[queued]))
    job.get_by_role("button", name="Cancel").click()
    expect(job.get_by_role("heading", name="finds: cancelled")).to_be_focused()
    other.locator(f"[id='{job_id}']").get_by_role("button", name="Cancel").click()
    expect(other.locator("#messages")).to_contain_text("has ended")


def test_failed_job_is_retried(
    live: Service, session: Session, window: Callable[..., Page], genus: str, work: Callable[[str], str]
) -> None:
    page = window(live, "/ui/jobs")
    job_id, job = start_job(page, genus)
    chunk = read_chunk(session, uuid.UUID(job_id), 0, QueryOptions())
    delete_chunks(session, uuid.UUID(job_id), 1, QueryOptions())
    assert work(job_id) == "ended"
    expect(job.get_by_role("heading", name="finds: failed")).to_be_visible()
    expect(job).to_contain_text("The rows of the import have expired. Send the file again.")
    store_chunk(session, uuid.UUID(job_id), 0, chunk, QueryOptions())
    job.get_by_role("button", name="Retry").click()
    expect(job.get_by_role("heading", name="finds: queued")).to_be_visible()
    assert work(job_id) == "ended"
    expect(job.get_by_role("heading", name="finds: succeeded")).to_be_visible()
    assert len(live.client.get(f"/find/{genus}").json()) == 4


def test_upload_shows_its_progress_and_is_cancelled(live: Service, window: Callable[..., Page], genus: str) -> None:
    page = window(live, "/ui/jobs")
    browser = page.context.new_cdp_session(page)
    browser.send("Network.enable")
    conditions = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 200_000}
    browser.send("Network.emulateNetworkConditions", conditions)
    upload(page, "finds.csv", csv(genus, *range(100_000)))
    progress = page.get_by_role("progressbar", name="Upload")
    shown = wait_for(lambda: progress.evaluate("bar => bar.value"), description="progress of the upload")
    assert 0 < shown < 1
    page.get_by_role("button", name="Cancel the upload").click()
    expect(outcome(page)).to_contain_text("no row was written")
    expect(progress).to_be_hidden()
    assert live.client.get(f"/find/{genus}").json() == []


def test_job_of_another_client_appears(live: Service, window: Callable[..., Page], genus: str) -> None:
    page = window(live, "/ui/jobs")
    response = live.client.post(
        "/find/import?background=1", content=csv(genus, 1), headers={"Content-Type": "text/csv"}
    )
    expect(page.locator(f"[id='{response.json()['id']}']")).to_be_visible()


def test_operator_signs_in_and_imports(
    guarded: Service, session: Session, settings: Settings, window: Callable[..., Page], genus: str
) -> None:
    """Without the scope, the page shows neither the form nor the jobs, and says why."""
    options = QueryOptions()
    passwords = Passwords(settings, options)
    email = accounts.create(session, new_email(), PASSWORD, ["operator"], passwords, options).email
    page = window(guarded, "/ui/jobs")
    reason = page.get_by_text("sign in with an account that has the scope operator")
    expect(reason).to_be_visible()
    expect(page.get_by_role("button", name="Import")).to_have_count(0)
    expect(page.get_by_role("heading", name="Your jobs")).to_have_count(0)
    page.locator("#account").get_by_role("button", name="Sign in").click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(reason).to_be_hidden()
    upload(page, "finds.csv", csv(genus, 1, 2))
    expect(outcome(page)).to_have_text("Rows: 2 read, 2 written, 0 failed.")
    # The list has the jobs of this account only.
    expect(page.locator("#jobs > li")).to_have_count(1)
    page.locator("#account").get_by_role("button", name="Sign out").click()
    expect(page.locator("#jobs > li")).to_have_count(0)
