"""Download Cassandra's jars once for each version, into the local Maven repository."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jgo
from jgo.maven import PythonResolver
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

DEFAULT_VERSION = "5.0.8"
# Size in bytes of Cassandra's jars and their dependencies.
_SIZES = {"4.1": 49_900_000, "5.0": 69_200_000}


class NodeError(Exception):
    """A node can't be started. The message is written for the user."""


def cassandra_version() -> str:
    """Return the Cassandra version of new nodes: the environment variable CASSANDRA_VERSION, or DEFAULT_VERSION.

    :raises NodeError: the variable does not name a release of Cassandra 4.1 or 5.0.
    """
    version = os.environ.get("CASSANDRA_VERSION") or DEFAULT_VERSION
    if not re.fullmatch(r"(4\.1|5\.0)\.\d+", version):
        raise NodeError(
            f"CASSANDRA_VERSION={version} is not supported. Set a release of Cassandra 4.1 or 5.0, such as 4.1.10 or "
            f"{DEFAULT_VERSION}."
        )
    return version


class _DownloadProgress:
    """One progress bar for all jars on a terminal; elsewhere one line every ten jars."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("  {task.description:<44.44}"),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=self.console,
        )
        self.jars = 0
        self.bytes = 0
        self.task: TaskID | None = None

    @contextmanager
    def __call__(self, filename: str, size: int) -> Iterator[Callable[[int], None]]:
        """Return the callback that jgo expects: a context manager that yields a function.

        jgo calls the function with the number of bytes that it has read.
        """
        if not filename.endswith(".jar"):
            yield lambda count: None
            return
        self.jars += 1
        if not self.console.is_terminal:
            yield self._count
            if self.jars % 10 == 0:
                print(f"  {self.jars} jars, {self.bytes / 1e6:.0f} MB", flush=True)
            return
        if self.task is None:
            self.bars.start()
            self.task = self.bars.add_task("", total=self.size)
        self.bars.update(self.task, description=f"{self.jars}: {filename}")
        yield self._count

    def _count(self, count: int) -> None:
        self.bytes += count
        if self.task is not None:
            self.bars.update(self.task, completed=self.bytes)


class _Resolver(PythonResolver):
    """Delete a partly downloaded jar from the local Maven repository when a download is interrupted."""

    def download(self, artifact):  # type: ignore[no-untyped-def]
        try:
            return super().download(artifact)
        except BaseException:
            if artifact.cached_path is not None:
                artifact.cached_path.unlink(missing_ok=True)
            raise


def class_path(version: str, cache: Path) -> list[Path]:
    """Return the jars of Cassandra and its dependencies. Download them if they are missing.

    :param version: Cassandra's version, such as `5.0.8`.
    :param cache: directory of this version, for links to the local Maven repository and for the list of jars.
    :returns: 64 paths for 4.1, about 100 for 5.0.
    :raises NodeError: when a jar can't be downloaded, or is damaged.
    """
    done = cache / "complete"
    if done.exists():
        jars = [Path(line) for line in done.read_text().splitlines()]
        if all(jar.exists() for jar in jars):
            return jars
    size = _SIZES[version[:3]]
    print(
        f"Preparing Cassandra {version}. The first time this downloads {size / 1e6:.0f} MB into ~/.m2 ...", flush=True
    )
    progress = _DownloadProgress(size)
    try:
        environment = jgo.build(
            f"org.apache.cassandra:cassandra-all:{version}",
            cache_dir=cache,
            resolver=_Resolver(progress_callback=progress),
        )
    except Exception as error:
        raise NodeError(
            f"Cassandra {version} could not be downloaded from Maven Central: {error}\n"
            "Check the network and run the command again; it keeps the jars that are complete. Set HTTPS_PROXY to use "
            "a proxy, and REQUESTS_CA_BUNDLE to the certificate of a proxy that intercepts TLS."
        ) from error
    finally:
        progress.bars.stop()
    jars = list(environment.all_jars)
    for jar in jars:
        if not zipfile.is_zipfile(jar):
            raise NodeError(
                f"{jar.name} is damaged. Delete it from the local Maven repository and run the command again."
            )
    done.write_text("\n".join(map(str, jars)))
    return jars
