"""Each alert has an entry in the runbook, docs/operations.md."""

from __future__ import annotations

import re

import yaml

from tests.support import PROJECT


def test_each_alert_has_an_entry_in_the_runbook_and_names_it() -> None:
    groups = yaml.safe_load((PROJECT / "deploy" / "monitoring" / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    page = (PROJECT / "docs" / "operations.md").read_text()
    entries = dict(re.findall(r"^### (Fieldbook\w+)\n\n(.+?)(?=\n##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(entries) == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        for part in ("**Meaning.**", "**Look at.**", "**Do.**"):
            assert part in entries[rule["alert"]], rule["alert"]
