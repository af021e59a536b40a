"""The README is true: its examples answer as it shows, and its walk-through makes a table that works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from settings import Settings
from storage import db_initialize
from tests import docs_examples as readme
from tests.support import PROJECT, Service, clean_environment, copy_project

README = (PROJECT / "README.md").read_text()


@pytest.fixture
def fresh(start: Callable[..., Service], settings: Settings, keyspace: str) -> Service:
    """A service on a field book as a newcomer finds it: the sample rows and nothing else."""
    own = settings.model_copy(update={"cassandra_keyspace": keyspace})
    db_initialize.initialize(own, say=lambda line: None)
    return start({"CASSANDRA_KEYSPACE": keyspace})


def test_examples_answer_as_shown(fresh: Service) -> None:
    """Each curl line of the README, in its order, prints what the README says."""
    found = readme.examples(README)
    assert len(found) > 20
    for example in found:
        printed = [readme.normal(line) for line in readme.curl(fresh.client, example.command)]
        assert printed == [readme.normal(line) for line in example.output], example.command


def test_a_table_of_your_own(tmp_path: Path, settings: Settings) -> None:
    """Someone who follows the walk-through to the letter gets a resource whose test, and the linters, pass."""
    if (PROJECT / "routes" / "fungi.py").exists():
        pytest.skip("somebody followed it already")
    section = README.partition("## A table of your own")[2].partition("\n## ")[0]
    copy = tmp_path / "fieldbook"
    copy_project(copy)
    made = readme.files(section)
    assert len(made) >= 6
    for name, language, text in made:
        if language == "diff":
            readme.apply_diff(copy / name, text)
        else:
            assert not (copy / name).exists()
            (copy / name).write_text(text)
    # The document that lists the routes is not part of the walk-through's files.
    tests = ["tests/functional/test_fungi.py", "tests/test_house.py", "--deselect", _README_TEST]
    environment = clean_environment() | {
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
            timeout=100,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        if command[0] == "pytest":
            assert re.search(r"\d+ passed", run.stdout)


_README_TEST = "tests/test_house.py::test_the_readme_has_every_route"
