"""Why a job is not down yet or how it ended, in words for the person on call."""

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

    Explain = Callable[[Termination, "ExplanationContext"], "Explanation"]

_INSTANCES: Final = "/v1/terminations/{}/instances"
LATE_S: Final = 5.0
"""A look that is due for longer waits for others: nobody knows when its turn comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why it is where it is, and what comes next.

    ``next_action`` is what happens next; once the state is final, what a person can do, or None.
    ``next_action_at`` is None where no time is known.
    """

    waiting_for: str
    next_action: str | None = None
    next_action_at: datetime | None = None


UNEXPLAINED: Final = Explanation(
    waiting_for="what its `state` says: explaining it failed, and the daemon's log says why"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplanationContext:
    """What an explanation needs beside the termination.

    ``ahead``: jobs called before this one.  ``rate``: its partition's for TerminateJob (None: this
    replica is not configured for it).  ``trouble``: why the partition's calls fail now.
    ``capture_wait_s``: how long a call waits for the capture of its machines.  ``configured``:
    whether any replica is configured for the partition.  ``elsewhere``: the other replica that
    drives it, if one does.
    """

    now: datetime
    ahead: int
    rate: Rate | None
    trouble: ErrorDetail | None
    capture_wait_s: float
    configured: bool = True
    elsewhere: str | None = None


def explain(termination: Termination, around: ExplanationContext) -> Explanation:
    """Say what this termination waits for, in every state."""
    if termination.set_aside is not None:
        return Explanation(
            waiting_for=f"a repair; it is set aside: {termination.set_aside}",
            next_action="it is tried again every minute; report the fault with the daemon's log",
        )
    if not around.configured and not termination.state.final:
        return Explanation(
            waiting_for=f"account {termination.account!r} and its region {termination.region!r} "
            "to be in the configuration again",
            next_action="add the account to the configuration and start the daemon again, or end "
            "the operation: POST /v1/operations/ID:stop",
        )
    explanation = _EXPLAIN[termination.state](termination, around)
    if termination.state.final:
        return _with_revival(explanation, termination)
    if termination.unconfirmed is not None:
        explanation = _explain_unconfirmed(termination, termination.unconfirmed)
    if explanation.next_action_at is not None:
        due_at = max(explanation.next_action_at, around.now)
        explanation = replace(explanation, next_action_at=due_at)
    if around.trouble is None:
        return explanation
    whose, where = "", ""
    if around.elsewhere is not None:
        whose, where = f" of replica {around.elsewhere}", f"at replica {around.elsewhere}: "
    trouble = f"calls to the cloud{whose} fail ({around.trouble.code}: {around.trouble.message})"
    advice = f"; {where}{around.trouble.advice}" if around.trouble.advice else ""
    return replace(
        explanation,
        waiting_for=f"{explanation.waiting_for}; {trouble}",
        next_action=f"{explanation.next_action}{advice}",
    )


def _explain_unconfirmed(termination: Termination, unconfirmed: Unconfirmed) -> Explanation:
    """What would end it, and until when more answers are asked for."""
    sources = " and ".join(unconfirmed.sources)
    until = _time(max(unconfirmed.until, termination.next_poll_at or unconfirmed.until))
    since = _time(unconfirmed.since)
    match unconfirmed.verdict:
        case Verdict.MISSING:
            found = "found again" if termination.observed_at else "found"
            waiting_for = f"the job to be {found}: {sources} did not find it since {since}"
            end = f"it ends at {until} unless it is found"
        case Verdict.FORBIDDEN:
            waiting_for = f"the permission for {sources}, which is refused since {since}"
            end = f"it ends refused at {until} unless the permission is granted"
        case Verdict.UNREADABLE:
            waiting_for = f"the job to be read: its deadline has passed, reads fail since {since}"
            end = f"it is given up at {until} unless the job can be read"
        case _:
            assert_never(unconfirmed.verdict)
    return Explanation(
        waiting_for=f"{waiting_for}; {end}{_because(termination)}",
        next_action="read the job again",
        next_action_at=termination.next_poll_at,
    )


def _explain_queued(termination: Termination, around: ExplanationContext) -> Explanation:
    if termination.begins_after(around.now):
        return Explanation(
            waiting_for="the time before which it was asked not to be called (not_before)",
            next_action="look at the job (DescribeJobs), then TerminateJob",
            next_action_at=termination.not_before,
        )
    if termination.poll_kind is PollKind.SUBMIT_INFO:
        return _look(
            termination,
            around,
            "the number of instances it was submitted with, for it reads finished already",
            "read that (DescribeJobSubmitInfo), then count its instances (DescribeJob)",
        )
    if termination.terminate_after is None:
        return _look(
            termination,
            around,
            "a look at the job before it is called",
            "look at the job, then TerminateJob",
        )
    return _turn(termination, termination.terminate_after, around)


def _turn(
    termination: Termination, terminate_after: datetime, around: ExplanationContext
) -> Explanation:
    if terminate_after > around.now:
        return Explanation(
            waiting_for=f"the time from which it may be called{_because(termination)}",
            next_action="TerminateJob",
            next_action_at=terminate_after,
        )
    captured_by = terminate_after + timedelta(seconds=around.capture_wait_s)
    if termination.awaits_capture and not captured(termination) and captured_by > around.now:
        return Explanation(
            waiting_for="its machines to be captured before it is called, "
            f"{around.capture_wait_s:g} s at most{_because(termination)}",
            next_action="read its tasks and instances, then TerminateJob",
            next_action_at=captured_by,
        )
    turn = Explanation(
        waiting_for=f"its turn to be called, {around.ahead} ahead of it{_allowed(around.rate)}"
        f"{_because(termination)}",
        next_action="TerminateJob",
    )
    if around.rate is None:
        return turn
    turn_s = around.ahead / around.rate.allowed_per_s
    return replace(turn, next_action_at=around.now + timedelta(seconds=turn_s))


def _allowed(rate: Rate | None) -> str:
    """How many are called: what the replica that is configured for it alone knows."""
    if rate is None:
        return ""
    if rate.allowed_per_s < rate.configured_per_s:
        return (
            f"; the cloud lets {rate.allowed_per_s:.1f} a second through for now; "
            f"{rate.configured_per_s} are configured"
        )
    return f"; {rate.configured_per_s} a second are allowed"


def _explain_held(termination: Termination, around: ExplanationContext) -> Explanation:
    return _look(
        termination,
        around,
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "look again (DescribeJobs), then TerminateJob first in line",
    )


def _explain_sending(termination: Termination, around: ExplanationContext) -> Explanation:
    if termination.in_doubt:
        return _look(
            termination,
            around,
            "a look at the job: whether its TerminateJob call had effect is not known",
            "read the job (DescribeJob), then call again only if it runs on untouched",
        )
    return Explanation(
        waiting_for="the cloud's answer to TerminateJob", next_action="record the answer"
    )


def _explain_draining(termination: Termination, around: ExplanationContext) -> Explanation:
    if termination.terminate_after is not None:
        turn = _turn(termination, termination.terminate_after, around)
        why = f"it ran on or was revived after its last call: {_standing(termination)}"
        return replace(turn, waiting_for=f"{turn.waiting_for}; {why}")
    by_hand = f"; meanwhile a person can {_by_hand(termination)}"
    return _look(
        termination,
        around,
        f"{_left(termination)}; {_standing(termination)}{_escalated(termination)}",
        "look again; call it down when the job is finished and no instance is live"
        + (by_hand if termination.escalation_level is EscalationLevel.MANUAL else ""),
    )


def _escalated(termination: Termination) -> str:
    """What was done about instances that do not go down."""
    if (
        termination.escalation_level is EscalationLevel.NONE
        or termination.escalation_started_at is None
    ):
        return ""
    since, rounds = _time(termination.escalation_started_at), termination.escalation_round
    if termination.escalation_level is EscalationLevel.INSTANCES:
        return f"; since {since} TerminateTaskInstance {_round(termination)} (round {rounds})"
    if termination.escalation_level is EscalationLevel.MACHINES:
        return f"; since {since} TerminateInstances of its machine {_round(termination)}"
    if not termination.escalate:
        return f"; since {since} it takes a person: no more than TerminateJob was to be called"
    stay_up = f"; since {since} it takes a person: they stay up after "
    if not rounds:
        return f"{stay_up}TerminateJob"
    answers = "TerminateTaskInstance (`attempts` has the answers)"
    return f"{stay_up}{rounds} rounds of {answers}{_unread(termination, '; they cannot be read')}"


def _round(termination: Termination) -> str:
    """How far the calls of its round are."""
    unread = not read_since(termination)
    if not going_on(termination):
        if unread:
            return f"was called for none{_unread(termination, ', for they could not be read')}"
        return "was called (`attempts` has the answers)"
    if termination.state.final:
        why = _unread(termination, " after reading them had failed") if unread else ""
        return f"was to be called for each, which its end cut short{why}"
    if unread:
        why = _unread(termination, ", which fails")
        return f"is to be called for each, once they are read{why}"
    return "is called for each"


def _unread(termination: Termination, words: str) -> str:
    """These words and why, where the last reading of its instances failed."""
    problem = termination.reading and termination.reading.problem
    return f"{words}: {problem.code}: {problem.message}" if problem else ""


def _by_hand(termination: Termination) -> str:
    """What a person does about what is left, by the vendor's command line."""
    instances, machines = termination.instances, termination.machines
    if instances is None or instances.live:
        return _end_instances(termination)
    if machines.up:
        return _end_machines(termination)
    listed = f" (those captured: {_INSTANCES.format(termination.id)})" if machines.total else ""
    return f"see in the console that the job is down and that none of its machines is up{listed}"


def _end_machines(termination: Termination) -> str:
    return (
        f"see which machines are up at {_INSTANCES.format(termination.id)}?machine=up and that "
        "nothing else runs there, then end each: tccli cvm TerminateInstances "
        f"--region {termination.region} --InstanceIds '[\"ins-...\"]'"
    )


def _end_instances(termination: Termination) -> str:
    region, job_id = termination.region, termination.job_id
    where = f"at {_INSTANCES.format(termination.id)}?state=live"
    if not _some_listed(termination):
        where = f"by tccli batch DescribeTask --region {region} --JobId {job_id} --TaskName TASK"
    return (
        f"see {where} which instances are live, on which machines, and end each: tccli batch "
        f"TerminateTaskInstance --region {region} --JobId {job_id} --TaskName TASK "
        "--TaskInstanceIndex INDEX, or, where nothing else runs there, its machine: tccli cvm "
        f"TerminateInstances --region {region} --InstanceIds '[\"ins-...\"]'"
    )


def _some_listed(termination: Termination) -> bool:
    """Whether any instance can be listed, or will be: to ask for them has them read."""
    nodes = termination.capture.nodes if termination.capture else 0
    return not termination.state.final or termination.machines.total + nodes > 0


def _standing(termination: Termination) -> str:
    since = termination.forecast and termination.forecast.stalled_since
    stalled = f"; nothing has moved since {_time(since)}" if since else ""
    return f"{_job_state(termination)}{stalled}"


def _left(termination: Termination) -> str:
    instances = termination.instances
    if instances is None:
        return "its instances, which are not counted yet, to go down"
    if instances.live:
        return f"{instances.live} of {instances.total} instances to go down"
    if termination.job_next_action:
        return f"the end of {termination.job_next_action}; no instance was live at the last count"
    if termination.job_state is not None and termination.job_state.finished:
        return "a count that proves its instances down; none was live at the last one"
    return "the job to finish; no instance was live at the last count"


def _explain_settling(termination: Termination, around: ExplanationContext) -> Explanation:
    settle_until, machines = termination.settle_until or around.now, termination.machines
    counted_at = termination.instances_observed_at
    if settle_until > around.now:
        waiting_for = "the settle window to pass"
    elif counted_at is None or counted_at < settle_until:
        waiting_for = "a count of its instances after the settle window (DescribeJob)"
    elif machines.left:
        waiting_for = f"{machines.left} of {machines.total} machines to be gone"
        waiting_for += f" ({machines.up} of them seen up)" if machines.up else ""
    elif machines.readable and not machines.read_since(settle_until):
        waiting_for = "its machines to be looked up after the settle window (DescribeInstances)"
    elif termination.poll_kind is PollKind.SUBMIT_INFO:
        waiting_for = "the number of instances it was submitted with (DescribeJobSubmitInfo)"
    else:
        waiting_for = "a last look, for the settle window has passed"
    return _look(
        termination,
        around,
        f"{waiting_for}: all instances were seen down, and a job can be revived by RetryJobs",
        "count its instances and look up its machines once more, and call it verified if no "
        "instance is live and no machine is up",
        earliest=settle_until,
    )


def _look(
    termination: Termination,
    around: ExplanationContext,
    waiting_for: str,
    next_action: str,
    *,
    earliest: datetime | None = None,
) -> Explanation:
    at = termination.next_poll_at
    late = ""
    if at is not None and around.now - at > timedelta(seconds=LATE_S):
        late = f"; look due since {_time(at)}"
        if around.trouble is None:
            late += ", behind other looks, or its row in the database is locked (see the log)"
    return Explanation(
        waiting_for=waiting_for + _because(termination) + late,
        next_action=next_action,
        next_action_at=None if late or at is None else max(at, earliest or at),
    )


def _because(termination: Termination) -> str:
    problem = termination.problem
    if problem is None:
        return ""
    if problem.code == "Client.DeadlinePassed":
        # That the deadline passed is said already; its message may add why.
        why = problem.message.partition("; ")[2]
        return f" ({why})" if why else ""
    return f" (last error: {problem.code}: {problem.message})"


def _job_state(termination: Termination) -> str:
    state = termination.job_state
    return f"the job reads {state}" if state else "the job's state is not known"


def _explain_verified(termination: Termination, _: ExplanationContext) -> Explanation:
    read_at, settle_until = termination.observed_at, termination.settle_until
    settled = read_at is not None and settle_until is not None and read_at >= settle_until
    since = "still so after the settle window" if settled else "the job was deleted since"
    return Explanation(
        waiting_for=f"nothing: every instance was seen down, and {since}; {_machines(termination)}",
        next_action=_on_nodes(termination),
    )


def _machines(termination: Termination) -> str:
    """What is known of the machines of a job that is down."""
    capture, machines = termination.capture, termination.machines
    if capture is not None and capture.nodes:
        environments = ", ".join(sorted({t.env_id for t in capture.tasks if t.env_id}))
        return f"work stopped; {capture.nodes} nodes of {environments} restart and stay billed"
    why = missed(termination)
    if why is None and machines.problem is not None:
        why = f"looking them up failed: {machines.problem.code}: {machines.problem.message}"
    if why is None and not machines.listed:
        why = "not one of them was ever listed by DescribeInstances for this credential"
    known = f"{machines.gone} of the {machines.total} machines that were captured are gone"
    if why is None:
        return f"all {machines.total} machines are gone" if not machines.left else known
    return f"that its machines are gone is not proven: {why}" + (
        f"; {known}" if machines.gone else ""
    )


def _on_nodes(termination: Termination) -> str | None:
    if termination.capture is None or not termination.capture.nodes:
        return None
    return (
        "if the nodes are not needed any more, take them out of the compute environment in the "
        "console (TerminateComputeNodes), or delete it"
    )


def _explain_not_found(termination: Termination, _: ExplanationContext) -> Explanation:
    if termination.acknowledged_at is not None:
        ours = termination.evidence >= evidence.ACKNOWLEDGED
        how = "acknowledged TerminateJob" if ours else "acted on it"
        known = f"{how} at {_time(termination.acknowledged_at)}"
        deleted = "it was seen down"
    elif termination.observed_at is not None:
        known = f"showed the job at {_time(termination.observed_at)}"
        deleted = "TerminateJob was acknowledged"
    else:
        return Explanation(
            waiting_for="nothing: the cloud knows no such job in this account and region",
            next_action="check the job id, the account and the region, and submit it again",
        )
    return Explanation(
        waiting_for=f"nothing: the cloud {known} and knows the job no longer; it was deleted "
        f"before {deleted}",
        next_action="see in the console that none of its machines is left: the cloud deletes "
        "finished jobs only, but this one was not seen down",
    )


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def _explain_unverified(termination: Termination, around: ExplanationContext) -> Explanation:
    if termination.problem is not None and termination.problem.code == NOT_CONFIGURED:
        return Explanation(
            waiting_for=f"nothing: {termination.problem.message}; {_counted(termination)}; "
            f"{_job_state(termination)}",
            next_action=termination.problem.advice,
        )
    if termination.evidence >= evidence.NO_INSTANCE_LIVE and termination.machines.up:
        return _explain_machines_up(termination, around)
    if termination.evidence >= evidence.NO_INSTANCE_LIVE:
        return Explanation(
            waiting_for="nothing: every instance was seen down, but the job could not be read "
            "again after the settle window" + _because(termination),
            next_action="see in the console that the job was not revived, or submit it again",
        )
    return Explanation(
        waiting_for=f"nothing: it was given up at its deadline with {_counted(termination)}; "
        f"{_job_state(termination)}{_escalated(termination)}" + _because(termination),
        next_action=f"{_by_hand(termination)}; or submit it again",
    )


def _counted(termination: Termination) -> str:
    instances = termination.instances
    if instances is None:
        return "its instances never counted"
    return f"{instances.live} of {instances.total} instances live at the last count"


def _explain_machines_up(termination: Termination, _: ExplanationContext) -> Explanation:
    machines = termination.machines
    return Explanation(
        waiting_for="nothing: every instance was seen down, but at the deadline "
        f"{machines.up} of {machines.total} machines were still up" + _because(termination),
        next_action=_end_machines(termination),
    )


def _with_revival(explanation: Explanation, termination: Termination) -> Explanation:
    """What is said of a job that came back after its end, beside how it ended."""
    revival = termination.revival
    if revival is None:
        return explanation
    seen, to_do = f"it was seen running again at {_time(revival.at)}", "submit it again"
    if revival.instances_live and revival.job_state.finished:
        seen = f"{revival.instances_live} of its instances were seen running again at "
        seen += f"{_time(revival.at)}, although the job reads {revival.job_state}"
    if revival.ended:
        seen = f"it has run again and ended since, as was seen at {_time(revival.at)}"
        to_do = "see in the console who calls RetryJobs"
    elif revival.reterminated_by is not None:
        seen += f", and {revival.reterminated_by} brings it down again"
        to_do = f"see GET /v1/operations/{revival.reterminated_by}"
    elif revival.limit_reached:
        seen += ", and was brought down again as often as engine.reterminate_max allows"
        to_do = "see in the console who calls RetryJobs, then submit it again"
    return replace(
        explanation, waiting_for=f"{explanation.waiting_for}; but {seen}", next_action=to_do
    )


def _ended(why: str, to_do: str | None = None) -> Explain:
    explanation = Explanation(waiting_for=f"nothing: {why}", next_action=to_do)
    return lambda _termination, _around: explanation


_EXPLAIN: Final[Mapping[State, Explain]] = {
    State.QUEUED: _explain_queued,
    State.HELD: _explain_held,
    State.SENDING: _explain_sending,
    State.DRAINING: _explain_draining,
    State.SETTLING: _explain_settling,
    State.VERIFIED: _explain_verified,
    State.ALREADY_FINISHED: _ended(
        "the job had finished before any call had effect, and no instance was live"
    ),
    State.NOT_FOUND: _explain_not_found,
    State.REFUSED: _ended(
        "it was refused for good; `error` has the reason",
        "see to what `error` advises, and submit the job again",
    ),
    State.WITHDRAWN: _ended("it was taken back before a call was sent"),
    State.UNVERIFIED: _explain_unverified,
}
