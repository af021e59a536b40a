"""deploy/nginx/rolling_restart.py: how it edits the upstream file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from tests.support import PROJECT

TEXT = """\
upstream fieldbook {
    zone fieldbook 256k;
    # server 127.0.0.1:8000;
    server 127.0.0.1:8000 max_fails=3 fail_timeout=5s;  # the first; down in May
\tserver  127.0.0.1:80001;
    server [::1]:8000 down weight=2;
    server fieldbook-2.example.org:8000 backup ;
    keepalive 64;
}
"""


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location(
        "rolling_restart", PROJECT / "deploy" / "nginx" / "rolling_restart.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "upstream.conf"
    file.write_text(TEXT)
    file.chmod(0o640)
    return file


def test_instances_are_read_from_the_upstream_file(script: Any, file: Path) -> None:
    assert script.Upstream(file).instances() == {
        "127.0.0.1:8000": False,
        "127.0.0.1:80001": False,
        "[::1]:8000": True,
        "fieldbook-2.example.org:8000": False,
    }


@pytest.mark.parametrize(
    ("address", "before", "after"),
    [
        ("127.0.0.1:8000", "max_fails=3 fail_timeout=5s;", "max_fails=3 fail_timeout=5s down;"),
        ("127.0.0.1:80001", "127.0.0.1:80001;", "127.0.0.1:80001 down;"),
        ("fieldbook-2.example.org:8000", "backup ;", "backup  down;"),
    ],
)
def test_mark_changes_one_parameter(script: Any, file: Path, address: str, before: str, after: str) -> None:
    """Comments, other parameters, other servers and the file's mode stay as they are."""
    upstream = script.Upstream(file)
    assert upstream.mark(address, True) == TEXT
    assert file.read_text() == TEXT.replace(before, after)
    assert script.Upstream(file).instances()[address] is True
    upstream.mark(address, True)
    upstream.mark(address, False)
    assert file.read_text() == TEXT
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_mark_that_was_made_by_hand_is_removed(script: Any, file: Path) -> None:
    script.Upstream(file).mark("[::1]:8000", False)
    assert file.read_text() == TEXT.replace(" down weight=2", " weight=2")


def test_symbolic_link_is_kept(script: Any, file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.conf"
    link.symlink_to(file)
    script.Upstream(link).mark("127.0.0.1:8000", True)
    assert link.is_symlink()
    assert script.Upstream(file).instances()["127.0.0.1:8000"] is True
