"""Reads the README's examples: what is typed, what comes back, and the files that its walk-through makes."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import httpx

BASE = "http://127.0.0.1:8000"


@dataclass
class Example:
    """A command after `$ ` in a console block, and the lines that it prints."""

    command: str
    output: list[str] = field(default_factory=list)


def examples(text: str) -> list[Example]:
    """All commands that call curl, in order."""
    found: list[Example] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        current: Example | None = None
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if line.startswith("$ "):
                current = None
                if line.startswith("$ curl "):
                    current = Example(line[2:])
                    found.append(current)
            elif current is not None:
                current.output.append(line)
    return found


def curl(client: httpx.Client, command: str) -> list[str]:
    """Does what curl would do, and gives the lines that it would print; knows `| head -N` too.

    With -i it prints of the headers only those that say something about the resource.
    """
    command, _, pipe = command.partition(" | head -")
    words = shlex.split(command)[1:]
    method, headers, body, show, url = None, {}, None, False, ""
    while words:
        word = words.pop(0)
        if word == "-X":
            method = words.pop(0)
        elif word == "-H":
            name, _, value = words.pop(0).partition(": ")
            headers[name] = value
        elif word == "-d":
            body = words.pop(0)
        elif word in ("-i", "-si"):
            show = True
        elif word not in ("-s", "-N"):
            url = word
    response = client.request(
        method or ("POST" if body else "GET"), url.removeprefix(BASE), headers=headers, content=body
    )
    lines = []
    if show:
        lines.append(f"HTTP/1.1 {response.status_code} {response.reason_phrase}")
        lines += [
            f"{name}: {response.headers[name]}"
            for name in ("Location", "ETag", "Link", "Allow")
            if name in response.headers
        ]
        lines.append("")
    lines += response.text.splitlines()
    return lines[: int(pipe)] if pipe else lines


def normal(line: str) -> str:
    """A line without what is different each time: new ids, times, versions, page states."""
    line = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>", line)
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", "<id>", line)
    line = re.sub(r'"[0-9a-f]{32}"', '"<version>"', line)
    line = re.sub(r"[\w-]+\.[\w-]{6}\.[\w-]{64}", "<page state>", line)
    return re.sub(r'"keyspace":"\w+"', '"keyspace":"<keyspace>"', line)


def files(section: str) -> list[tuple[str, str, str]]:
    """The walk-through's files in order: path, language of the block, text of the block."""
    return re.findall(r"\*\*`([^`]+)`\*\*[^\n]*\n\n```(\w+)\n(.*?)```", section, re.DOTALL)


def apply_diff(path: Path, diff: str) -> None:
    """Makes the change that lines of context, `-` and `+` describe; each line of context must be there, in order."""
    lines = path.read_text().splitlines()
    position = 0
    for change in diff.splitlines():
        mark, text = change[:1], change[1:]
        if mark == "+":
            lines.insert(position, text)
            position += 1
        else:
            position = lines.index(text, position)
            if mark == "-":
                del lines[position]
            else:
                position += 1
    path.write_text("\n".join(lines) + "\n")
