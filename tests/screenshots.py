"""Take the pictures of the pages in docs/images/ui/, in light and dark.

    python -m tests.screenshots [--seconds 300] [PICTURE ...]

This is `make screenshots`. It needs Chromium. It starts a Cassandra node, unless TEST_CASSANDRA_HOSTS (and
TEST_CASSANDRA_PORT) name a cluster, and a service with the sample rows in a keyspace of its own. It sends some load for
the dashboard, and stops and deletes everything at the end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from routes import RESOURCES
from routes.resource import Resource
from settings import Settings
from storage import db_connect
from tests.browser import browser, chromium
from tests.integration.local import cassandra, keyspace
from tests.job_workers import Worker
from tests.support import PRODUCT, PROJECT, TESTBED, Service, clean_environment, service
from tests.testbed import app as testbed
from tests.testbed import database

DIRECTORY = PROJECT / "docs" / "images" / "ui"
SCHEMES = ("light", "dark")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
# The largest size of a picture, in bytes.
LIMIT = 120_000
EMAIL, PASSWORD = "ada@example.org", "correct horse battery"

# After the removal of the samples, a project may have no resource yet.
APP, FOUND = (PRODUCT, RESOURCES) if RESOURCES else (TESTBED, testbed.RESOURCES)
WORKER = "worker" if RESOURCES else "tests.testbed.worker"
SAMPLES = "storage.sample_data" if RESOURCES else "tests.testbed.sample_data"


@dataclass
class Stage:
    """The browser, and the services and options of the pictures.

    :ivar live: a service without sign-in.
    :ivar seconds: how long there is load before the picture of the dashboard.
    """

    browser: Browser
    live: Service
    environment: dict[str, str]
    directory: Path
    seconds: int

    @contextmanager
    def window(self, scheme: str, path: str, running: Service | None = None, **options: Any) -> Iterator[Page]:
        """Open a window with a page."""
        options = {"viewport": DESKTOP, "device_scale_factor": 1, "color_scheme": scheme} | options
        url = (running or self.live).url
        context = self.browser.new_context(base_url=url, reduced_motion="reduce", locale="en-GB", **options)
        page = context.new_page()
        page.goto(path)
        page.wait_for_load_state("networkidle")
        yield page
        context.close()


def save(page: Page, name: str, scheme: str) -> None:
    """Save a picture of what the window shows, with 256 colors."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    path = DIRECTORY / f"{name}-{scheme}.png"
    picture = Image.open(BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path.relative_to(PROJECT)}: {size:,} bytes\n")
    if size > LIMIT:
        sys.exit(f"{path.name} has more than {LIMIT:,} bytes.")


# --- what the pages show -----------------------------------------------------------------------------------


def with_partitions() -> Resource:
    """A resource whose rows are in partitions with sample rows."""
    return next(each for each in FOUND if each.table.clustering_key and each.sample_path)


def with_versions() -> Resource:
    """A resource whose changes can meet a conflict."""
    return next(each for each in FOUND if "change" in each.operations)


def largest_partition() -> str:
    """The path of the explorer with the largest partition of the sample rows."""
    sizes: Counter[str] = Counter()
    for resource in FOUND:
        if resource.table.clustering_key and find_spec(f"{SAMPLES}.{resource.name}"):
            for row in import_module(f"{SAMPLES}.{resource.name}").rows():
                keys = {column: getattr(row, column) for column in resource.table.partition_key}
                sizes[f"/ui/{resource.name}?{urlencode({'explorer-view': 'partition', **keys})}"] += 1
    return sizes.most_common(1)[0][0]


@contextmanager
def load(running: Service) -> Iterator[None]:
    """Send reads, streams and some requests that fail, 10 to 60 a second, until the block ends."""
    paths = [each.sample_path for each in FOUND if each.sample_path] * 6
    paths += [f"{each.path}/stream?limit=2000" for each in FOUND if "stream" in each.operations]
    paths += [f"{with_versions().path}/{uuid.uuid4()}"]
    done = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            for path in itertools.cycle(paths):
                # The rate of requests changes with a period of two minutes.
                if done.wait(0.2 + 0.15 * math.sin(time.monotonic() / 19)):
                    return
                client.get(path)

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join()


# --- the pictures ------------------------------------------------------------------------------------------


def home(stage: Stage) -> None:
    for scheme in SCHEMES:
        with stage.window(scheme, "/") as page:
            expect(page.locator("#health")).to_contain_text("healthy")
            save(page, "home", scheme)


def dashboard(stage: Stage) -> None:
    with ExitStack() as stack:
        pages = {scheme: stack.enter_context(stage.window(scheme, "/ui/dashboard")) for scheme in SCHEMES}
        with load(stage.live):
            next(iter(pages.values())).wait_for_timeout(stage.seconds * 1000)
            for scheme, page in pages.items():
                save(page, "dashboard", scheme)


def explore(stage: Stage, name: str, options: dict[str, Any]) -> None:
    for scheme in SCHEMES:
        with stage.window(scheme, largest_partition(), **options) as page:
            expect(page.get_by_role("gridcell").first).to_be_visible()
            expect(page.get_by_text("Complete")).to_be_visible()
            save(page, name, scheme)


def conflict(stage: Stage) -> None:
    """Another client changes the row while a person edits it."""
    resource = with_versions()
    column = next(name for name, kind in resource.table.columns.items() if str(kind) == "text")
    with httpx.Client(base_url=stage.live.url) as client:
        for scheme in SCHEMES:
            with stage.window(scheme, f"/ui/{resource.name}") as page:
                page.get_by_role("gridcell").first.click()
                page.get_by_role("button", name="Edit").click()
                field = page.locator(f"#field-{column}")
                value = field.input_value()
                row = next(each for each in client.get(resource.path).json() if each[column] == value)
                path = f"{resource.path}/{row[resource.table.partition_key[0]]}"
                client.patch(path, json={column: f"{value} Lovelace"}).raise_for_status()
                field.fill(f"{value} Byron")
                page.get_by_role("button", name="Save").click()
                expect(page.get_by_role("heading", name="Somebody else")).to_be_visible()
                save(page, "conflict", scheme)
                client.patch(path, json={column: value}).raise_for_status()


def imports(stage: Stage) -> None:
    """Import sample rows again, with an invalid line."""
    resource = with_partitions()
    rows = httpx.get(f"{stage.live.url}{resource.sample_path}", headers={"Accept": "application/x-ndjson"}).text
    rows += json.dumps(dict.fromkeys(resource.table.columns, "")) + "\n"
    file = {"name": f"{resource.name}.ndjson", "mimeType": "application/x-ndjson", "buffer": rows.encode()}
    worker = Worker(stage.environment, stage.directory, app=WORKER)
    try:
        worker.wait_until_ready()
        for number, scheme in enumerate(SCHEMES, start=1):
            with stage.window(scheme, "/ui/jobs") as page:
                page.get_by_label("Resource").select_option(label=resource.name)
                page.locator("input[type=file]").set_input_files([file])
                page.get_by_label("in the background").check()
                page.get_by_role("button", name="Import", exact=True).click()
                expect(page.locator("#jobs li")).to_have_count(number)
                expect(page.locator("#jobs li").first).to_contain_text("succeeded", timeout=60_000)
                page.locator("summary").first.click()
                errors = page.locator("#jobs td").first
                expect(errors).to_be_visible()
                errors.scroll_into_view_if_needed()
                save(page, "imports", scheme)
    finally:
        worker.terminate()


def diagnostics(stage: Stage) -> None:
    for scheme in SCHEMES:
        with stage.window(scheme, "/ui/diagnostics") as page:
            page.get_by_role("button", name="Compare").click()
            expect(page.locator("#chart meter").first).to_be_visible(timeout=60_000)
            save(page, "diagnostics", scheme)


def accounts(stage: Stage) -> None:
    """Sign in as an operator, to a service with AUTH=all."""
    environment = stage.environment | {"AUTH": "all"}
    for email, scope in ((EMAIL, "--operator"), ("grace@example.org", "--scope=read"), ("alan@example.org", "")):
        command = ["accounts", "create", email, *filter(None, [scope]), "--password-stdin"]
        subprocess.run(
            [sys.executable, "-m", "flask", "--app", "api", *command],
            cwd=PROJECT,
            env=clean_environment() | environment,
            input=f"{PASSWORD}\n",
            text=True,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
    with service(environment, stage.directory / "accounts.log", app=APP) as running:
        for scheme in SCHEMES:
            with stage.window(scheme, "/ui/accounts", running) as page:
                page.locator("#account").get_by_role("button", name="Sign in").click()
                page.get_by_label("E-mail").locator("visible=true").fill(EMAIL)
                page.get_by_label("Password").locator("visible=true").fill(PASSWORD)
                page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
                expect(page.get_by_role("cell", name="grace@example.org")).to_be_visible()
                save(page, "accounts", scheme)


PICTURES: dict[str, Callable[[Stage], None]] = {
    "home": home,
    "dashboard": dashboard,
    "explorer": partial(explore, name="explorer", options={}),
    "explorer-phone": partial(explore, name="explorer-phone", options={"viewport": PHONE, "is_mobile": True}),
    "conflict": conflict,
    "imports": imports,
    "diagnostics": diagnostics,
    "accounts": accounts,
}


def main() -> None:
    """Take the pictures that the arguments name, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots")
    parser.add_argument("--seconds", type=int, default=300, help="load before the picture of the dashboard")
    parser.add_argument("pictures", nargs="*", help=f"of {', '.join(PICTURES)}; without names, all")
    arguments = parser.parse_args()
    if unknown := set(arguments.pictures) - set(PICTURES):
        parser.error(f"there is no picture {', '.join(unknown)}")
    if chromium() is None:
        sys.exit("There is no Chromium. On Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="fieldbook-") as name, cassandra() as (host, port), ExitStack() as stack:
        environment = {
            "APP_ENV": "development",
            "CASSANDRA_HOSTS": host,
            "CASSANDRA_PORT": str(port),
            "CASSANDRA_KEYSPACE": f"fieldbook_pictures_{uuid.uuid4().hex[:8]}",
            "SECRET_KEY": secrets.token_urlsafe(32),
        }
        stack.enter_context(keyspace(environment))
        if APP == TESTBED:
            settings = Settings(_env_file=None, **{key.lower(): value for key, value in environment.items()})
            session = db_connect.open_session(settings, None)
            database.insert_samples(session, settings.cassandra_keyspace)
            session.cluster.shutdown()
        live = stack.enter_context(service(environment, Path(name) / "log", app=APP))
        stage = Stage(stack.enter_context(browser()), live, environment, Path(name), arguments.seconds)
        for picture in arguments.pictures or PICTURES:
            PICTURES[picture](stage)


if __name__ == "__main__":
    main()
