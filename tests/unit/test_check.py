"""`flask --app api check`: what it says about settings, replication and clocks."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import environment
from commands import check
from environment import UnsupportedVersion
from server.event_loop import _OTHER_DESCRIPTORS
from settings import Settings
from storage.check import Finding, _accounts, _versions, clock_finding, replication_findings
from storage.cql.quorum import tolerates_a_failure
from tests.redis_server import redis_server
from tests.support import PROJECT

# Settings of a release without a warning.
RELEASE: dict[str, Any] = {
    "app_env": "production",
    "secret_key": "a key of a release",
    "operator_token": "a token of operators",
    "trusted_proxies": 1,
    "trusted_hosts": ("field.example.org",),
    "celery_broker_url": "redis://redis.example.org/1",
}


def findings(**changes: Any) -> list[tuple[str, str]]:
    return [(each.status, each.message) for each in check.settings_findings(Settings(**RELEASE | changes))]


@pytest.fixture(autouse=True)
def enough_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, check.FILES_OF_A_WORKER))
    monkeypatch.setattr(environment, "ignored_variables", [])


def test_settings_of_a_release_are_ok() -> None:
    assert findings() == [("ok", "APP_ENV=production; gunicorn accepts all settings")]


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"secret_key": None}, "failure", "SECRET_KEY is required"),
        ({"token_keys": PROJECT / "pyproject.toml"}, "failure", "TOKEN_KEYS: "),
        ({"operator_token": None}, "warning", "OPERATOR_TOKEN is not set"),
        ({"celery_broker_url": None}, "warning", "CELERY_BROKER_URL is not set"),
        ({"auth": "off"}, "warning", "AUTH=off"),
        ({"registration": "open"}, "warning", "REGISTRATION=open"),
        ({"trusted_proxies": 0}, "warning", "TRUSTED_PROXIES=0, but only a proxy on this machine can reach HOST="),
        ({"trusted_proxies": 0, "trusted_hosts": (), "host": "10.0.0.1"}, "warning", "TRUSTED_HOSTS is not set"),
        ({"drain_seconds": 0}, "warning", "DRAIN_SECONDS=0"),
        ({"read_only": True}, "warning", "READ_ONLY=true"),
        ({"diagnostics": True}, "warning", "DIAGNOSTICS=true"),
        ({"app_env": "development"}, "warning", "APP_ENV=development"),
    ],
    ids=str,
)
def test_each_doubtful_setting_is_one_finding(changes: dict[str, Any], status: str, message: str) -> None:
    ((found, text),) = findings(**changes)
    assert (found, text.startswith(message)) == (status, True), text


def connections(url: str | None) -> list[Finding]:
    """What the checks of the rate limits and the broker say about a Redis."""
    settings = Settings(**RELEASE | {"redis_url": url, "celery_broker_url": url})
    return [*check.redis_findings(settings), *check.broker_findings(settings)]


@pytest.mark.parametrize(
    ("url", "found"),
    [(None, []), ("redis://:a%20password@127.0.0.1:1/0", [("redis", "warning"), ("broker", "warning")])],
)
def test_a_redis_that_fails_is_a_warning(url: str | None, found: list[tuple[str, str]]) -> None:
    findings = connections(url)
    assert [(each.check, each.status) for each in findings] == found
    assert not any("a password" in each.message or "a%20password" in each.message for each in findings)


def test_a_redis_that_answers_is_ok(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        findings = connections(server.url)
        wrong = connections(server.url.replace("password", "word"))
    assert [each.status for each in findings] == ["ok", "ok"]
    assert [each.status for each in wrong] == ["warning", "warning"]


def test_a_rabbitmq_that_does_not_answer_is_a_warning() -> None:
    url = "amqp://guest:guest@127.0.0.1:1//"
    (finding,) = check.broker_findings(Settings(**RELEASE | {"celery_broker_url": url}))
    assert finding.status == "warning"


@pytest.mark.parametrize(
    ("tables", "account", "changes", "status"),
    [
        ((), None, {}, "skipped"),
        (("accounts",), ("ada@example.org",), {}, "ok"),
        (("accounts",), None, {}, "warning"),
        (("accounts",), None, {"auth": "off"}, "ok"),
        (("accounts",), None, {"registration": "open"}, "ok"),
    ],
)
def test_a_release_without_accounts_is_a_warning(
    tables: tuple[str, ...], account: tuple[str] | None, changes: dict[str, Any], status: str
) -> None:
    keyspaces = {"fieldbook": SimpleNamespace(tables=tables)}
    session: Any = SimpleNamespace(
        cluster=SimpleNamespace(metadata=SimpleNamespace(keyspaces=keyspaces)),
        execute=lambda query, timeout: SimpleNamespace(one=lambda: account),
    )
    ((found, _),) = _accounts(session, Settings(**RELEASE | changes))
    assert found == status


def test_development_on_other_addresses_is_a_failure() -> None:
    assert ("failure", "loopback addresses only, not on 0.0.0.0") in [
        (status, re.sub(r".*(loopback.*?0\.0\.0\.0).*", r"\1", text))
        for status, text in findings(app_env="development", host="0.0.0.0")
    ]


def test_unsupported_packages_file_limits_and_ignored_variables_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UnsupportedVersion("gunicorn 1.0 is installed")

    monkeypatch.setattr(check.versions, "require_supported", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 2063))
    monkeypatch.setattr(environment, "ignored_variables", ["CASANDRA_HOSTS is unknown."])
    (failure, ignored, files) = findings()
    assert failure == ("failure", "gunicorn 1.0 is installed")
    assert ignored == ("warning", "CASANDRA_HOSTS is unknown.")
    assert files[1].startswith("The hard limit of open files is 2,063")


def test_the_number_of_files_is_that_of_the_worker() -> None:
    configured = re.search(r"^worker_connections = (\d+)", (PROJECT / "gunicorn.conf.py").read_text(), re.MULTILINE)
    assert configured is not None
    assert int(configured[1]) + _OTHER_DESCRIPTORS == check.FILES_OF_A_WORKER


@pytest.mark.parametrize(
    ("offset", "uncertainty", "status"),
    [
        (0.4, 0.001, "ok"),
        (-0.6, 0.001, "warning"),
        (0.6, 0.2, "ok"),
        (5.1, 0.2, "warning"),
        (-5.3, 0.2, "failure"),
        (0.0, 0.7, "warning"),
    ],
)
def test_a_clock_is_judged_by_the_least_possible_difference(offset: float, uncertainty: float, status: str) -> None:
    assert clock_finding("10.0.0.1", offset, uncertainty)[0] == status


@pytest.mark.parametrize(
    ("factors", "nodes", "serial", "found"),
    [
        ({"dc1": 3}, {"dc1": 3}, "LOCAL_SERIAL", []),
        ({"dc1": 3}, {"dc1": 2}, "LOCAL_SERIAL", ["failure: The keyspace has 3 replicas in dc1, which has 2 nodes"]),
        ({"dc1": 3, "dc2": 3}, {"dc1": 3, "dc2": 3}, "LOCAL_SERIAL", ["warning: LOCAL_SERIAL orders transactions"]),
        ({"dc1": 3, "dc2": 3}, {"dc1": 3, "dc2": 3}, "SERIAL", []),
        ({None: 2}, {"dc1": 1, "dc2": 1}, "SERIAL", ["warning: SimpleStrategy ignores data centers"]),
        ({None: 2}, {"dc1": 2}, "LOCAL_SERIAL", []),
    ],
)
def test_replication_is_compared_with_the_nodes(
    factors: dict[str | None, int], nodes: dict[str, int], serial: str, found: list[str]
) -> None:
    lines = [f"{status}: {message}" for status, message in replication_findings(factors, nodes, serial)]
    assert [line[: len(start)] for line, start in zip(lines, found, strict=True)] == found


@pytest.mark.parametrize(
    ("level", "replicas", "tolerates"),
    [
        ("LOCAL_QUORUM", {"dc1": 3}, True),
        ("LOCAL_QUORUM", {"dc1": 2}, False),
        ("LOCAL_QUORUM", {"dc1": 3, "dc2": 1}, True),
        ("EACH_QUORUM", {"dc1": 3, "dc2": 1}, False),
        ("ONE", {"dc1": 2}, True),
        ("ALL", {"dc1": 3}, False),
    ],
)
def test_a_level_tolerates_a_failure_if_enough_replicas_remain(
    level: str, replicas: dict[str | None, int], tolerates: bool
) -> None:
    sets = frozenset(
        [frozenset(Node(f"{center}-{n}", center) for center, count in replicas.items() for n in range(count))]
    )
    assert tolerates_a_failure(level, "dc1", tuple(replicas.items()), sets) is tolerates


class Node(SimpleNamespace):
    """A node of the driver, with a name and a data center."""

    def __init__(self, name: str, datacenter: str | None) -> None:
        super().__init__(name=name, datacenter=datacenter)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.name)


@pytest.mark.parametrize(
    ("versions", "statuses"),
    [
        ({"5.0.8"}, ["ok"]),
        ({"4.1.10", "5.0.8"}, ["warning", "ok"]),
        ({"4.0.1"}, ["warning"]),
        ({"3.0.8"}, ["warning"]),
        (set(), ["warning"]),
    ],
)
def test_untested_and_mixed_versions_are_warnings(versions: set[str], statuses: list[str]) -> None:
    assert [status for status, _ in _versions(versions)] == statuses
