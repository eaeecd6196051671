"""Explanations of draining jobs, with what to do where manual action is required."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.escalation import going_on, read_since
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.services.explanation.before_terminate_job import queue_position
from orchestrator.services.explanation.phrases import explain_poll, job_state_text, time_text

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.explanation.values import Explanation, ExplanationContext

_INSTANCES: Final = "/v1/terminations/{}/instances"


def explain_draining(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.schedule.terminate_after is not None:
        position = queue_position(termination, termination.schedule.terminate_after, context)
        why = (
            "the job kept running, or was revived, after the last TerminateJob request: "
            f"{_status_suffix(termination)}"
        )
        return replace(position, waiting_for=f"{position.waiting_for}; {why}")
    manual = termination.escalation.level is EscalationLevel.MANUAL
    return explain_poll(
        termination,
        context,
        f"{_remaining(termination)}; {_status_suffix(termination)}{escalation_suffix(termination)}",
        "poll the job again; it counts as stopped once it is finished and no instance is live"
        + (f"; manual action meanwhile: {manual_steps(termination)}" if manual else ""),
    )


def escalation_suffix(termination: Termination) -> str:
    """Return what was done about instances that do not stop."""
    if (
        termination.escalation.level is EscalationLevel.NONE
        or termination.escalation.started_at is None
    ):
        return ""
    since, rounds = time_text(termination.escalation.started_at), termination.escalation.round
    if termination.escalation.level is EscalationLevel.INSTANCES:
        status = _round_status(termination, "instance")
        return f"; since {since} TerminateTaskInstance {status} (round {rounds})"
    if termination.escalation.level is EscalationLevel.MACHINES:
        return f"; since {since} TerminateInstances {_round_status(termination, 'machine')}"
    manual = f"; manual action is required since {since}:"
    if not termination.request.escalate:
        return f"{manual} the request allows TerminateJob only (`escalate` is false)"
    if not rounds:
        return f"{manual} instances are still live after TerminateJob"
    return (
        f"{manual} instances are still live after {rounds} rounds of TerminateTaskInstance "
        "(`attempts` has the answers)"
        f"{_read_error_suffix(termination, '; the instances cannot be read')}"
    )


def _round_status(termination: Termination, target: str) -> str:
    """Return how far the requests of this round are, one for each ``target``."""
    unread = not read_since(termination)
    if not going_on(termination):
        if unread:
            why = _read_error_suffix(termination, ", because the instances could not be read")
            return f"was sent for no {target}{why}"
        return "was sent (`attempts` has the answers)"
    if termination.state.final:
        why = _read_error_suffix(termination, "; reading the instances had failed")
        return f"was not sent for every {target} before the end{why if unread else ''}"
    if unread:
        why = _read_error_suffix(termination, ", but reading them fails")
        return f"will be sent for each {target} once the instances are read{why}"
    return f"is being sent for each {target}"


def _read_error_suffix(termination: Termination, words: str) -> str:
    """Return ``words`` and the error if the last read of the instances failed, else ""."""
    problem = termination.captures.rescan and termination.captures.rescan.problem
    return f"{words}: {problem.code}: {problem.message}" if problem else ""


def manual_steps(termination: Termination) -> str:
    """Return what a person can do about the rest, with the vendor's command line."""
    instances, machines = termination.drain.counters, termination.machines
    if instances is None or instances.live:
        return _instance_steps(termination)
    if machines.up:
        return machine_steps(termination)
    listed = f" (captured machines: {_INSTANCES.format(termination.id)})" if machines.total else ""
    return (
        f"check in the console that the job has stopped and that none of its machines is up{listed}"
    )


def machine_steps(termination: Termination) -> str:
    return (
        f"list the machines that are up: {_INSTANCES.format(termination.id)}?machine=up; check "
        "that nothing else runs there, then terminate each: tccli cvm TerminateInstances "
        f"--region {termination.region} --InstanceIds '[\"ins-...\"]'"
    )


def _instance_steps(termination: Termination) -> str:
    region, job_id = termination.region, termination.job_id
    source = f"{_INSTANCES.format(termination.id)}?state=live"
    if not _instances_can_be_listed(termination):
        source = f"tccli batch DescribeTask --region {region} --JobId {job_id} --TaskName TASK"
    return (
        f"list the live instances and their machines: {source}; terminate each instance: tccli "
        f"batch TerminateTaskInstance --region {region} --JobId {job_id} --TaskName TASK "
        "--TaskInstanceIndex INDEX, or its machine if nothing else runs there: tccli cvm "
        f"TerminateInstances --region {region} --InstanceIds '[\"ins-...\"]'"
    )


def _instances_can_be_listed(termination: Termination) -> bool:
    """Return whether the REST API lists instances: before the end, a request has them read."""
    nodes = termination.captures.machines.nodes if termination.captures.machines else 0
    return not termination.state.final or termination.machines.total + nodes > 0


def _status_suffix(termination: Termination) -> str:
    since = termination.drain.forecast and termination.drain.forecast.stalled_since
    stalled = f"; no progress since {time_text(since)}" if since else ""
    return f"{job_state_text(termination)}{stalled}"


def _remaining(termination: Termination) -> str:
    instances = termination.drain.counters
    if instances is None:
        return "its instances, not counted yet, to stop"
    if instances.live:
        return f"{instances.live} of {instances.total} instances to stop"
    if termination.job.next_action:
        pending = f"the pending {termination.job.next_action}"
        return f"{pending} to end; no instance was live at the last count"
    if termination.job.finished:
        return "proof that all instances stopped: the last count showed none live but is no proof"
    return "the job to finish; no instance was live at the last count"
