"""The documentation: the output of its examples, the walk-through, link targets and line lengths."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from routes import RESOURCES
from settings import Settings
from storage import db_initialize
from tests import docs_examples
from tests.support import PRODUCT, PROJECT, Service, copy_mypy_cache, copy_project, unmeasured_environment

PAGES = [str(path.relative_to(PROJECT)) for path in docs_examples.pages()]
WITH_EXAMPLES = [name for name in PAGES if docs_examples.examples((PROJECT / name).read_text())]
# The sample resources, each with the path of its routes. A project can remove them, and add others.
SAMPLES = {"animals": "/animal", "plants": "/plant", "users": "/users"}
REMOVED = SAMPLES.keys() - {resource.name for resource in RESOURCES}
# The maximum length of a line of prose, in characters, and the maximum number of lines of README.md.
LINE_LIMIT = 100
README_LIMIT = 250


@pytest.fixture
def fresh_service(start: Callable[..., Service], settings: Settings, keyspace: str) -> Service:
    """A service whose keyspace contains only the sample rows, as after the first `make run`."""
    own = settings.model_copy(update={"cassandra_keyspace": keyspace})
    db_initialize.initialize(own, say=lambda line: None)
    return start({"CASSANDRA_KEYSPACE": keyspace}, app=PRODUCT)


def test_every_curl_command_of_the_api_page_is_found() -> None:
    page = (PROJECT / "docs" / "api.md").read_text()
    found = [docs_examples.request_path(example.command) for example in docs_examples.examples(page)]
    assert len(found) == page.count("\n$ curl ")
    assert {"/", "/health", "/health/live"} <= set(found)


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_examples_print_the_output_on_the_page(page: str, fresh_service: Service) -> None:
    """Run the curl commands of one page in their order, on a keyspace of their own.

    Commands for a sample resource that was removed are left out.
    """
    for example in docs_examples.examples((PROJECT / page).read_text()):
        path = docs_examples.request_path(example.command)
        if any(f"{path}/".startswith(f"{removed}/") for removed in map(SAMPLES.get, REMOVED)):
            continue
        printed = docs_examples.run_curl(fresh_service.client, example.command)
        shown = example.output
        if path == "/":
            printed, shown = (list(map(with_sample_links_only, lines)) for lines in (printed, shown))
        assert list(map(docs_examples.normalize, printed)) == list(map(docs_examples.normalize, shown)), example.command


def with_sample_links_only(home: str) -> str:
    """Return the JSON of the home page with links to the sample resources only."""
    body = json.loads(home)
    body["resources"] = {name: path for name, path in body["resources"].items() if name in SAMPLES.keys() - REMOVED}
    return json.dumps(body)


@pytest.mark.slow
def test_walk_through_adds_a_working_resource(tmp_path: Path, settings: Settings) -> None:
    """After all steps of the walk-through, the tests of the new resource and the linters pass."""
    if (PROJECT / "routes" / "readings.py").exists():
        pytest.skip("the walk-through has been followed in this working tree")
    copy = tmp_path / "fieldbook"
    copy_project(copy)
    copy_mypy_cache(copy)
    made = docs_examples.files((PROJECT / "docs" / "adding-a-resource.md").read_text())
    assert len(made) >= 6
    for name, language, text in made:
        if language == "diff":
            docs_examples.apply_diff(copy / name, text)
        else:
            assert not (copy / name).exists()
            (copy / name).write_text(text)
    # The unit tests copy the project once more, and list its files with git.
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True, timeout=60)
    tests = ["tests/unit/test_architecture.py", "tests/functional/test_readings.py"]
    environment = unmeasured_environment() | {
        "TEST_CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "TEST_CASSANDRA_PORT": str(settings.cassandra_port),
    }
    for command in (["pytest", "-q", *tests], ["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        run = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        if command[0] == "pytest":
            assert re.search(r"\d+ passed", run.stdout)


def test_generator_writes_the_files_of_the_walk_through(tmp_path: Path) -> None:
    """The command at the top of the page writes each file as the page shows it, apart from the sample rows."""
    if (PROJECT / "routes" / "readings.py").exists():
        pytest.skip("the walk-through has been followed in this working tree")
    copy = tmp_path / "fieldbook"
    copy_project(copy)
    page = (PROJECT / "docs" / "adding-a-resource.md").read_text()
    shown = re.search(r"^\$ \S+ -m (dev\.resource add (?:.*\\\n)*.*)$", page, re.MULTILINE)
    assert shown is not None
    command = [sys.executable, "-m", *shlex.split(shown[1].replace("\\\n", ""))]
    # As in a new clone: without APP_ENV.
    environment = unmeasured_environment() | {"APP_ENV": ""}
    subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=True, timeout=300)
    files = [(name, text) for name, language, text in docs_examples.files(page) if language != "diff"]
    written = [(name, text) for name, text in files if "sample_data" not in name]
    assert len(written) >= 5
    for name, text in written:
        # A project that has more migrations, or that has removed the samples, gives the migration another number.
        (path,) = copy.glob(re.sub(r"\d{4}_", "*_", name))
        assert path.read_text() == text, name


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_and_anchors_exist(page: str) -> None:
    path = PROJECT / page
    for link in docs_examples.links(path.read_text()):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{page} links to {link}, but there is no such file"
        if anchor:
            assert anchor in docs_examples.anchors(target.read_text()), f"{page}: no heading for {link}"


@pytest.mark.parametrize("page", PAGES)
def test_prose_lines_are_wrapped(page: str) -> None:
    """Tables, code and links that can't be broken may be longer."""
    long = docs_examples.long_prose_lines((PROJECT / page).read_text(), LINE_LIMIT)
    assert not long, f"{page}: lines {long} have more than {LINE_LIMIT} characters"


def test_readme_is_short() -> None:
    lines = (PROJECT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LIMIT, f"README.md has {len(lines)} lines; move details to docs/"
