"""Packages whose private API we use: only supported versions are accepted and pinned."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import environment
from environment import UnsupportedVersion, require_version
from observability import PROMETHEUS_VERSIONS
from server import GUNICORN_VERSIONS
from settings import SettingsError
from tests.support import PROJECT, clean_environment


def test_supported_version_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.metadata, "version", lambda package: "2.0")
    require_version("somepackage", ("1.9", "2.0"), used_by="some/file.py")


def test_unsupported_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package, both versions, the module and the remedy."""
    monkeypatch.setattr(environment.metadata, "version", lambda package: "3.0")
    with pytest.raises(UnsupportedVersion) as caught:
        require_version("somepackage", ("1.9", "2.0"), used_by="some/file.py")
    assert isinstance(caught.value, SettingsError)
    for part in ("somepackage 3.0", "1.9, 2.0", "some/file.py", "pip install -r requirements.txt"):
        assert part in str(caught.value)


def run_with_version_0_1(package: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run gunicorn or flask in a process where a package has version 0.1."""
    module = "gunicorn.app.wsgiapp import run" if command[0] == "gunicorn" else "flask.cli import main as run"
    code = (
        "import importlib.metadata as metadata, sys; version = metadata.version; "
        f"metadata.version = lambda package: '0.1' if package == '{package}' else version(package); "
        f"sys.argv = {list(command)!r}; from {module}; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env=clean_environment() | {"CASSANDRA_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("package", ["gunicorn", "cassandra-driver", "prometheus-client"])
def test_gunicorn_does_not_start_with_an_unsupported_version(package: str) -> None:
    """gunicorn exits with status 2 and prints only the message."""
    run = run_with_version_0_1(package, "gunicorn", "--check-config", "wsgi:app")
    assert run.returncode == 2
    assert run.stderr.startswith(f"{package} 0.1 is installed")
    assert "Traceback" not in run.stderr


def test_schema_commands_do_not_run_with_an_unsupported_driver() -> None:
    run = run_with_version_0_1("cassandra-driver", "flask", "--app", "api", "db", "current")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("cassandra-driver 0.1 is installed")
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("package", ["gunicorn", "cassandra-driver", "prometheus-client"])
def test_check_command_reports_an_unsupported_version(package: str) -> None:
    run = run_with_version_0_1(package, "flask", "--app", "api", "check")
    assert run.returncode == 1
    assert f"failure  settings     {package} 0.1 is installed" in run.stdout


@pytest.mark.parametrize(
    ("package", "supported"), [("gunicorn", GUNICORN_VERSIONS), ("prometheus-client", PROMETHEUS_VERSIONS)]
)
def test_pinned_versions_are_supported(package: str, supported: tuple[str, ...]) -> None:
    pins = re.findall(rf"^{package}==(\S+)", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    assert pins == [*supported]
