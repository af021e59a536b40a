"""`flask --app api check`: what an operator checks before a release."""

from __future__ import annotations

import json
import os
import queue
import resource
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import click

import environment
from auth.access_tokens import AccessTokens
from environment import settings_or_exit
from server import loopback, versions
from settings import Settings, SettingsError
from storage.check import Finding, cluster_findings
from web.redis_counters import RedisCounters

# Seconds for all checks that use Cassandra.
TIME_LIMIT = 90.0
# worker_connections of gunicorn.conf.py, and 64 other files.
FILES_OF_A_WORKER = 2064

_HELP = f"""Check settings, connection, schema, consistency levels and clocks before a release.

It changes no data, and ends within {TIME_LIMIT:.0f} seconds. Run it where the service runs, with the same settings.
Each line begins with ok, warning, failure or skipped.

\b
Exit status: 0 no failure; 1 a failure; 2 wrong usage, or settings that can't be read.
"""


@click.command("check", help=_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def command(as_json: bool) -> None:
    settings = settings_or_exit()
    findings = []
    for finding in _all_findings(settings):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.status:<8} {finding.check:<12} {finding.message}")
    counts = Counter(finding.status for finding in findings)
    if as_json:
        result = "failure" if counts["failure"] else "warning" if counts["warning"] else "ok"
        click.echo(json.dumps({"result": result, "findings": [each._asdict() for each in findings]}, indent=2))
    else:
        click.echo(f"failures: {counts['failure']}, warnings: {counts['warning']}")
    # The driver's threads may still wait for a silent node. sys.exit() would wait for them. click.echo() has flushed.
    os._exit(1 if counts["failure"] else 0)


def _all_findings(settings: Settings) -> Iterator[Finding]:
    yield from settings_findings(settings)
    # Connecting has no total time limit: the driver tries one contact point after the other.
    results: queue.SimpleQueue[Finding | BaseException | None] = queue.SimpleQueue()
    threading.Thread(target=_put_findings, args=(settings, results), daemon=True).start()
    latest = time.monotonic() + TIME_LIMIT
    while True:
        try:
            result = results.get(timeout=max(0.0, latest - time.monotonic()))
        except queue.Empty:
            message = (
                f"Cassandra did not answer all checks within {TIME_LIMIT:.0f} s. Check the nodes (nodetool status)"
            )
            yield Finding("connection", "failure", message)
            return
        if isinstance(result, BaseException):
            raise result
        if result is None:
            return
        yield result


def _put_findings(settings: Settings, results: queue.SimpleQueue[Finding | BaseException | None]) -> None:
    try:
        for finding in chain(redis_findings(settings), broker_findings(settings), cluster_findings(settings)):
            results.put(finding)
        results.put(None)
    except BaseException as error:
        results.put(error)


def settings_findings(settings: Settings) -> Iterator[Finding]:
    """Report settings that are valid, but that gunicorn refuses or a release should not have."""
    found = False
    for failure in _failures(settings):
        found = True
        yield Finding("settings", "failure", failure)
    for warning in _warnings(settings):
        found = True
        yield Finding("settings", "warning", warning)
    if not found:
        yield Finding("settings", "ok", f"APP_ENV={settings.app_env}; gunicorn accepts all settings")


def _failures(settings: Settings) -> Iterator[str]:
    """Why gunicorn would refuse to start."""
    for check in (
        settings.check_signing_key,
        lambda: _check_token_keys(settings),
        versions.require_supported,
        lambda: loopback.check_addresses(settings, [settings.host]),
    ):
        try:
            check()
        except SettingsError as error:
            yield str(error)


def _check_token_keys(settings: Settings) -> None:
    # Keys that are derived from SECRET_KEY are always valid.
    if settings.token_keys is not None:
        AccessTokens(settings)


def _warnings(settings: Settings) -> Iterator[str]:
    yield from environment.ignored_variables
    if settings.read_only:
        yield "READ_ONLY=true: the service rejects writes. Set it to false after the maintenance"
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FILES_OF_A_WORKER:
        yield (
            f"The hard limit of open files is {hard:,}, so each worker keeps fewer than 2,000 connections. Raise it to "
            f"{FILES_OF_A_WORKER:,} (LimitNOFILE of systemd)"
        )
    if settings.app_env == "development":
        yield "APP_ENV=development: the diagnostics routes are open to everybody. Use production for a release"
        return
    if settings.operator_token is None:
        yield "OPERATOR_TOKEN is not set, so only accounts with the scope operator can call POST /shutdown"
    if settings.sign_in == "off":
        yield "AUTH=off: every client can read and write all rows. Set it to all, or to writes for public reads"
    elif settings.is_registration_open:
        yield "REGISTRATION=open: every client can create an account that may read and write"
    if settings.has_diagnostics:
        yield "DIAGNOSTICS=true: operators can call the diagnostics routes. Set it to false when you do not need them"
    if settings.broker_url is None:
        yield "CELERY_BROKER_URL is not set, so imports of more than 10,000 rows get 503. Set it to a Redis or RabbitMQ"
    if settings.drain_time == 0:
        yield (
            "DRAIN_SECONDS=0: at a shutdown, the load balancer still sends requests to this instance. Set it to more "
            "than the load balancer's check interval × failure threshold"
        )
    if not settings.trusted_hosts:
        yield "TRUSTED_HOSTS is not set, so every Host is accepted. Set it to the host names that clients use"
    if settings.trusted_proxies == 0 and loopback.is_loopback(settings.host):
        yield (
            f"TRUSTED_PROXIES=0, but only a proxy on this machine can reach HOST={settings.host}. Set TRUSTED_PROXIES "
            "to the number of reverse proxies; otherwise all clients have the proxy's address"
        )


def redis_findings(settings: Settings) -> Iterator[Finding]:
    """Connect to the Redis of the rate limits, as a worker does."""
    if settings.redis_url is None:
        return
    try:
        RedisCounters(settings.redis_url.get_secret_value()).check()
    except Exception as error:
        yield Finding(
            "redis",
            "warning",
            f"The Redis of REDIS_URL fails ({type(error).__name__}: {error}), so each worker would count requests for "
            "rate limits by itself. Start Redis, or correct REDIS_URL",
        )
    else:
        yield Finding("redis", "ok", "Redis counts requests for rate limits")


def broker_findings(settings: Settings) -> Iterator[Finding]:
    """Connect to the broker of background jobs, as a process that sends messages does."""
    if settings.celery_broker_url is None:
        return
    # Imported only here: web processes load this module too, and import Celery with their first message.
    from jobs.celery_app import application

    try:
        with application(settings, sends_only=True).connection_for_write() as connection:
            connection.connect()
    except Exception as error:
        yield Finding(
            "broker",
            "warning",
            f"The broker of CELERY_BROKER_URL fails ({type(error).__name__}: {error}), so background jobs would wait. "
            "Start it, or correct CELERY_BROKER_URL",
        )
    else:
        yield Finding("broker", "ok", "the broker of background jobs accepts the connection")
