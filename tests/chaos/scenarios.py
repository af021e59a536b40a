"""Runs a fault under load, waits for the recovery, checks every row, and records the result."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.chaos.check import check_consistency
from tests.chaos.faults import PHASE_REQUESTS, Fault, Target
from tests.chaos.history import Finding, History, Operation, Outcome, wall_clock

# Seconds without a failed request and with all nodes up, after which the system counts as recovered.
STABLE_SECONDS = 2.0
# Seconds that a busy machine may need to observe a recovery that has already happened. Not part of any bound.
OBSERVATION_SECONDS = 30.0


@dataclass
class ScenarioResult:
    """A row of the results table. None means that the column does not apply."""

    name: str
    operations: int = 0
    acknowledged: int = 0
    unknown: int = 0
    errors: int = 0
    errors_after_detection: int | None = None
    recovery: float | None = None
    recovery_bound: float | None = None
    checked: int = 0
    lost: int = 0
    duplicates: int = 0
    verdict_if_passed: str = "ok"
    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.problems)

    @property
    def verdict(self) -> str:
        return "FAILED" if self.failed else self.verdict_if_passed

    def count(self, operations: list[Operation], findings: list[Finding]) -> None:
        """Set the counters from the operations and findings of this scenario."""
        self.operations = len(operations)
        self.acknowledged = sum(operation.outcome is Outcome.ACKNOWLEDGED for operation in operations)
        self.unknown = sum(operation.writes and operation.outcome is Outcome.UNKNOWN for operation in operations)
        self.errors = sum(operation.failed for operation in operations)
        self.duplicates = sum(finding.kind == "duplicate" for finding in findings)
        self.lost = len(findings) - self.duplicates


def run(name: str, inject: Callable[[Target], Fault], target: Target, history: History) -> ScenarioResult:
    """Run one scenario. The system is stable before and after the scenario."""
    result = ScenarioResult(name, recovery_bound=target.timing.recovery)
    first, known = len(history.operations), set(history.findings())
    with target.load.running():
        target.load.wait_for_acknowledged(PHASE_REQUESTS)
        fault = inject(target)
        try:
            _wait_until_stable(target, history, fault, first)
        except AssertionError as error:
            result.problems.append(str(error))
        target.load.wait_for_acknowledged(PHASE_REQUESTS)
    result.checked = check_consistency(target.ring, target.service, target.keyspace, history)
    operations = history.operations[first:]
    findings = [finding for finding in history.findings() if finding not in known]
    result.count(operations, findings)
    result.facts += [f"{wall_clock(fault.began)} fault began, {wall_clock(fault.ended)} fault ended", *fault.facts]
    result.problems += [f"{finding.kind}: {finding.subject}: {finding.detail}" for finding in findings]
    _check_bounds(result, target, operations, fault)
    return result


def _wait_until_stable(target: Target, history: History, fault: Fault, first: int) -> None:
    timeout = target.timing.recovery + OBSERVATION_SECONDS
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        healthy_at = target.probe.healthy_since(fault.ended)
        if healthy_at is not None:
            errors = [operation.started for operation in history.operations[first:] if operation.failed]
            if time.monotonic() - max([fault.ended, healthy_at, *errors]) >= STABLE_SECONDS:
                return
        time.sleep(0.05)
    raise AssertionError(
        f"the system was not stable for {STABLE_SECONDS:.0f} s within {timeout:.0f} s after the fault ended"
    )


def _must_succeed_from(operation: Operation, detected: float, latest: float, fault: Fault) -> float:
    """Return the time from which a node that is down must not affect this kind of request.

    See docs/faults.md.

    :param detected: when the service had marked the node down.
    :param latest: when the service must have marked it down.
    """
    if operation.kind.startswith(("POST /observers/batch", "GET /observers/stream")):
        # The coordinator waits for the dead node until it has marked the node down itself.
        return fault.peers_detected_at or fault.down_until or latest
    if operation.kind.startswith(("PUT", "PATCH", "DELETE", "POST /observers with key")):
        # A Paxos round from the first moments of the fault may still wait for the dead node.
        return latest
    return detected


def _check_bounds(result: ScenarioResult, target: Target, operations: list[Operation], fault: Fault) -> None:
    errors = [operation for operation in operations if operation.failed]
    # The service returns 500 only for an unexpected error, and it must expect these faults.
    result.problems += [f"status 500: {operation}" for operation in errors if operation.status == 500]
    early = [operation for operation in errors if operation.started < fault.began and operation.ended < fault.began]
    result.problems += [f"failed before the fault: {operation}" for operation in early]
    during = [operation for operation in errors if operation not in early and operation.started <= fault.ended]
    result.problems += [
        f"not explained by the fault: {operation}"
        for operation in during
        if operation.status != 500 and not fault.explains(operation)
    ]
    if fault.down_until is not None:
        _check_while_down(result, target, operations, errors, fault, fault.down_until)
    healthy_at = target.probe.healthy_since(fault.ended)
    if healthy_at is None:
        result.problems.append("not all workers report all nodes up")
        return
    result.recovery = max([healthy_at, *[operation.started for operation in errors]]) - fault.ended
    result.recovery = max(result.recovery, 0.0)
    if result.recovery > target.timing.recovery:
        result.problems.append(f"recovery took {result.recovery:.1f} s, more than {target.timing.recovery:.1f} s")


def _check_while_down(
    result: ScenarioResult,
    target: Target,
    operations: list[Operation],
    errors: list[Operation],
    fault: Fault,
    down_until: float,
) -> None:
    """Check that a node that is down, and marked down, affects no request."""
    detected_at = target.probe.detected_at(fault.began)
    latest = fault.began + target.timing.detection
    detected = min(filter(None, [detected_at, latest]))
    if detected_at is None or detected_at > latest + 1:
        result.problems.append(f"node not marked down within {target.timing.detection:.1f} s")
    after_detection = [operation for operation in errors if detected <= operation.started < down_until]
    violations = [
        operation
        for operation in after_detection
        if operation.started >= _must_succeed_from(operation, detected, latest, fault)
    ]
    result.errors_after_detection = len(violations)
    allowed = Counter(operation.kind for operation in after_detection if operation not in violations)
    result.facts.append(f"failures allowed until the other nodes marked the node down: {dict(allowed) or 'none'}")
    result.problems += [f"failed while a node was marked down: {operation}" for operation in violations]
    begun_count = sum(detected <= operation.started < down_until for operation in operations)
    result.facts.append(f"{begun_count} operations began while the node was marked down")
    if not begun_count:
        result.problems.append("no request was sent while the node was marked down")
