"""Runs a fault under load, waits for the recovery, has every row checked, and says what came of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.check import verify
from tests.chaos.faults import PHASE, Fault, Target
from tests.chaos.history import Finding, History, Operation, Outcome, wall_clock

# Seconds without an error, and with all nodes up, before a fault counts as over.
QUIET = 2.0
# Seconds that a busy machine may need to look at what has happened already; not part of any bound.
PATIENCE = 30.0


@dataclass
class Line:
    """A row of the table. None is what does not apply."""

    fault: str
    operations: int = 0
    acknowledged: int = 0
    unknown: int = 0
    errors: int = 0
    after_mark: int | None = None
    recovery: float | None = None
    bound: float | None = None
    checked: int = 0
    lost: int = 0
    duplicates: int = 0
    verdict: str = "ok"
    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.problems)

    def count(self, operations: list[Operation], findings: list[Finding]) -> None:
        self.operations = len(operations)
        self.acknowledged = sum(operation.outcome is Outcome.ACKNOWLEDGED for operation in operations)
        self.unknown = sum(operation.writes and operation.outcome is Outcome.UNKNOWN for operation in operations)
        self.errors = sum(operation.failed for operation in operations)
        self.duplicates = sum(finding.kind == "duplicate" for finding in findings)
        self.lost = len(findings) - self.duplicates

    def judge(self) -> None:
        if self.problems:
            self.verdict = "FAILED"


def run(name: str, fault: Callable[[Target], Fault], target: Target, history: History) -> Line:
    """One scenario, from a quiet system to a quiet system."""
    line = Line(name, bound=target.timing.recovery)
    first, known = len(history.operations), set(history.findings())
    with target.load.running():
        target.load.wait_for_acknowledged(PHASE)
        done = fault(target)
        try:
            _wait_until_quiet(target, history, done, first)
        except AssertionError as error:
            line.problems.append(str(error))
        target.load.wait_for_acknowledged(PHASE)
    line.checked = verify(target.ring, target.service, target.keyspace, history)
    operations = history.operations[first:]
    findings = [finding for finding in history.findings() if finding not in known]
    line.count(operations, findings)
    line.facts += [f"{wall_clock(done.began)} began, {wall_clock(done.ended)} ended", *done.facts]
    line.problems += [f"{finding.kind}: {finding.subject}: {finding.detail}" for finding in findings]
    _hold_to_bounds(line, target, operations, done)
    line.judge()
    return line


def _wait_until_quiet(target: Target, history: History, done: Fault, first: int) -> None:
    limit = time.monotonic() + target.timing.recovery + PATIENCE
    while time.monotonic() < limit:
        well = target.probe.well(done.ended)
        if well is not None:
            errors = [operation.started for operation in history.operations[first:] if operation.failed]
            if time.monotonic() - max([done.ended, well, *errors]) >= QUIET:
                return
        time.sleep(0.05)
    raise AssertionError(f"no quiet {QUIET:.0f} s came within {target.timing.recovery + PATIENCE:.0f} s after the end")


def _mark(operation: Operation, seen: float, latest: float, done: Fault) -> float:
    """From when on a node that is down may disturb this kind of request no more: docs/faults.md."""
    if operation.kind.startswith(("POST /users/batch", "GET /users/stream")):
        # A coordinator waits for a dead node until it knows itself, whatever the driver knows.
        return done.convicted or done.down_until or latest
    if operation.kind.startswith(("PUT", "PATCH", "DELETE", "POST /users with key")):
        # A Paxos round of the first moment may still count on it.
        return latest
    return seen


def _hold_to_bounds(line: Line, target: Target, operations: list[Operation], done: Fault) -> None:
    errors = [operation for operation in operations if operation.failed]
    # 500 is for what nobody expected, and a fault is expected.
    line.problems += [f"not an answer to a fault: {operation}" for operation in errors if operation.status == 500]
    early = [operation for operation in errors if operation.started < done.began and operation.ended < done.began]
    line.problems += [f"before the fault: {operation}" for operation in early]
    during = [operation for operation in errors if operation not in early and operation.started <= done.ended]
    line.problems += [
        f"not explained by the fault: {operation}"
        for operation in during
        if operation.status != 500 and not done.excuses(operation)
    ]
    if done.down_until is not None:
        seen = target.probe.marked_down(done.began)
        latest = done.began + target.timing.mark
        mark = min(filter(None, [seen, latest]))
        if seen is None or seen > latest + 1:
            line.problems.append(f"not marked down within {target.timing.mark:.1f} s")
        after = [operation for operation in errors if mark <= operation.started < done.down_until]
        late = [operation for operation in after if operation.started >= _mark(operation, mark, latest, done)]
        line.after_mark = len(late)
        sooner = Counter(operation.kind for operation in after if operation not in late)
        line.facts.append(f"failed when the service knew, but the other nodes did not yet: {dict(sooner) or 'nothing'}")
        line.problems += [f"with one node down and known to be: {operation}" for operation in late]
        alive = sum(mark <= operation.started < done.down_until for operation in operations)
        line.facts.append(f"{alive} operations began while the node was down and marked so")
        if not alive:
            line.problems.append("nothing was asked of the service while the node was marked down")
    well = target.probe.well(done.ended)
    if well is None:
        line.problems.append("not all workers see all nodes up")
        return
    line.recovery = max([well, *[operation.started for operation in errors]]) - done.ended
    line.recovery = max(line.recovery, 0.0)
    if line.recovery > target.timing.recovery:
        line.problems.append(f"recovery took {line.recovery:.1f} s, over {target.timing.recovery:.1f} s")
