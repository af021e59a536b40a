"""Deleting the pages leaves a project whose linters and tests pass."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import PROJECT, copy_mypy_cache, copy_project, run_python

# The list of docs/ui.md.
FILES = ("ui", "tests/functional/ui", "tests/unit/test_ui.py", "tests/browser.py", "tests/screenshots.py")
LINE = '    "ui",\n'

HOME = """
from api import create_app
from environment import get_settings
client = create_app(get_settings()).test_client()
page = client.get("/", headers={"Accept": "text/html"})
print(page.status_code, page.mimetype, "/docs/home.css" in page.text, "/ui" in page.text)
print(client.get("/ui/dashboard").status_code, client.get("/ui/static/dom.js").status_code)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_project_works_without_the_pages(tmp_path: Path) -> None:
    copy = tmp_path / "fieldbook"
    copy_project(copy)
    copy_mypy_cache(copy)
    # The unit tests list the files of the project with git.
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True, timeout=60)
    assert all(f"`{name}" in (PROJECT / "docs" / "ui.md").read_text() for name in FILES)
    for name in FILES:
        path = copy / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    registry = copy / "routes" / "__init__.py"
    text = registry.read_text()
    assert text.count(LINE) == 1
    registry.write_text(text.replace(LINE, ""))

    assert run_python(copy, "-c", HOME).splitlines() == ["200 text/html True False", "404 404"]
    run_python(copy, "-m", "ruff", "check", ".")
    run_python(copy, "-m", "mypy")
    run_python(copy, "-m", "dev.openapi", "--check")
    # Without the tests that remove other features, each in one more copy.
    run_python(copy, "-m", "pytest", "-q", "tests/unit/test_architecture.py", "-k", "not removes_a_feature")
    # Nothing else imports the pages or their tests.
    run_python(copy, "-m", "pytest", "-q", "--collect-only", "tests")
