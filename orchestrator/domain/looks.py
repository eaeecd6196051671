"""What follows from a look at a job, by the state that its termination is in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, assert_never

from orchestrator.domain import confirmations, evidence, polling, stragglers
from orchestrator.domain.confirmations import DESCRIBE_JOB, DESCRIBE_JOBS, Verdict
from orchestrator.domain.counts import contradiction
from orchestrator.domain.decisions import (
    BEFORE_EFFECT,
    Decision,
    accepted,
    backoff,
    given_up,
    look_again,
    look_at,
    moved,
    overdue,
    problem_of,
    running_again,
    to_be_counted,
    with_observation,
)
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.jobs import JobSeen, JobState, JobSubmitted
from orchestrator.domain.lifecycle import Event, State
from orchestrator.domain.problems import Problem
from orchestrator.domain.seen import JobsRefused, JobUnlisted, LookFailed
from orchestrator.domain.settling import (
    on_job_settling,
    on_record_deleted,
    on_still_stopped,
    on_submission_unread,
)
from orchestrator.domain.terminations import Look, OnSubmitted, Rung

if TYPE_CHECKING:
    from orchestrator.domain.decisions import Policy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.seen import Read
    from orchestrator.domain.terminations import Termination

IN_USE: Final = "ResourceInUse"
"""Family of the codes by which the cloud refuses a second operation on a job."""
CALL_AGAIN_AFTER_S: Final = 60.0
"""How long an acknowledged call has to show in the job before it is made again, at most."""


def on_read(termination: Termination, seen: Read, now: datetime, policy: Policy) -> Decision:
    match seen:
        case JobSeen():
            return on_job(termination, seen, now, policy)
        case JobSubmitted():
            return on_submission(termination, seen, now, policy)
        case JobUnlisted():
            return on_missing(termination, DESCRIBE_JOBS, now, policy)
        case JobsRefused():
            return Decision(after=look_at(termination, Look.JOB, now))
        case LookFailed(error):
            return on_look_failed(termination, error, now, policy)
        case _:
            assert_never(seen)


# --- looks that failed ---------------------------------------------------------------------------


def on_look_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    told = replace(termination, problem=problem_of(error))
    denied = error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
    if termination.state is State.SETTLING and termination.look is Look.SUBMISSION:
        return on_submission_unread(termination, error, now, policy)
    if error.kind is CloudErrorKind.JOB_NOT_FOUND:
        return on_missing(told, DESCRIBE_JOB, now, policy)
    if denied and termination.state in BEFORE_EFFECT:
        return _on_denied(told, error, now, policy)
    late = overdue(termination, now) or _unread_too_long(termination, now)
    # The signature's clock is wrong, not the job: that alone ends nothing.
    if late and error.kind is not CloudErrorKind.CLOCK_SKEW:
        told = confirmations.unreadable(told, error.kind, now)
        known = told.unconfirmed
        if known is not None and known.confirms(Verdict.UNREADABLE, now):
            return given_up(told, now, why=str(error))
    elif error.kind is CloudErrorKind.THROTTLED:
        # It tells nothing of the job, which is polled next as it was to be.
        return Decision(after=termination)
    if not late and denied and termination.look is Look.JOB:
        # DescribeJobs may still be allowed, and DescribeTask, once the job reads finished.
        after = look_at(told, Look.SWEEP, now + timedelta(seconds=policy.poll.drain_max_s))
    else:
        after = look_again(told, now, policy)
    return Decision(after=after)


def _on_denied(told: Termination, error: CloudError, now: datetime, policy: Policy) -> Decision:
    """The cloud does not let a job be read that was not called yet."""
    refused = error.kind is CloudErrorKind.REFUSED
    if told.look is Look.SUBMISSION:
        return _on_submission_refused(told, now, policy, refused=refused)
    if refused:
        return moved(told, Event.CALL_REFUSED, now, why=str(error))
    return on_forbidden(told, DESCRIBE_JOB, now, policy, why=str(error))


def on_missing(termination: Termination, source: str, now: datetime, policy: Policy) -> Decision:
    """The action ``source`` answered that there is no such job, or did not list it."""
    told = confirmations.missing(termination, source, now, appears_within_s=policy.appears_within_s)
    known = told.unconfirmed
    assert known is not None
    if not known.confirms(Verdict.MISSING, now):
        # A job that was read before is asked for by both actions in turn.
        by_job = termination.observed_at is not None and source == DESCRIBE_JOBS
        look = Look.JOB if by_job else Look.SWEEP
        return Decision(after=replace(look_at(told, look, known.next_read_at(now)), call_at=None))
    if termination.state is State.SETTLING:
        return on_record_deleted(told, now, policy)
    why = f"not found by {' and '.join(known.sources)} since {known.since:%H:%M:%SZ}"
    if termination.observed_at is not None:
        told = replace(told, problem=confirmations.record_deleted(told))
    elif told.problem is None:
        told = replace(told, problem=confirmations.NEVER_FOUND)
    return moved(told, Event.SEEN_MISSING, now, why=why)


def on_forbidden(
    termination: Termination, source: str, now: datetime, policy: Policy, *, why: str
) -> Decision:
    """The account may not read the job; permissions are spread over seconds, or granted later."""
    told = confirmations.with_answer(
        termination, Verdict.FORBIDDEN, source, now, window_s=policy.permitted_within_s
    )
    assert told.unconfirmed is not None
    if told.unconfirmed.confirms(Verdict.FORBIDDEN, now):
        return moved(told, Event.CALL_REFUSED, now, why=why)
    return Decision(after=look_again(told, now, policy))


def _on_submission_refused(
    told: Termination, now: datetime, policy: Policy, *, refused: bool
) -> Decision:
    """DescribeJobSubmitInfo may not be called: after a while the counters are taken alone."""
    told = confirmations.with_answer(
        told,
        Verdict.FORBIDDEN,
        "DescribeJobSubmitInfo",
        now,
        window_s=confirmations.UNREADABLE_S,
    )
    known = told.unconfirmed
    if refused or (known is not None and known.confirms(Verdict.FORBIDDEN, now)):
        return Decision(after=look_at(replace(told, instances_submitted=0), Look.JOB, now))
    return Decision(after=look_again(told, now, policy))


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
            decision = on_job_settling(termination, seen, now, policy)
        case _:
            return Decision(after=termination)
    if decision.event is None and overdue(termination, now):
        if seen.instances is None and termination.look is not Look.JOB:
            # Nobody is told what is live on less than a count.
            return Decision(after=look_at(decision.after, Look.JOB, now))
        decision = given_up(decision.after, now, why="the deadline passed")
    return decision


def on_submission(
    termination: Termination, seen: JobSubmitted, now: datetime, policy: Policy
) -> Decision:
    """How many instances the job was submitted with: now a count of them can be judged."""
    submitted = sum(task.instances for task in seen.tasks)
    told = replace(termination, instances_submitted=submitted, failures=0)
    if termination.state is State.SETTLING:
        return on_still_stopped(told, now, policy)
    return Decision(after=look_at(told, Look.JOB, now))


def _on_job_not_called(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """A read of a job that no call of ours is known to have reached."""
    told = with_observation(termination, seen)
    if told.job_state is JobState.SUBMITTED:
        return _on_submitted(told, now, policy)
    unread = _to_be_read(termination, told, seen, now, policy)
    if unread is not None:
        return Decision(after=replace(unread, call_at=None))
    if evidence.proves_down(termination, seen):
        return _on_down_not_called(told, now, policy)
    if told.job_state is JobState.SUCCEED and not told.acknowledged_at and _is_empty(seen):
        # No instance is counted, so that no more than the end of the job is proven.
        ended = replace(told, evidence=evidence.JOB_FINISHED, problem=None)
        return moved(ended, Event.SEEN_DOWN, now, why="it reads SUCCEED, no instance is counted")
    if seen.terminating and termination.state is State.SENDING:
        decision = accepted(told, now, policy)
        after = replace(decision.after, evidence=termination.evidence)
        return replace(decision, after=after, why="a look shows that the cloud acts on it")
    return _on_terminable(told, now, policy)


def _to_be_read(
    termination: Termination, told: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination | None:
    """The termination with the read planned that must come before a decision; None: none must.

    A job that reads finished before any call is compared with what it was submitted as.  Where the
    state is no proof, the counters or NextAction decide.
    """
    state = told.job_state
    unclear = state is None or state.finished or not state.known
    checked = told.instances_submitted is not None or told.acknowledged_at is not None
    if unclear and not checked and termination.state is not State.SENDING:
        return look_at(told, Look.SUBMISSION, now)
    if seen.instances is None and (unclear or termination.state is State.SENDING):
        return to_be_counted(termination, told, seen, now, policy)
    return None


def _is_empty(seen: JobSeen) -> bool:
    return seen.instances is not None and not seen.instances.total


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
    told = replace(with_observation(termination, seen), failures=0, problem=_conflict(termination))
    if evidence.proves_down(termination, seen):
        proven = replace(told, evidence=evidence.NO_INSTANCE_LIVE)
        decision = moved(proven, Event.SEEN_DOWN, now)
        settle_until = seen.observed_at + timedelta(seconds=told.settle_s)
        at = min(settle_until, now + timedelta(seconds=policy.poll.settling_s))
        after = replace(look_at(decision.after, Look.SWEEP, at), settle_until=settle_until)
        return replace(decision, after=after)
    state = told.job_state
    live = seen.instances is not None and seen.instances.live > 0
    if state is not None and (state.finished or (not state.known and not live)):
        return Decision(after=_on_finished_not_down(termination, told, seen, now, policy))
    was_finished = termination.job_state is not None and termination.job_state.finished
    runs = state is None or state.known
    revived = runs and was_finished and termination.evidence >= evidence.JOB_FINISHED
    revived = revived or _rose(termination, seen)
    if revived:
        told = replace(told, evidence=min(told.evidence, evidence.ACKNOWLEDGED))
    runs_on = told.call_at is None and _runs_on(told, seen, policy)
    if revived or runs_on:
        known = told
        told = running_again(known)
        if not revived and not _more_live(termination, seen):
            # Those that were escalated: how far they were stays.
            told = replace(
                told, rung=known.rung, rung_at=known.rung_at, rung_round=known.rung_round
            )
    left_submitted = termination.job_state is JobState.SUBMITTED and not seen.terminating
    if told.job_state is JobState.SUBMITTED:
        told = replace(told, call_at=None)
    elif revived or left_submitted or runs_on:
        told = replace(told, call_at=now)
    elif seen.terminating:
        told = replace(told, call_at=None)
    age_s = (now - (told.acknowledged_at or now)).total_seconds()
    interval_s = polling.drain_look_s(policy.poll, sweep_s=policy.sweep_s, age_s=age_s)
    # A state that is not documented says nothing: only counters do.
    look = Look.SWEEP if runs else Look.JOB
    return Decision(after=look_at(told, look, now + timedelta(seconds=interval_s)))


def _conflict(termination: Termination) -> Problem | None:
    """That TerminateJob is refused because the job is in use: kept while it runs, as the reason."""
    problem = termination.problem
    return problem if problem is not None and problem.code.startswith(IN_USE) else None


def _runs_on(told: Termination, seen: JobSeen, policy: Policy) -> bool:
    """Whether a job runs with nothing pending although its call was acknowledged long ago.

    RetryJobs may have revived it before it was seen down, or the call was dropped.  What the cloud
    shows while it acts is documented by one example only (NextAction TERMINATING,
    cloud.tencent.com/document/api/599/15904), so the time between two calls doubles.  An escalation
    that the deadline leaves no time to put off goes before all but the first of them.
    """
    if seen.instances is None or not seen.untouched:
        return False
    if not seen.instances.live and seen.instances.total:
        return False
    if told.last_call_at is None or told.job_state is JobState.SUBMITTED:
        return False
    called_for = _called_for(told)
    patience = max(_call_again_after(told), called_for)
    if called_for >= _call_again_after(told) and stragglers.presses(
        told, seen.observed_at, policy.escalation
    ):
        return False
    return seen.observed_at - told.last_call_at >= patience


def _call_again_after(told: Termination) -> timedelta:
    """How long an acknowledged call has to show in the job before it is made again."""
    seconds = stragglers.by_deadline_s(told, CALL_AGAIN_AFTER_S, stragglers.CALL_AGAIN_SHARE)
    return timedelta(seconds=seconds)


def _more_live(termination: Termination, seen: JobSeen) -> bool:
    """Whether instances are live that were not at the last count."""
    known, counted = termination.instances, seen.instances
    return known is not None and counted is not None and counted.live > known.live


def _rose(termination: Termination, seen: JobSeen) -> bool:
    """Whether more run, with nothing pending, than were counted after the job was called."""
    counted_at, called_at = termination.instances_observed_at, termination.acknowledged_at
    since = counted_at is not None and called_at is not None and counted_at >= called_at
    return since and seen.untouched and _more_live(termination, seen)


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
    if overdue(told, now):
        return decision
    finished = told.job_state is not None and told.job_state.finished
    untouched = not finished and seen.untouched
    if untouched and _called_for(told) < _call_again_after(told):
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
    finished = told.job_state is not None and told.job_state.finished
    proven = evidence.JOB_FINISHED if finished else told.evidence
    # A job that read finished already, and is to be called, had an instance run again.
    again = termination.job_state is not None and termination.job_state.finished
    call_at = termination.call_at if again else None
    told = replace(told, evidence=max(told.evidence, proven), call_at=call_at)
    if seen.instances is None or contradiction(termination, seen) is not None:
        return to_be_counted(termination, told, seen, now, policy)
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
    wait_s = min(wait_s, stragglers.count_every_s(told))
    return look_at(told, look, now + timedelta(seconds=wait_s))
