"""What follows from a look at a job, by the state that its termination is in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain import evidence, polling, stragglers
from orchestrator.domain.decisions import (
    BEFORE_EFFECT,
    Decision,
    accepted,
    backoff,
    given_up,
    look_again,
    look_at,
    moved,
    problem_of,
    running_again,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.jobs import JobState
from orchestrator.domain.lifecycle import Event, State
from orchestrator.domain.problems import Problem
from orchestrator.domain.terminations import Look, OnSubmitted, Rung

if TYPE_CHECKING:
    from orchestrator.domain.decisions import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.jobs import JobSeen
    from orchestrator.domain.terminations import Termination

CALL_AGAIN_AFTER_S: Final = 60.0
"""How long an acknowledged call has to show in the job before it is made again."""
LAST_LOOKS_S: Final = 60.0
"""How long past its deadline a job that cannot be read is tried again before it is given up."""
_UNCOUNTED: Final = Problem(
    code="Client.Uncounted",
    message="the cloud's answer had no instance counters",
    advice="see in the console whether instances of the job are live: without counters it cannot "
    "be proven down",
)


# --- looks that failed ---------------------------------------------------------------------------


def on_look_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    told = replace(termination, problem=problem_of(error))
    if error.kind is CloudErrorKind.JOB_NOT_FOUND:
        return _on_job_unknown(told, now, policy, why=str(error))
    for_good = error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
    if for_good and termination.state in BEFORE_EFFECT:
        return moved(told, Event.CALL_REFUSED, now, why=str(error))
    last_look_at = now - timedelta(seconds=LAST_LOOKS_S)
    if _overdue(termination, last_look_at) or _unread_too_long(termination, now):
        return given_up(told, now, why=str(error))
    if error.kind is CloudErrorKind.THROTTLED:
        # It tells nothing of the job, which is polled next as it was to be.
        return Decision(after=termination)
    return Decision(after=look_again(told, now, policy))


def _on_job_unknown(
    termination: Termination, now: datetime, policy: Policy, *, why: str
) -> Decision:
    """DescribeJob says that there is no such job."""
    if termination.state is State.SETTLING:
        # Seen down before; the cloud deletes only what is finished, instances included.
        deleted = "deleted after it was seen down"
        return _on_still_down(termination, now, now, policy, why=deleted)
    return moved(termination, Event.SEEN_MISSING, now, why=why)


def _overdue(termination: Termination, now: datetime) -> bool:
    """Whether its deadline has passed; one that was seen down has its time once more to be read."""
    deadline = termination.give_up_at
    if termination.state is State.SETTLING and termination.settle_until is not None:
        deadline = termination.settle_until + timedelta(seconds=termination.give_up_after_s)
    return deadline is not None and now >= deadline


def _unread_too_long(termination: Termination, now: datetime) -> bool:
    """Whether what has no deadline yet, for it was never called, could not be read for so long."""
    begun_at = max(termination.created_at, termination.not_before or termination.created_at)
    read_at = termination.observed_at or begun_at
    unread_s = (now - max(begun_at, read_at)).total_seconds()
    return termination.give_up_at is None and unread_s >= termination.give_up_after_s


# --- looks that succeeded ------------------------------------------------------------------------


def on_job(termination: Termination, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    match termination.state:
        case State.QUEUED | State.HELD | State.SENDING:
            decision = _on_job_not_called(termination, seen, now, policy)
        case State.DRAINING:
            decision = _on_job_draining(termination, seen, now, policy)
            decision = _escalated(decision, seen, now, policy)
        case State.SETTLING:
            decision = _on_job_settling(termination, seen, now, policy)
        case _:
            return Decision(after=termination)
    if decision.event is None and _overdue(termination, now):
        if seen.instances is None and termination.look is not Look.JOB:
            # Nobody is told what is live on less than a count.
            return Decision(after=look_at(decision.after, Look.JOB, now))
        decision = given_up(decision.after, now, why="the deadline passed")
    return decision


def _with_sighting(termination: Termination, seen: JobSeen) -> Termination:
    """The termination with what this look carried; what it did not carry stays."""
    counted = seen.instances is not None
    return replace(
        termination,
        job_name=seen.name or termination.job_name,
        job_state=evidence.state_seen(termination, seen),
        job_end_time=termination.job_end_time if counted else seen.end_time,
        job_next_action=(
            termination.job_next_action if seen.next_action is None else seen.next_action
        ),
        observed_at=seen.observed_at,
        instances=seen.instances or termination.instances,
        instances_observed_at=seen.observed_at if counted else termination.instances_observed_at,
        tasks=seen.tasks or termination.tasks,
        moved_at=stragglers.moved_at(termination, seen.instances, seen.observed_at),
    )


def _needs_counters(termination: Termination, seen: JobSeen) -> bool:
    """Whether the state alone was read where the counters or NextAction must decide."""
    if seen.instances is not None:
        return False
    state = evidence.state_seen(termination, seen)
    finished = state is not None and state.finished
    return state is None or finished or termination.state is State.SENDING


def _on_job_not_called(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """A look at a job that no call of ours is known to have reached."""
    told = _with_sighting(termination, seen)
    if told.job_state is JobState.SUBMITTED:
        return _on_submitted(told, now, policy)
    if _needs_counters(termination, seen):
        told = _to_be_counted(termination, told, now, policy)
        return Decision(after=replace(told, call_at=None))
    if evidence.proves_down(termination, seen):
        return _on_down_not_called(told, now, policy)
    if seen.next_action and termination.state is State.SENDING:
        decision = accepted(told, now, policy)
        after = replace(decision.after, evidence=termination.evidence)
        return replace(decision, after=after, why="a look shows that the cloud acts on it")
    return _on_terminable(told, now, policy)


def _to_be_counted(
    termination: Termination, told: Termination, now: datetime, policy: Policy
) -> Termination:
    """Have the instances counted; later, if this look should have done so and did not."""
    if termination.look is not Look.JOB:
        return look_at(told, Look.JOB, now)
    give_up_at = told.give_up_at or now + timedelta(seconds=told.give_up_after_s)
    uncounted = replace(
        told, failures=termination.failures, problem=_UNCOUNTED, give_up_at=give_up_at
    )
    return look_again(uncounted, now, policy)


def _on_submitted(told: Termination, now: datetime, policy: Policy) -> Decision:
    if told.on_submitted is OnSubmitted.REFUSE:
        problem = Problem(
            code="Client.JobSubmitted",
            message="the job is SUBMITTED, where the cloud forbids TerminateJob",
            advice='submit it again with on_submitted "hold", or once it has left SUBMITTED',
        )
        return moved(replace(told, problem=problem), Event.CALL_REFUSED, now, why=problem.message)
    decision = (
        Decision(after=told) if told.state is State.HELD else moved(told, Event.SEEN_SUBMITTED, now)
    )
    at = now + timedelta(seconds=policy.poll.held_s)
    return replace(decision, after=look_at(decision.after, Look.SWEEP, at))


def _on_down_not_called(told: Termination, now: datetime, policy: Policy) -> Decision:
    # A termination leaves FAILED behind: the call whose answer was lost may well have acted.
    may_have_acted = told.state is State.SENDING and told.job_state is JobState.FAILED
    if may_have_acted or told.acknowledged_at:
        decision = accepted(told, now, policy)
        after = replace(look_at(decision.after, Look.JOB, now), evidence=evidence.JOB_FINISHED)
        return replace(decision, after=after, why="seen down after a call")
    proven = replace(told, evidence=evidence.NO_INSTANCE_LIVE, problem=None)
    return moved(proven, Event.SEEN_DOWN, now)


def _on_terminable(told: Termination, now: datetime, policy: Policy) -> Decision:
    """The job runs and can be called: from now on it waits for its turn only."""
    first_in_line = told.first_in_line or told.state is State.HELD
    match told.state:
        case State.HELD:
            decision = moved(told, Event.SEEN_TERMINABLE, now)
        case State.SENDING:
            decision = moved(told, Event.CALL_NOT_EXECUTED, now, why="seen running on untouched")
        case _:
            decision = Decision(after=told)
    delay = backoff(told, policy) if told.state is State.SENDING else timedelta()
    after = replace(
        look_at(decision.after, Look.SWEEP, now + timedelta(seconds=policy.poll.queued_s)),
        call_at=told.call_at or max(now + delay, told.not_before or now),
        first_in_line=first_in_line,
        run=max(told.run, 1),
    )
    return replace(decision, after=after)


def _on_job_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    told = replace(_with_sighting(termination, seen), failures=0, problem=None)
    if evidence.proves_down(termination, seen):
        proven = replace(told, evidence=evidence.NO_INSTANCE_LIVE)
        decision = moved(proven, Event.SEEN_DOWN, now)
        settle_until = seen.observed_at + timedelta(seconds=told.settle_s)
        at = min(settle_until, now + timedelta(seconds=policy.poll.settling_s))
        after = replace(look_at(decision.after, Look.SWEEP, at), settle_until=settle_until)
        return replace(decision, after=after)
    if told.job_state is not None and told.job_state.finished:
        return Decision(after=_on_finished_not_down(termination, told, seen, now, policy))
    was_finished = termination.job_state is not None and termination.job_state.finished
    revived = was_finished and termination.evidence >= evidence.JOB_FINISHED
    revived = revived or _rose(termination, seen)
    if revived:
        told = replace(told, evidence=min(told.evidence, evidence.ACKNOWLEDGED))
    runs_on = told.call_at is None and _runs_on(told, seen)
    if revived or runs_on:
        known = told
        told = running_again(known)
        if not revived and not _more_live(termination, seen):
            # Those that were escalated: how far they were stays.
            told = replace(
                told, rung=known.rung, rung_at=known.rung_at, rung_round=known.rung_round
            )
    left_submitted = termination.job_state is JobState.SUBMITTED and not seen.next_action
    if told.job_state is JobState.SUBMITTED:
        told = replace(told, call_at=None)
    elif revived or left_submitted or runs_on:
        told = replace(told, call_at=now)
    elif seen.next_action:
        told = replace(told, call_at=None)
    age_s = (now - (told.acknowledged_at or now)).total_seconds()
    interval_s = polling.drain_look_s(policy.poll, sweep_s=policy.sweep_s, age_s=age_s)
    return Decision(after=look_at(told, Look.SWEEP, now + timedelta(seconds=interval_s)))


def _runs_on(told: Termination, seen: JobSeen) -> bool:
    """Whether a job runs with nothing pending although its call was acknowledged long ago.

    RetryJobs may have revived it before it was seen down, or the call was dropped.  What the cloud
    shows while it acts is documented by one example only (NextAction TERMINATING,
    cloud.tencent.com/document/api/599/15904), so the time between two calls doubles.
    """
    if not seen.instances or not seen.instances.live or seen.next_action != "":
        return False
    if told.last_call_at is None or told.job_state is JobState.SUBMITTED:
        return False
    patience = max(timedelta(seconds=CALL_AGAIN_AFTER_S), _called_for(told))
    return seen.observed_at - told.last_call_at >= patience


def _more_live(termination: Termination, seen: JobSeen) -> bool:
    """Whether instances are live that were not at the last count."""
    known, counted = termination.instances, seen.instances
    return known is not None and counted is not None and counted.live > known.live


def _rose(termination: Termination, seen: JobSeen) -> bool:
    """Whether more run, with nothing pending, than were counted after the job was called."""
    counted_at, called_at = termination.instances_observed_at, termination.acknowledged_at
    since = counted_at is not None and called_at is not None and counted_at >= called_at
    return since and seen.next_action == "" and _more_live(termination, seen)


def _called_for(told: Termination) -> timedelta:
    """From the first call to the last one."""
    if told.last_call_at is None or told.give_up_at is None:
        return timedelta()
    return told.last_call_at - (told.give_up_at - timedelta(seconds=told.give_up_after_s))


def _escalated(decision: Decision, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    """The decision on a draining job, with the rung that it is time for."""
    told = decision.after
    if decision.event is not None or seen.instances is None or told.call_at is not None:
        return decision
    if _overdue(told, now):
        return decision
    finished = told.job_state is not None and told.job_state.finished
    untouched = not finished and seen.next_action == ""
    if untouched and _called_for(told) < timedelta(seconds=CALL_AGAIN_AFTER_S):
        return decision  # TerminateJob is made again first
    rung = stragglers.next_rung(told, seen.observed_at, policy.escalation)
    if rung is None:
        return decision
    live, still_s = seen.instances.live, stragglers.still_s(told, seen.observed_at)
    why = f"{live} of {seen.instances.total} instances did not go down for {still_s:.0f} s"
    escalated = moved(told, Event.ESCALATED, now, why=why)
    after = replace(
        escalated.after,
        rung=rung,
        rung_at=now,
        rung_round=told.rung_round + (rung is Rung.INSTANCES),
    )
    return replace(escalated, after=after)


def _on_finished_not_down(
    termination: Termination, told: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination:
    """The job reads finished; its instances were not read, or are not down yet."""
    told = replace(told, evidence=max(told.evidence, evidence.JOB_FINISHED), call_at=None)
    if seen.instances is None:
        return _to_be_counted(termination, told, now, policy)
    wait_s = polling.relook_s(
        policy.poll,
        before=termination.instances,
        before_at=termination.instances_observed_at,
        after=seen.instances,
        after_at=seen.observed_at,
    )
    # Only its task was read: where nothing went down since, the job may have been revived.
    stuck = termination.instances and seen.instances.live >= termination.instances.live
    look = Look.SWEEP if seen.state is None and stuck else Look.JOB
    return look_at(told, look, now + timedelta(seconds=wait_s))


def _on_job_settling(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    told = replace(_with_sighting(termination, seen), failures=0, problem=None)
    if told.job_state is None or not told.job_state.finished or seen.next_action:
        revived = replace(told, evidence=evidence.ACKNOWLEDGED, settle_until=None)
        decision = moved(
            running_again(revived), Event.SEEN_LIVE_AGAIN, now, why="the job runs again"
        )
        at = now + timedelta(seconds=policy.sweep_s)
        call_at = None if told.job_state is JobState.SUBMITTED else now
        after = replace(look_at(decision.after, Look.SWEEP, at), call_at=call_at)
        return replace(decision, after=after)
    doubt = _doubt(termination, seen)
    if doubt is not None and termination.give_up_at is not None and now >= termination.give_up_at:
        # Down, in doubt and down again, it would have no end.
        return given_up(replace(told, evidence=evidence.JOB_FINISHED), now, why=doubt)
    if doubt is not None:
        unproven = replace(told, evidence=evidence.JOB_FINISHED, settle_until=None)
        if ran_again(termination, seen):
            unproven = running_again(unproven)
        decision = moved(unproven, Event.SEEN_LIVE_AGAIN, now, why=doubt)
        return replace(decision, after=look_at(decision.after, Look.JOB, now))
    return _on_still_down(told, seen.observed_at, now, policy)


def _on_still_down(
    told: Termination, observed_at: datetime, now: datetime, policy: Policy, why: str | None = None
) -> Decision:
    """The job of a settling termination is down as before; its machines may not be gone yet."""
    if evidence.machines_gone(told):
        told = replace(told, evidence=evidence.MACHINES_GONE)
    settle_until, left = told.settle_until or now, told.machines.left
    overdue = _overdue(told, now)
    if overdue and told.machines.up:
        why = f"{told.machines.up} of {told.machines.total} machines were still up"
        return given_up(told, now, why=why)
    if (observed_at >= settle_until or why) and (overdue or not left):
        settled = told.evidence >= evidence.MACHINES_GONE and not why
        proven = evidence.SETTLED if settled else told.evidence
        return moved(replace(told, evidence=proven, problem=None), Event.SETTLED, now, why=why)
    soon = now + timedelta(seconds=policy.poll.settling_s)
    at = soon if now >= settle_until else min(settle_until, soon)
    return Decision(after=look_at(told, Look.SWEEP, at))


def ran_again(termination: Termination, seen: JobSeen) -> bool:
    """Whether a finished job ended another time than it was known to have."""
    known = termination.job_end_time
    return known is not None and seen.end_time is not None and seen.end_time != known


def _doubt(termination: Termination, seen: JobSeen) -> str | None:
    """Why a finished job may not be down any more; None: nothing speaks against it."""
    if ran_again(termination, seen):
        return "its EndTime changed"
    if seen.instances is not None and not evidence.proves_down(termination, seen):
        return f"its counters read {seen.instances.live} live of {seen.instances.total}"
    return None
