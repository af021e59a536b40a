"""The text of new modules, in the format that `make lint` requires."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from textwrap import wrap

from dev.resource import project
from dev.resource.names import Refused

_WIDTH = 120


def formatted(path: Path, text: str) -> str:
    """The text of a module without unused imports, formatted by ruff.

    :raises Refused: ruff fails, for example because it is not installed.
    """
    name = path.relative_to(project.PROJECT).as_posix()
    # Name the packages of the project, because ruff takes a module that does not exist yet for a third-party package.
    packages = json.dumps(sorted(package.name for package in project.packages()))
    fix = ["check", "--quiet", "--fix-only", "--config", f"lint.isort.known-first-party = {packages}"]
    # Remove unused imports first, because sorting wraps long lines.
    for command in ([*fix, "--select", "F401"], [*fix, "--select", "I001"], ["format", "--quiet"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", name, "-"],
            input=text,
            cwd=project.PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if run.returncode != 0:
            raise Refused(f"ruff can't format {name}: {run.stderr.strip()}")
        text = run.stdout
    docstrings = _lines_of_docstrings(text)
    lines = enumerate(text.splitlines(keepends=True), 1)
    return "".join(_wrapped(line, number in docstrings) for number, line in lines)


def _lines_of_docstrings(text: str) -> set[int]:
    numbers: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            numbers |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return numbers


def _wrapped(line: str, is_docstring: bool) -> str:
    """A docstring, comment or string of one line, wrapped at the line limit. ruff does not wrap these lines."""
    if len(line.rstrip("\n")) <= _WIDTH:
        return line
    indent = re.match(r" *", line)[0]  # type: ignore[index]
    text = line.strip()
    if is_docstring and text.startswith('"""') and text.endswith('"""'):
        return _paragraph(text.removesuffix('"""'), indent) + f'{indent}"""\n'
    if is_docstring or text.startswith("#"):
        return _paragraph(text, indent)
    if string := re.fullmatch(r'"([^"]+)"(,?)', text):
        return _parts(string[1], indent, string[2]) + "\n"
    if assigned := re.fullmatch(r'(\w+ ?= ?)"([^"]+)"(,?)', text):
        return f"{indent}{assigned[1]}(\n{_parts(assigned[2], f'{indent}    ')}\n{indent}){assigned[3]}\n"
    return line


def _parts(string: str, indent: str, comma: str = "") -> str:
    # Leave room for two quotes and the comma.
    parts = wrap(string, _WIDTH - len(indent) - len(f'""{comma}'), drop_whitespace=False)
    return "\n".join(f'{indent}"{part}"' for part in parts) + comma


def _paragraph(text: str, indent: str) -> str:
    # Indent the further lines of a field such as `:param`, and begin those of a comment with `#`.
    further = indent + {":": "    ", "#": "# "}.get(text[0], "")
    lines = wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=further, break_long_words=False)
    return "".join(f"{line}\n" for line in lines)
