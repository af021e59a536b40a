"""The dashboard and the alert rules name only metrics, labels and values that the service has."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from observability import metrics
from tests.support import PROJECT, USER, Service

# Prometheus itself puts these on what it scrapes.
FROM_PROMETHEUS = {"job", "instance"}
LE = {"le"}
OUTCOMES = {"finished", "cut", "left"}


def expressions() -> list[tuple[str, str]]:
    """Where it stands, and what it is, of every PromQL expression."""
    dashboard = json.loads((PROJECT / "deploy" / "monitoring" / "grafana-dashboard.json").read_text())
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
    rules = yaml.safe_load((PROJECT / "deploy" / "monitoring" / "alerts.yml").read_text())
    found += [(f"alert {rule['alert']}", rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    assert len(found) > 25
    return found


@pytest.fixture(scope="module")
def exposed(live: Service) -> dict[str, set[str]]:
    """Sample names with the names of their labels: what /metrics shows, and what it will when it happens."""
    live.client.get("/plant/Quercus")
    live.client.post("/users", json=USER)
    found: dict[str, set[str]] = {}
    for family in parse(live.client.get("/metrics", headers={"Accept": "text/plain"}).text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # Nothing of this kind may have gone wrong yet.
    found.setdefault("fieldbook_driver_errors_total", set(metrics.DRIVER_ERRORS._labelnames))
    return found


def test_metrics_and_labels_exist(exposed: dict[str, set[str]]) -> None:
    """A typing error in an alert is an alert that never comes."""
    for where, expression in expressions():
        names = set(re.findall(r"\bfieldbook_\w+", expression))
        assert names <= exposed.keys(), where
        known = set().union(*(exposed[name] for name in names)) | FROM_PROMETHEUS | LE
        grouped = {
            label.strip() for labels in re.findall(r"\bby \(([^)]*)\)", expression) for label in labels.split(",")
        }
        selected = set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
        assert grouped | selected <= known, where
        assert set(re.findall(r'outcome="(\w+)"', expression)) <= OUTCOMES, where


def test_every_metric_is_shown(exposed: dict[str, set[str]]) -> None:
    """What is not worth a place on the dashboard is not worth counting."""
    shown = " ".join(expression for where, expression in expressions() if where.startswith("panel"))
    families = {re.sub(r"_(bucket|sum|count|total|created)$", "", name) for name in exposed}
    assert [family for family in families if family not in shown] == []


def test_alerts_say_what_to_think(exposed: Any) -> None:
    """Each has a summary and a severity; the labels in its text are among those that its expression keeps."""
    rules = yaml.safe_load((PROJECT / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"][0]["rules"]
    for rule in rules:
        assert rule["annotations"]["summary"], rule
        assert rule["labels"]["severity"] in ("page", "warn")
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", rule["expr"]))))
        assert set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"]))) <= kept
