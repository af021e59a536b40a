"""The dashboard and the alert rules use only metrics and labels that the service exposes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from observability import metrics
from tests.support import OBSERVER, PROJECT, Service

MONITORING = PROJECT / "deploy" / "monitoring"
# Prometheus adds these labels to every scraped sample.
TARGET_LABELS = {"job", "instance"}
# The bucket label of histograms.
BUCKET_LABELS = {"le"}
OUTCOMES = {"finished", "aborted", "disconnected", "too_slow", "failed"}


def alert_rules() -> list[dict[str, Any]]:
    """Return the alert rules of all groups."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promql_expressions() -> list[tuple[str, str]]:
    """Return the location and the text of every PromQL expression."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    found = [
        (f"panel {panel['title']}", target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]
    found += [
        (f"variable {item['name']}", item["definition"])
        for item in dashboard["templating"]["list"]
        if "definition" in item
    ]
    found += [(f"alert {rule['alert']}", rule["expr"]) for rule in alert_rules()]
    assert len(found) > 25
    return found


def grouping_labels(expression: str) -> set[str]:
    """Return the labels in the `by (...)` clauses of a PromQL expression."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", expression))))


@pytest.fixture(scope="module")
def exposed(live: Service) -> dict[str, set[str]]:
    """Names of the samples that /metrics exposes, each with the names of its labels."""
    live.client.get("/find/Quercus")
    live.client.post("/observers", json=OBSERVER)
    found: dict[str, set[str]] = {}
    for family in parse(live.client.get("/metrics", headers={"Accept": "text/plain"}).text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # The service exposes this sample after the first driver error, which may not have happened yet.
    found.setdefault("fieldbook_driver_errors_total", set(metrics.DRIVER_ERRORS._labelnames))
    # Only the sweep of a job worker sets these.
    for gauge in (metrics.JOBS_OPEN, metrics.OLDEST_QUEUED, metrics.LAST_SWEEP):
        found.setdefault(gauge._name, set(gauge._labelnames))
    return found


def test_expressions_use_existing_metrics_and_labels(exposed: dict[str, set[str]]) -> None:
    """An alert with a misspelled metric, label or value never fires."""
    for location, expression in promql_expressions():
        names = set(re.findall(r"\bfieldbook_\w+", expression))
        assert names <= exposed.keys(), location
        known = set().union(*(exposed[name] for name in names)) | TARGET_LABELS | BUCKET_LABELS
        selected = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
        assert grouping_labels(expression) | selected <= known, location
        assert set(re.findall(r'outcome="(\w+)"', expression)) <= OUTCOMES, location


def test_dashboard_shows_every_metric(exposed: dict[str, set[str]]) -> None:
    shown = " ".join(expression for location, expression in promql_expressions() if location.startswith("panel"))
    families = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in exposed}
    assert [family for family in families if family not in shown] == []


def test_alerts_have_summary_and_severity() -> None:
    """Every alert has a summary and a severity.

    Its texts use only labels that its expression keeps.
    """
    for rule in alert_rules():
        assert rule["annotations"]["summary"], rule
        assert rule["labels"]["severity"] in ("page", "warn")
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= grouping_labels(rule["expr"])
