"""`python -m dev.resource` in a copy of the project: generated resources work, and can be removed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dev.resource.names import Refused
from dev.resource.remove import find_samples
from settings import Settings
from storage.cql.types import SCALARS
from tests.support import copy_mypy_cache, copy_project, run_python, unmeasured_environment

# Ten resources of different shapes. Together they have every type that the generator supports, and as a column of the
# primary key every scalar type that Cassandra allows there.
RESOURCES = [
    "reading --partition sensor:text --clustering recorded_at:timestamp:desc --column temperature:decimal "
    "--column note:text? --column 'tags:set<text>' --column calibrated_on:date",
    "country --partition code:ascii --column population:bigint --column area:double --column landlocked:boolean?",
    # Long names, so that lines must be wrapped.
    "migration_observation --partition observation_site:text --partition observation_day:date "
    "--clustering seen_at:timeuuid --clustering scientific_name_of_species:text --column observer:uuid?",
    "event --partition tenant:uuid --partition account:uuid --partition region:uuid "
    "--clustering year:smallint:DESC --clustering sequence:varint --column payload:blob",
    "measurement --partition device:inet --clustering at:time --column value:float? --ttl 86400 --no-delete",
    "sales_person --partition local:boolean --clustering active:boolean:desc --column date:date --column time:time?",
    "sample --partition lot:bigint --clustering depth:double --clustering digest:blob --clustering price:decimal:desc "
    "--column 'by_moment:map<timestamp, text>' --column 'owners:map<uuid, int>' --column 'hosts:set<inet>'",
    "item --plural stock --partition shelf:tinyint --partition place:int --clustering weight:float "
    "--column 'embedding:vector<float, 3>?' --column 'spans:list<duration>' --column 'flags:set<boolean>' "
    "--column 'dates:map<int, frozen<set<date>>>' --column 'points:list<frozen<list<double>>>'",
    "trip --uuid-key --column title:text --column started_on:date? --column 'stops:list<text>' --column cost:decimal "
    "--column 'datetime:timestamp?' --column 'ids:map<int, set<timeuuid>>' --column 'groups:set<set<uuid>>'",
    "environmental_impact_assessment_report --uuid-key --no-delete --column actor:ascii --column took:duration "
    "--column digest:blob? --column level:smallint --column request:timeuuid --column 'details:map<text, blob>' "
    "--column 'sizes:vector<float, 8192>' --column total:varint",
]
KEY = "--partition code:text --column number:int"


def run(copy: Path, *command: str, **environment: str) -> str:
    """Run a module of Python in the copy, and return its output. The module must succeed."""
    return run_python(copy, "-m", *command, **environment)


# Adds resources in one process, and writes docs/openapi.json after the last one. A command for each takes 3 s more.
ADD_ALL = """
import json, sys
from dev.resource import project
from dev.resource.__main__ import main
rewrite_snapshot, project.rewrite_snapshot = project.rewrite_snapshot, lambda: project.SNAPSHOT
*first, last = json.load(sys.stdin)
for arguments in first:
    main(["add", *arguments])
project.rewrite_snapshot = rewrite_snapshot
main(["add", *last])
"""


def add(copy: Path, resource: str) -> str:
    return run(copy, "dev.resource", "add", *shlex.split(resource))


def add_all(copy: Path, resources: list[str]) -> None:
    """Add several resources faster than with a command for each."""
    done = subprocess.run(
        [sys.executable, "-c", ADD_ALL],
        cwd=copy,
        env=unmeasured_environment(),
        input=json.dumps([shlex.split(resource) for resource in resources]),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def git(copy: Path, *command: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", *identity, *command], cwd=copy, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def new_copy(path: Path) -> Path:
    """Copy the project, and commit its files."""
    copy_project(path)
    git(path, "init", "-q")
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", "Before")
    return path


@pytest.fixture
def cassandra(settings: Settings) -> dict[str, str]:
    """The environment in which tests of the copy use the same Cassandra as this test."""
    hosts, port = ",".join(settings.cassandra_hosts), str(settings.cassandra_port)
    return {"TEST_CASSANDRA_HOSTS": hosts, "TEST_CASSANDRA_PORT": port}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, cassandra_major: int) -> Path:
    """A copy of the project with all of RESOURCES. Before Cassandra 5, their columns with vectors are left out."""
    path = new_copy(tmp_path_factory.mktemp("generated") / "fieldbook")
    resources = RESOURCES
    if cassandra_major < 5:
        resources = [re.sub(r" --column '\w+:vector[^']*'", "", resource) for resource in RESOURCES]
    add_all(path, resources[:-1])
    # A command for one resource, with those that are there already.
    add(path, resources[-1])
    return path


def write_schema(copy: Path, cassandra: dict[str, str], cassandra_major: int) -> list[str]:
    """Write storage/schema.json in the copy, and return the test that compares it. The file describes Cassandra 5."""
    if cassandra_major < 5:
        return []
    run(copy, "dev.schema", **cassandra)
    return ["tests/functional/test_schema_check.py::test_a_new_keyspace_has_no_differences"]


def test_the_resources_have_every_type() -> None:
    commands = " ".join(RESOURCES)
    scalars = SCALARS - {"counter"}
    assert scalars | {"list", "set", "map", "vector"} <= set(re.findall(r"[:<](\w+)", commands))
    assert scalars - {"duration"} == set(re.findall(r"--(?:partition|clustering) \w+:(\w+)", commands))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_generated_resources_pass_their_tests(copy: Path, cassandra: dict[str, str], cassandra_major: int) -> None:
    """Run their own tests, and the tests that compare schema, table, migration, registry and API page."""
    schema_test = write_schema(copy, cassandra, cassandra_major)
    new = git(copy, "ls-files", "--others", "--exclude-standard", "tests").split()
    assert len(new) == len(RESOURCES)
    printed = run(copy, "pytest", "-q", *new, "tests/unit/test_architecture.py", *schema_test, **cassandra)
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) > 8 * len(RESOURCES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_generated_resources_pass_the_linters(copy: Path) -> None:
    run(copy, "ruff", "check", ".")
    run(copy, "ruff", "format", "--check", ".")
    copy_mypy_cache(copy)
    run(copy, "mypy")
    run(copy, "dev.openapi", "--check")


def test_a_refused_resource_changes_nothing(tmp_path: Path) -> None:
    copy = new_copy(tmp_path / "fieldbook")
    with pytest.raises(AssertionError, match=r"error: column x: 'money' is not a CQL type"):
        add(copy, "reading --partition sensor:text --column x:money")
    assert not git(copy, "status", "--porcelain")


@pytest.mark.slow
def test_removed_resources_leave_only_migrations(tmp_path: Path) -> None:
    """A removed resource leaves two migrations: one creates its table, one drops it."""
    copy = new_copy(tmp_path / "fieldbook")
    migrations = len(list(copy.glob("storage/migrations/*.cql")))
    # The last two: a test of the project begins with test_resource_name, and a class name has no underscores.
    add_all(copy, [RESOURCES[0], RESOURCES[8], f"resource_name {KEY}", f"ab_1c {KEY}"])
    assert "storage/db_io/readings.py" in run(copy, "dev.resource", "remove", "reading")
    assert "storage/db_io/trips.py" in run(copy, "dev.resource", "remove", "trips")
    assert "storage/db_io/resource_names.py" in run(copy, "dev.resource", "remove", "resource_name")
    assert "storage/db_io/ab_1cs.py" in run(copy, "dev.resource", "remove", "ab_1c")
    assert [line[:2] for line in git(copy, "status", "--porcelain", "-uall").splitlines()] == ["??"] * 8
    assert len(list(copy.glob("storage/migrations/*.cql"))) == migrations + 8


@pytest.mark.slow
def test_remove_names_the_files_that_git_cannot_restore(tmp_path: Path) -> None:
    copy = new_copy(tmp_path / "fieldbook")
    add(copy, f"mountain {KEY}")
    git(copy, "add", "-A")
    git(copy, "commit", "-q", "-m", "Add mountains")
    with (copy / "routes" / "mountains.py").open("a") as file:
        file.write("# A change.\n")
    printed = run(copy, "dev.resource", "remove", "mountain")
    restorable, title, lost = printed.partition("Changed:")[0].partition("Deleted for good, because Git has no copy")
    assert title
    assert "  schemas/mountains.py\n" in restorable
    assert re.findall(r"^  (.*)$", lost, re.MULTILINE) == ["routes/mountains.py"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_application_works_without_the_samples(
    tmp_path: Path, cassandra: dict[str, str], cassandra_major: int
) -> None:
    """A resource with the name of a sample can then be added."""
    try:
        find_samples()
    except Refused as error:
        pytest.skip(str(error))
    copy = new_copy(tmp_path / "fieldbook")
    printed = run(copy, "dev.resource", "remove", "--samples")
    run(copy, "dev.openapi", "--check")
    for resource in ("animals", "plants", "users"):
        assert f"  routes/{resource}.py\n" in printed
        assert not list(copy.rglob(f"{resource}.py"))
    assert "  docs/api.md\n" in printed.partition("still mention")[2]
    add(copy, "user --uuid-key --column full_name:text --column 'values:list<int>'")
    with pytest.raises(AssertionError, match="have already been removed"):
        run(copy, "dev.resource", "remove", "--samples")
    schema_test = write_schema(copy, cassandra, cassandra_major)
    tests = ["tests/unit/test_architecture.py", "tests/functional/test_service.py", "tests/functional/test_users.py"]
    run(copy, "pytest", "-q", *tests, *schema_test, **cassandra)


def test_a_resource_that_is_added_again_gets_its_sample_rows(tmp_path: Path, settings: Settings, keyspace: str) -> None:
    copy = new_copy(tmp_path / "fieldbook")
    environment = {
        "CASSANDRA_HOSTS": ",".join(settings.cassandra_hosts),
        "CASSANDRA_PORT": str(settings.cassandra_port),
        "CASSANDRA_KEYSPACE": keyspace,
    }
    for _ in range(2):
        add(copy, RESOURCES[0])
        assert re.search(
            r"^sample rows of readings: \d", run(copy, "storage.db_initialize", **environment), re.MULTILINE
        )
        run(copy, "dev.resource", "remove", "readings")
        run(copy, "storage.db_initialize", **environment)
