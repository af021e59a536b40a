"""First use of statements by new workers while one node is silent.

Each worker prepares each statement once. A statement that is idempotent and uses one partition must not wait for the
silent node, neither to be prepared nor to be executed.
"""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

from tests.chaos import faults
from tests.chaos.check import check_consistency
from tests.chaos.faults import PHASE_REQUESTS, Target
from tests.chaos.history import History
from tests.chaos.load import Load
from tests.chaos.probe import Probe
from tests.chaos.scenarios import ScenarioResult
from tests.chaos.self_tests import REPORTED
from tests.chaos.system import Timing, service_environment, service_on_keyspace
from tests.support import wait_for

# One request each. So many that some certainly go to the silent node first.
_CLIENTS = 24
# Seconds. The service must not mark the silent node down: then it would no longer use the node.
_NO_HEARTBEATS = 60.0
_FAILED = "failed at the first use"


def reload_with_silent_node(target: Target, history: History, directory: Path) -> ScenarioResult:
    """Reload a service, pause a node, and use several statements for the first time."""
    return _run("SIGHUP, SIGSTOP a node, first use", target, history, directory, target.timing, first_client=101)


def self_test(target: Target, history: History, directory: Path) -> ScenarioResult:
    """Do the same without speculative execution: requests wait for the node, and the check must report them."""
    name, timing = "self-test: first use waits for the node", replace(target.timing, speculative_delay=0)
    result = _run(name, target, history, directory, timing, first_client=201)
    waiting = [problem for problem in result.problems if problem.startswith(_FAILED)]
    result.facts += waiting[:1]
    result.problems = [problem for problem in result.problems if problem not in waiting]
    if not waiting:
        result.problems.append("not reported: requests that wait for the silent node")
    result.verdict_if_passed = REPORTED
    return result


def _run(
    name: str, target: Target, history: History, directory: Path, timing: Timing, first_client: int
) -> ScenarioResult:
    """Run the scenario on a service of its own, with the nodes, the keyspace and the history of the suite.

    :param first_client: number of the first client; the suite's other clients have other numbers.
    """
    ring, node = target.ring, target.ring.nodes[1]
    result, first, known = ScenarioResult(name), len(history.operations), set(history.findings())
    timing = replace(timing, heartbeat_interval=_NO_HEARTBEATS)
    environment = service_environment(ring, target.keyspace, 3, timing)
    with service_on_keyspace(environment, f"first-use-{first_client}", directory) as service:
        load, probe = Load(f"http://127.0.0.1:{service.port}", history, _CLIENTS, first_client), Probe(service)
        try:
            with load.running():
                load.wait_for_acknowledged(PHASE_REQUESTS)
            fault = faults.reload_service(replace(target, service=service))
            wait_for(lambda: probe.healthy_since(fault.ended), description="new workers that use all nodes")
            ring.send_signal(signal.SIGSTOP, node)
            try:
                first_uses = load.send_idempotent_requests()
            finally:
                ring.send_signal(signal.SIGCONT, node)
        finally:
            probe.close()
            load.close()
    result.checked = check_consistency(ring, target.service, target.keyspace, history)
    findings = [finding for finding in history.findings() if finding not in known]
    result.count(history.operations[first:], findings)
    result.problems += [f"{finding.kind}: {finding.subject}: {finding.detail}" for finding in findings]
    result.problems += [f"{_FAILED}: {operation}" for operation in first_uses if operation.failed]
    slowest = max(operation.ended - operation.started for operation in first_uses)
    result.facts += fault.facts
    result.facts.append(f"{len(first_uses)} first requests of the new workers, the slowest took {slowest:.1f} s")
    return result
