"""Explanation of a termination: what it waits for, what happens next, or how it ended.

The texts are read by the person on call, in the REST API and in ``orchestrator status``.
``waiting_for`` continues the words "waits for"; in a final state it begins with "nothing: ".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, assert_never

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.capture_coverage import captured, missed
from orchestrator.domain.decisions.escalation import going_on, read_since
from orchestrator.domain.decisions.manual_end import NOT_CONFIGURED
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.model.unconfirmed import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.model.unconfirmed import Unconfirmed
    from orchestrator.domain.pacing.quota import Rate

    Explainer = Callable[[Termination, "ExplanationContext"], "Explanation"]

_INSTANCES: Final = "/v1/terminations/{}/instances"
LATE_S: Final = 5.0
"""A poll that is overdue for longer waits behind other polls, so its time is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What a termination waits for, and what comes next.

    ``next_action``: what happens next; in a final state, what a person can do, or None.
    ``next_action_at``: None if no time is known.
    """

    waiting_for: str
    next_action: str | None = None
    next_action_at: datetime | None = None


UNEXPLAINED: Final = Explanation(
    waiting_for="the next step of its `state`; the explanation failed, see the daemon's log"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationContext:
    """What an explanation needs besides the termination.

    ``ahead``: number of jobs for which TerminateJob is sent before this one.
    ``rate``: TerminateJob rate of the partition; None if this replica is not configured for it.
    ``trouble``: why the API calls of the partition fail now.
    ``capture_wait_s``: how long TerminateJob waits for the capture of the job's machines.
    ``configured``: whether any replica is configured for the partition.
    ``elsewhere``: the other replica that drives the partition, if one does.
    """

    now: datetime
    ahead: int
    rate: Rate | None
    trouble: ErrorDetail | None
    capture_wait_s: float
    configured: bool = True
    elsewhere: str | None = None


def explain(termination: Termination, context: ExplanationContext) -> Explanation:
    """Return what this termination waits for; defined for every state."""
    if (why := termination.schedule.set_aside) is not None:
        return Explanation(
            waiting_for=f"a repair; this termination is set aside: {why}",
            next_action="try it again every minute; report the fault with the daemon's log",
        )
    if not context.configured and not termination.state.final:
        return Explanation(
            waiting_for=f"account {termination.account!r} and its region {termination.region!r} "
            "to be configured again",
            next_action="add the account to the configuration and restart the daemon, or end the "
            "operation: POST /v1/operations/ID:stop",
        )
    explanation = _EXPLAIN[termination.state](termination, context)
    if termination.state.final:
        return _with_revival(explanation, termination)
    if termination.unconfirmed is not None:
        explanation = _explain_unconfirmed(termination, termination.unconfirmed)
    if explanation.next_action_at is not None:
        due_at = max(explanation.next_action_at, context.now)
        explanation = replace(explanation, next_action_at=due_at)
    if context.trouble is None:
        return explanation
    source, place = "", ""
    if context.elsewhere is not None:
        source, place = f" of replica {context.elsewhere}", f"at replica {context.elsewhere}: "
    trouble = f"cloud API calls{source} fail ({context.trouble.code}: {context.trouble.message})"
    advice = f"; {place}{context.trouble.advice}" if context.trouble.advice else ""
    return replace(
        explanation,
        waiting_for=f"{explanation.waiting_for}; {trouble}",
        next_action=f"{explanation.next_action}{advice}",
    )


def _explain_unconfirmed(termination: Termination, unconfirmed: Unconfirmed) -> Explanation:
    """Explain a verdict that ends the termination unless a later answer contradicts it."""
    sources = " and ".join(unconfirmed.sources)
    until = _time(max(unconfirmed.until, termination.schedule.next_poll_at or unconfirmed.until))
    since = _time(unconfirmed.since)
    match unconfirmed.verdict:
        case Verdict.MISSING:
            found = "found again" if termination.job.observed_at else "found"
            waiting_for = f"the job to be {found}: missing from {sources} since {since}"
            end = f"the termination ends at {until} unless the job is found"
        case Verdict.FORBIDDEN:
            waiting_for = f"permission for {sources}, refused since {since}"
            end = f"the termination ends as refused at {until} unless permission is granted"
        case Verdict.UNREADABLE:
            waiting_for = f"a successful read: the deadline has passed, reads fail since {since}"
            end = f"the termination ends at {until} unless the job can be read"
        case _:
            assert_never(unconfirmed.verdict)
    return Explanation(
        waiting_for=f"{waiting_for}; {end}{_last_error_suffix(termination)}",
        next_action="poll the job again",
        next_action_at=termination.schedule.next_poll_at,
    )


def _explain_queued(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.request.begins_after(context.now):
        return Explanation(
            waiting_for="its start time (not_before)",
            next_action="poll the job (DescribeJobs), then send TerminateJob",
            next_action_at=termination.request.not_before,
        )
    if termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
        return _explain_poll(
            termination,
            context,
            "the number of instances it was submitted with, because its state is already finished",
            "read that number (DescribeJobSubmitInfo), then count its instances (DescribeJob)",
        )
    if termination.schedule.terminate_after is None:
        return _explain_poll(
            termination,
            context,
            "a poll of the job before TerminateJob is sent",
            "poll the job, then send TerminateJob",
        )
    return _queue_position(termination, termination.schedule.terminate_after, context)


def _queue_position(
    termination: Termination, terminate_after: datetime, context: ExplanationContext
) -> Explanation:
    last_error = _last_error_suffix(termination)
    if terminate_after > context.now:
        return Explanation(
            waiting_for=f"the time from which TerminateJob may be sent{last_error}",
            next_action="send TerminateJob",
            next_action_at=terminate_after,
        )
    captured_by = terminate_after + timedelta(seconds=context.capture_wait_s)
    if termination.captures.awaited and not captured(termination) and captured_by > context.now:
        return Explanation(
            waiting_for="its machines to be captured before TerminateJob is sent, "
            f"{context.capture_wait_s:g} s at most{last_error}",
            next_action="read its tasks and instances, then send TerminateJob",
            next_action_at=captured_by,
        )
    position = Explanation(
        waiting_for=f"its turn for TerminateJob; jobs ahead of it: {context.ahead}"
        f"{_allowed_suffix(context.rate)}{last_error}",
        next_action="send TerminateJob",
    )
    if context.rate is None:
        return position
    wait_s = context.ahead / context.rate.allowed_per_s
    return replace(position, next_action_at=context.now + timedelta(seconds=wait_s))


def _allowed_suffix(rate: Rate | None) -> str:
    """Return the request rate in words; only a replica configured for the partition knows it."""
    if rate is None:
        return ""
    if rate.allowed_per_s < rate.configured_per_s:
        return (
            f"; the cloud accepts {rate.allowed_per_s:.1f} requests a second for now; "
            f"{rate.configured_per_s} are configured"
        )
    return f"; {rate.configured_per_s} requests a second are allowed"


def _explain_held(termination: Termination, context: ExplanationContext) -> Explanation:
    return _explain_poll(
        termination,
        context,
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "poll the job again (DescribeJobs), then send TerminateJob ahead of other jobs",
    )


def _explain_sending(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.calls.in_doubt:
        return _explain_poll(
            termination,
            context,
            "a read of the job: it is not known whether its TerminateJob request had effect",
            "read the job (DescribeJob); send TerminateJob again only if the request had no effect",
        )
    return Explanation(
        waiting_for="the cloud's answer to TerminateJob", next_action="record the answer"
    )


def _explain_draining(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.schedule.terminate_after is not None:
        position = _queue_position(termination, termination.schedule.terminate_after, context)
        why = (
            "the job kept running, or was revived, after the last TerminateJob request: "
            f"{_status_suffix(termination)}"
        )
        return replace(position, waiting_for=f"{position.waiting_for}; {why}")
    manual = termination.escalation.level is EscalationLevel.MANUAL
    return _explain_poll(
        termination,
        context,
        f"{_remaining(termination)}; {_status_suffix(termination)}"
        f"{_escalation_suffix(termination)}",
        "poll the job again; it counts as stopped once it is finished and no instance is live"
        + (f"; manual action meanwhile: {_manual_steps(termination)}" if manual else ""),
    )


def _escalation_suffix(termination: Termination) -> str:
    """Return what was done about instances that do not stop."""
    if (
        termination.escalation.level is EscalationLevel.NONE
        or termination.escalation.started_at is None
    ):
        return ""
    since, rounds = _time(termination.escalation.started_at), termination.escalation.round
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


def _manual_steps(termination: Termination) -> str:
    """Return what a person can do about the rest, with the vendor's command line."""
    instances, machines = termination.drain.counters, termination.machines
    if instances is None or instances.live:
        return _instance_steps(termination)
    if machines.up:
        return _machine_steps(termination)
    listed = f" (captured machines: {_INSTANCES.format(termination.id)})" if machines.total else ""
    return (
        f"check in the console that the job has stopped and that none of its machines is up{listed}"
    )


def _machine_steps(termination: Termination) -> str:
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
    stalled = f"; no progress since {_time(since)}" if since else ""
    return f"{_job_state(termination)}{stalled}"


def _remaining(termination: Termination) -> str:
    instances = termination.drain.counters
    if instances is None:
        return "its instances, not counted yet, to stop"
    if instances.live:
        return f"{instances.live} of {instances.total} instances to stop"
    if termination.job.next_action:
        pending = f"the pending {termination.job.next_action}"
        return f"{pending} to end; no instance was live at the last count"
    if termination.job.state is not None and termination.job.state.finished:
        return "a count that proves all instances stopped; none was live at the last count"
    return "the job to finish; no instance was live at the last count"


def _explain_settling(termination: Termination, context: ExplanationContext) -> Explanation:
    settle_until, machines = termination.schedule.settle_until or context.now, termination.machines
    counted_at = termination.drain.counted_at
    if settle_until > context.now:
        waiting_for = "the settle window to end"
    elif counted_at is None or counted_at < settle_until:
        waiting_for = "a count of its instances after the settle window (DescribeJob)"
    elif machines.remaining:
        waiting_for = f"{machines.remaining} of {machines.total} machines to be gone"
        waiting_for += f" ({machines.up} of them up)" if machines.up else ""
    elif machines.readable and not machines.read_since(settle_until):
        waiting_for = "a read of its machines after the settle window (DescribeInstances)"
    elif termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
        waiting_for = "the number of instances it was submitted with (DescribeJobSubmitInfo)"
    else:
        waiting_for = "a last poll, because the settle window has ended"
    return _explain_poll(
        termination,
        context,
        f"{waiting_for}: all instances were observed stopped, but RetryJobs can revive the job",
        "count its instances and read its machines once more; it is verified if no instance is "
        "live and no machine is up",
        earliest=settle_until,
    )


def _explain_poll(
    termination: Termination,
    context: ExplanationContext,
    waiting_for: str,
    next_action: str,
    *,
    earliest: datetime | None = None,
) -> Explanation:
    poll_at = termination.schedule.next_poll_at
    late = ""
    if poll_at is not None and context.now - poll_at > timedelta(seconds=LATE_S):
        late = f"; the poll has been overdue since {_time(poll_at)}"
        if context.trouble is None:
            late += ": other polls come first, or its database row is locked (see the log)"
    return Explanation(
        waiting_for=waiting_for + _last_error_suffix(termination) + late,
        next_action=next_action,
        next_action_at=None if late or poll_at is None else max(poll_at, earliest or poll_at),
    )


def _last_error_suffix(termination: Termination) -> str:
    problem = termination.problem
    if problem is None:
        return ""
    if problem.code == "Client.DeadlinePassed":
        # The text already says that the deadline passed; the message may add a reason.
        why = problem.message.partition("; ")[2]
        return f" ({why})" if why else ""
    return f" (last error: {problem.code}: {problem.message})"


def _job_state(termination: Termination) -> str:
    state = termination.job.state
    return f"the job state is {state}" if state else "the job state is not known"


def _explain_verified(termination: Termination, _: ExplanationContext) -> Explanation:
    read_at, settle_until = termination.job.observed_at, termination.schedule.settle_until
    settled = read_at is not None and settle_until is not None and read_at >= settle_until
    since = "also after the settle window" if settled else "and the job was deleted since"
    return Explanation(
        waiting_for=f"nothing: every instance was observed stopped, {since}; "
        f"{_machine_status(termination)}",
        next_action=_node_steps(termination),
    )


def _machine_status(termination: Termination) -> str:
    """Return what is known of the machines of a stopped job."""
    capture, machines = termination.captures.machines, termination.machines
    if capture is not None and capture.nodes:
        environments = ", ".join(sorted({t.env_id for t in capture.tasks if t.env_id}))
        return f"work stopped; {capture.nodes} nodes of {environments} restart and stay billed"
    why = missed(termination)
    if why is None and machines.problem is not None:
        why = f"reading them failed: {machines.problem.code}: {machines.problem.message}"
    if why is None and not machines.listed:
        why = "DescribeInstances never listed any of them for this credential"
    known = f"{machines.gone} of the {machines.total} captured machines are gone"
    if why is None:
        return f"all {machines.total} machines are gone" if not machines.remaining else known
    return f"it is not proven that its machines are gone: {why}" + (
        f"; {known}" if machines.gone else ""
    )


def _node_steps(termination: Termination) -> str | None:
    if termination.captures.machines is None or not termination.captures.machines.nodes:
        return None
    return (
        "if the nodes are no longer needed, remove them from the compute environment in the "
        "console (TerminateComputeNodes), or delete the environment"
    )


def _explain_not_found(termination: Termination, _: ExplanationContext) -> Explanation:
    if termination.calls.acknowledged_at is not None:
        ours = termination.evidence >= evidence.ACKNOWLEDGED
        how = "acknowledged TerminateJob" if ours else "acted on the job"
        known = f"{how} at {_time(termination.calls.acknowledged_at)}"
        deleted = "it was observed stopped"
    elif termination.job.observed_at is not None:
        known = f"showed the job at {_time(termination.job.observed_at)}"
        deleted = "TerminateJob was acknowledged"
    else:
        return Explanation(
            waiting_for="nothing: the cloud knows no such job in this account and region",
            next_action="check the job id, the account and the region, and submit it again",
        )
    return Explanation(
        waiting_for=f"nothing: the cloud {known} and no longer knows it; the job was deleted "
        f"before {deleted}",
        next_action="check in the console that none of its machines is left: the cloud deletes "
        "only finished jobs, but this one was not observed stopped",
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _explain_unverified(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.problem is not None and termination.problem.code == NOT_CONFIGURED:
        return Explanation(
            waiting_for=f"nothing: {termination.problem.message}; {_live_count(termination)}; "
            f"{_job_state(termination)}",
            next_action=termination.problem.advice,
        )
    if termination.evidence >= evidence.NO_INSTANCE_LIVE and termination.machines.up:
        return _explain_machines_up(termination, context)
    if termination.evidence >= evidence.NO_INSTANCE_LIVE:
        return Explanation(
            waiting_for="nothing: every instance was observed stopped, but the job could not be "
            "read again after the settle window" + _last_error_suffix(termination),
            next_action="check in the console that the job was not revived, or submit it again",
        )
    return Explanation(
        waiting_for=f"nothing: the deadline passed with {_live_count(termination)}; "
        f"{_job_state(termination)}{_escalation_suffix(termination)}"
        + _last_error_suffix(termination),
        next_action=f"{_manual_steps(termination)}; or submit it again",
    )


def _live_count(termination: Termination) -> str:
    instances = termination.drain.counters
    if instances is None:
        return "its instances never counted"
    return f"{instances.live} of {instances.total} instances live at the last count"


def _explain_machines_up(termination: Termination, _: ExplanationContext) -> Explanation:
    machines = termination.machines
    return Explanation(
        waiting_for="nothing: every instance was observed stopped, but at the deadline "
        f"{machines.up} of {machines.total} machines were still up"
        + _last_error_suffix(termination),
        next_action=_machine_steps(termination),
    )


def _with_revival(explanation: Explanation, termination: Termination) -> Explanation:
    """Add that the job was revived after the termination ended."""
    revival = termination.watch.revival
    if revival is None:
        return explanation
    observed_at = _time(revival.at)
    observed, advice = f"the job was running again at {observed_at}", "submit it again"
    if revival.instances_live and revival.job_state.finished:
        observed = f"{revival.instances_live} of its instances were running again at "
        observed += f"{observed_at}, although the job state is {revival.job_state}"
    if revival.ended:
        observed = f"the job ran again and had ended at {observed_at}"
        advice = "check in the console who calls RetryJobs"
    elif revival.reterminated_by is not None:
        observed += f", and {revival.reterminated_by} terminates it again"
        advice = f"see GET /v1/operations/{revival.reterminated_by}"
    elif revival.limit_reached:
        observed += ", and was terminated again as often as engine.reterminate_max allows"
        advice = "check in the console who calls RetryJobs, then submit it again"
    return replace(
        explanation, waiting_for=f"{explanation.waiting_for}; but {observed}", next_action=advice
    )


def _explain_final(why: str, advice: str | None = None) -> Explainer:
    explanation = Explanation(waiting_for=f"nothing: {why}", next_action=advice)
    return lambda _termination, _context: explanation


_EXPLAIN: Final[Mapping[State, Explainer]] = {
    State.QUEUED: _explain_queued,
    State.HELD: _explain_held,
    State.SENDING: _explain_sending,
    State.DRAINING: _explain_draining,
    State.SETTLING: _explain_settling,
    State.VERIFIED: _explain_verified,
    State.ALREADY_FINISHED: _explain_final(
        "the job had finished before any TerminateJob request had effect, and no instance was live"
    ),
    State.NOT_FOUND: _explain_not_found,
    State.REFUSED: _explain_final(
        "the termination was refused for good; `error` has the reason",
        "follow the advice in `error`, then submit the job again",
    ),
    State.WITHDRAWN: _explain_final("it was withdrawn before TerminateJob was sent"),
    State.UNVERIFIED: _explain_unverified,
}
