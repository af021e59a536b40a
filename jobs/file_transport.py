"""Messages as files, for development: kombu's filesystem transport with atomic operations.

kombu's transport first creates the file of a message and then writes its content. A worker that reads the file in
between receives invalid JSON, and ends. It also moves a received message to the temporary directory, where it stays if
the worker is killed at that moment.

| Private API of kombu | Used for |
|---|---|
| `transport.filesystem.Channel._put`, `._get` | are replaced |
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from queue import Empty
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads


class Channel(filesystem.Channel):
    """A channel whose messages are files."""

    def _put(self, queue: str, payload: dict[str, Any], **_: Any) -> None:  # type: ignore[override]
        # kombu finds the messages of a queue by the part of the name after the first period.
        name = f"{time.time_ns() // 1_000_000}_{uuid4()}.{queue}.msg"
        draft = Path(self.data_folder_out, f"{name}.new")
        draft.write_text(dumps(payload))  # type: ignore[no-untyped-call]
        os.rename(draft, Path(self.data_folder_out, name))

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        # The names begin with the time.
        for name in sorted(os.listdir(self.data_folder_in)):
            if name.partition(".")[2] == f"{queue}.msg":
                path = Path(self.data_folder_in, name)
                try:
                    text = path.read_text()
                    # Only one of several workers can delete the file. That worker receives the message.
                    path.unlink()
                except FileNotFoundError:
                    continue
                return loads(text)  # type: ignore[no-untyped-call]
        raise Empty


class Transport(filesystem.Transport):
    """The transport of the URL `filesystem://`."""

    Channel = Channel
