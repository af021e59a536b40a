"""`flask --app api import` and `flask --app api jobs`, in a copy of the project with the resources of the testbed."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from cassandra.cluster import Session

from tests.support import copy_project, register_testbed, unmeasured_environment, wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("command") / "fieldbook"
    copy_project(copy)
    register_testbed(copy)
    return copy


@pytest.fixture
def flask(project: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start a command: `flask("jobs", "list")`."""

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "--app", "api", *arguments],
            cwd=project,
            env=unmeasured_environment() | environment | {"JOB_LEASE": "2"} | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def run(flask: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Run a command. Return its exit status, its output and its errors."""

    def finish(*arguments: str, text: str = "") -> tuple[int, str, str]:
        process = flask(*arguments)
        output, errors = process.communicate(text, timeout=60)
        return process.returncode, output, errors

    return finish


@pytest.fixture
def genus() -> str:
    return f"Genus {uuid.uuid4().hex}"


def finds(genus: str, count: int) -> str:
    return "genus,species,sightings\n" + "".join(f"{genus},s{number:06},{number}\n" for number in range(count))


def stored(session: Session, genus: str) -> int:
    return int(session.execute("SELECT COUNT(*) FROM finds WHERE genus = %s", (genus,)).one()[0])


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", "-"])
def test_file_is_imported(
    run: Callable[..., tuple[int, str, str]], session: Session, genus: str, tmp_path: Path, suffix: str
) -> None:
    text = finds(genus, 500)
    path = tmp_path / f"finds{suffix}"
    path.write_bytes(gzip.compress(text.encode()) if suffix.endswith(".gz") else text.encode())
    source = ["-", "--format", "csv"] if suffix == "-" else [str(path)]
    status, output, errors = run("import", "finds", *source, "--json", text=text if suffix == "-" else "")
    assert (status, len(errors.splitlines())) == (0, 1)
    # The cluster, because other settings than those of the service lead to another one.
    assert errors.startswith("Importing finds into fieldbook_test_")
    assert json.loads(output)["result"] == {"read": 500, "written": 500, "failed": 0}
    assert stored(session, genus) == 500


def test_lines_that_are_not_valid_are_printed(
    run: Callable[..., tuple[int, str, str]], session: Session, genus: str, tmp_path: Path
) -> None:
    path = tmp_path / "finds.csv"
    path.write_text(finds(genus, 3) + f"{genus},x,many\n")
    status, output, errors = run("import", "finds", str(path), "--strict")
    assert (status, output, stored(session, genus)) == (1, "", 0)
    assert "line 5: sightings" in errors
    assert "1 of 4 lines are not valid. Nothing was written." in errors
    status, output, errors = run("import", "finds", str(path))
    assert (status, stored(session, genus)) == (1, 3)
    assert "3 rows written, 1 lines not valid" in output
    assert "line 5: sightings" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finds"], "FILE or --resume"),
        (["finds", "-"], "--format"),
        (["nothing", "-"], "Invalid value"),
        (["finds", "/nowhere.csv"], "No such file"),
    ],
)
def test_wrong_usage_is_explained(run: Callable[..., tuple[int, str, str]], arguments: list[str], message: str) -> None:
    status, _, errors = run("import", *arguments)
    assert status == 2
    assert message in errors


def test_list_of_ended_jobs_needs_an_owner(run: Callable[..., tuple[int, str, str]]) -> None:
    """The list without an owner has only jobs that have not ended."""
    status, _, errors = run("jobs", "list", "--state", "failed")
    assert (status, "needs --owner" in errors) == (2, True)
    assert run("jobs", "list", "--state", "failed", "--owner", "nobody")[:2] == (0, "")


def test_a_file_that_cannot_be_read_is_refused(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    path = tmp_path / "finds.csv"
    path.write_text("genus,species,size\n")
    status, _, errors = run("import", "finds", str(path))
    assert (status, "Line 1: Column 3" in errors) == (1, True)


@pytest.mark.parametrize(
    "damaged",
    [b"x", gzip.compress(b"genus")[:-1], gzip.compress(b"")[:10] + b"\xff" * 20],
    ids=["not gzip", "truncated", "invalid block"],
)
def test_a_damaged_gzip_file_is_refused(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, damaged: bytes
) -> None:
    path = tmp_path / "finds.csv.gz"
    path.write_bytes(damaged)
    status, _, errors = run("import", "finds", str(path))
    assert (status, "Traceback" in errors) == (1, False)
    assert "The file can't be read: " in errors


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_import_is_resumed(
    flask: Callable[..., subprocess.Popen[str]],
    run: Callable[..., tuple[int, str, str]],
    session: Session,
    genus: str,
    tmp_path: Path,
    number: int,
) -> None:
    path = tmp_path / "finds.csv"
    path.write_text(finds(genus, 120_000))
    process = flask("import", "finds", str(path))
    wait_for(lambda: process.poll() is not None or stored(session, genus), timeout=60, description="a row")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    job = json.loads(run("jobs", "list", "--owner", "command line", "--json")[1])["jobs"][0]
    if number == signal.SIGINT:
        assert process.returncode == 1
        assert f"--resume {job['id']}" in errors
    assert job["state"] == "running"

    def resumed() -> bool:
        status, _, errors = run("import", "finds", "--resume", job["id"])
        assert status == 0 or "A worker has the job" in errors, errors
        return status == 0

    wait_for(resumed, timeout=60, description="the end of the lease")
    assert stored(session, genus) == 120_000


def test_jobs_are_listed_shown_cancelled_and_retried(
    run: Callable[..., tuple[int, str, str]], session: Session, genus: str, tmp_path: Path
) -> None:
    path = tmp_path / "finds.csv"
    path.write_text(finds(genus, 3))
    status, output, _ = run("import", "finds", str(path), "--background", "--json")
    assert status == 0
    job_id = json.loads(output)["id"]
    status, _, errors = run("import", "observers", "--resume", job_id)
    assert (status, "is an import of finds, not of observers" in errors) == (1, True)
    assert job_id in run("jobs", "list", "--state", "queued")[1]
    shown = json.loads(run("jobs", "show", job_id, "--json")[1])
    assert (shown["state"], shown["owner"], shown["resource"]) == ("queued", "command line", "finds")
    assert run("jobs", "cancel", job_id) == (0, f"cancelled {job_id}\n", "")
    status, _, errors = run("jobs", "cancel", job_id)
    assert (status, "its state is cancelled" in errors) == (1, True)
    status, _, errors = run("jobs", "retry", job_id)
    assert (status, "Only a failed job" in errors) == (1, True)
    status, _, errors = run("jobs", "show", str(uuid.uuid1()))
    assert (status, "There is no job" in errors) == (1, True)
    assert stored(session, genus) == 0
