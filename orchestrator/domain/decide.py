"""What follows from what was seen: a termination and a sighting in, the next value out.

Nothing here acts.  The engine looks or calls, hands the result to :func:`decide`, and writes the
:class:`Decision` if the termination is still as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, assert_never

from orchestrator.domain import evidence, polling
from orchestrator.domain.backoff import backoff_s
from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.jobs import JobSeen, JobState
from orchestrator.domain.lifecycle import Event, State, next_state
from orchestrator.domain.seen import (
    CallAccepted,
    CallFailed,
    CallInterrupted,
    CallStarted,
    JobUnlisted,
    LookFailed,
    Withdrawn,
)
from orchestrator.domain.terminations import Look, OnSubmitted, Problem, Termination

if TYPE_CHECKING:
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.polling import PollPolicy
    from orchestrator.domain.seen import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What :func:`decide` may know beside the termination itself.

    ``sweep_s`` is the present interval between sweeps, ``jitter`` one draw from [0, 1).
    """

    poll: PollPolicy
    sweep_s: float
    jitter: float
    backoff_base_s: float = 1.0
    backoff_max_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The termination's next value, the event that led there (None: it stays), and why."""

    after: Termination
    event: Event | None = None
    why: str | None = None


BEFORE_EFFECT: Final = (State.QUEUED, State.HELD, State.SENDING)
"""States in which no call is known to have had effect, or not since it ran again."""
CALL_AGAIN_AFTER_S: Final = 60.0
"""How long an acknowledged call has to show in the job before it is made again."""
LAST_LOOKS_S: Final = 60.0
"""How long past its deadline a job that cannot be read is tried again before it is given up."""


def decide(termination: Termination, seen: Seen, now: datetime, policy: Policy) -> Decision:
    """What ``seen`` makes of ``termination``; raises IllegalTransition where it cannot be."""
    match seen:
        case JobSeen():
            decision = _on_job(termination, seen, now, policy)
        case JobUnlisted():
            decision = Decision(after=_look(termination, Look.JOB, now))
        case LookFailed(error):
            decision = _on_look_failed(termination, error, now, policy)
        case CallStarted():
            decision = _moved(termination, Event.CALL_STARTED, now)
        case CallAccepted():
            decision = _on_call_accepted(termination, now, policy)
        case CallFailed(error):
            decision = _on_call_failed(termination, error, now, policy)
        case CallInterrupted():
            decision = Decision(after=_in_doubt(termination, now))
        case Withdrawn():
            decision = _moved(termination, Event.WITHDRAWN, now)
        case _:
            assert_never(seen)
    return _bounded_by_deadline(decision, now)


def _moved(
    termination: Termination, event: Event, now: datetime, *, why: str | None = None
) -> Decision:
    """The termination after ``event``, with what every change of state brings along."""
    state = next_state(termination.state, event)
    after = replace(
        termination,
        state=state,
        revision=termination.revision + 1,
        call_at=None,
        in_doubt=False,
        first_in_line=termination.first_in_line and state in BEFORE_EFFECT,
    )
    if state.final:
        after = replace(after, look_at=None, finished_at=now)
    elif state is State.SENDING:
        after = replace(after, look_at=None)
    if state in (State.HELD, State.SENDING) and after.give_up_at is None:
        after = replace(after, give_up_at=now + timedelta(seconds=after.give_up_after_s))
    return Decision(after=after, event=event, why=why)


def _look(termination: Termination, look: Look, at: datetime) -> Termination:
    return replace(termination, look=look, look_at=at)


def _in_doubt(termination: Termination, at: datetime) -> Termination:
    return _look(replace(termination, in_doubt=True), Look.JOB, at)


def _bounded_by_deadline(decision: Decision, now: datetime) -> Decision:
    """No look is planned past the deadline but to retry the last one, which is made right at it."""
    after = decision.after
    if after.give_up_at is None or after.look_at is None or after.state is State.SETTLING:
        return decision
    retried = after.look is Look.JOB and now >= after.give_up_at
    if retried or after.look_at <= after.give_up_at:
        return decision
    return replace(decision, after=_look(after, Look.JOB, max(now, after.give_up_at)))


# --- answers to our calls ------------------------------------------------------------------------


def _on_call_accepted(termination: Termination, now: datetime, policy: Policy) -> Decision:
    decision = _moved(termination, Event.CALL_ACCEPTED, now)
    after = replace(
        _look(decision.after, Look.SWEEP, now + timedelta(seconds=policy.sweep_s)),
        evidence=max(termination.evidence, evidence.ACKNOWLEDGED),
        acknowledged_at=now,
        failures=0,
        problem=None,
    )
    return replace(decision, after=after)


def _on_call_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    failed = replace(termination, failures=termination.failures + 1, problem=_problem(error))
    match error.kind:
        case (
            CloudErrorKind.THROTTLED
            | CloudErrorKind.NOT_SENT
            | CloudErrorKind.CREDENTIAL
            | CloudErrorKind.CLOCK_SKEW
        ):
            decision = _moved(failed, Event.CALL_NOT_EXECUTED, now, why=str(error))
            at = now + _backoff(failed, policy)
            return replace(decision, after=_look(decision.after, Look.SWEEP, at))
        case CloudErrorKind.OUTCOME_UNKNOWN | CloudErrorKind.STATE_CONFLICT:
            return Decision(after=_in_doubt(failed, now), why=str(error))
        case CloudErrorKind.JOB_NOT_FOUND:
            return _moved(failed, Event.SEEN_MISSING, now, why=str(error))
        case CloudErrorKind.REFUSED | CloudErrorKind.UNAUTHORIZED:
            return _moved(failed, Event.CALL_REFUSED, now, why=str(error))
        case _:
            assert_never(error.kind)


def _problem(error: CloudError) -> Problem:
    return Problem(code=error.code, message=error.message, advice=error.advice)


def _backoff(termination: Termination, policy: Policy) -> timedelta:
    return timedelta(
        seconds=backoff_s(
            termination.failures,
            base_s=policy.backoff_base_s,
            max_s=policy.backoff_max_s,
            jitter=policy.jitter,
        )
    )


# --- looks that failed ---------------------------------------------------------------------------


def _on_look_failed(
    termination: Termination, error: CloudError, now: datetime, policy: Policy
) -> Decision:
    told = replace(termination, problem=_problem(error))
    if error.kind is CloudErrorKind.JOB_NOT_FOUND:
        return _on_job_unknown(told, now, why=str(error))
    for_good = error.kind in (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
    if for_good and termination.state in BEFORE_EFFECT:
        return _moved(told, Event.CALL_REFUSED, now, why=str(error))
    last_look_at = now - timedelta(seconds=LAST_LOOKS_S)
    if _overdue(termination, last_look_at) or _unread_too_long(termination, now):
        return _given_up(told, now, why=str(error))
    return Decision(after=_look_again(told, now, policy))


def _look_again(termination: Termination, now: datetime, policy: Policy) -> Termination:
    failed = replace(termination, failures=termination.failures + 1)
    return _look(failed, Look.JOB, now + _backoff(failed, policy))


def _given_up(termination: Termination, now: datetime, *, why: str) -> Decision:
    last = termination.problem
    message = f"{_LATE.message}; last error: {last.code}: {last.message}" if last else _LATE.message
    late = replace(termination, problem=replace(_LATE, message=message))
    return _moved(late, Event.GAVE_UP, now, why=why)


def _on_job_unknown(termination: Termination, now: datetime, *, why: str) -> Decision:
    """DescribeJob says that there is no such job."""
    if termination.state is State.SETTLING:
        # Seen down before; the cloud deletes only what is finished, instances included.
        down = replace(termination, problem=None)
        return _moved(down, Event.SETTLED, now, why="deleted after it was seen down")
    return _moved(termination, Event.SEEN_MISSING, now, why=why)


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


def _on_job(termination: Termination, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    match termination.state:
        case State.QUEUED | State.HELD | State.SENDING:
            decision = _on_job_not_called(termination, seen, now, policy)
        case State.DRAINING:
            decision = _on_job_draining(termination, seen, now, policy)
        case State.SETTLING:
            decision = _on_job_settling(termination, seen, now, policy)
        case _:
            return Decision(after=termination)
    if decision.event is None and _overdue(termination, now):
        if seen.instances is None and termination.look is not Look.JOB:
            # Nobody is told what is live on less than a count.
            return Decision(after=_look(decision.after, Look.JOB, now))
        decision = _given_up(decision.after, now, why="the deadline passed")
    return decision


_UNCOUNTED: Final = Problem(
    code="Client.Uncounted",
    message="the cloud's answer had no instance counters",
    advice="see in the console whether instances of the job are live: without counters it cannot "
    "be proven down",
)
_LATE: Final = Problem(
    code="Client.DeadlinePassed",
    message="the job was not seen down by its deadline",
    advice="look at the job in the console and end there what is live, or submit it again with a "
    "longer give_up_after_s",
)


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
        decision = _on_call_accepted(told, now, policy)
        after = replace(decision.after, evidence=termination.evidence)
        return replace(decision, after=after, why="a look shows that the cloud acts on it")
    return _on_terminable(told, now, policy)


def _to_be_counted(
    termination: Termination, told: Termination, now: datetime, policy: Policy
) -> Termination:
    """Have the instances counted; later, if this look should have done so and did not."""
    if termination.look is not Look.JOB:
        return _look(told, Look.JOB, now)
    give_up_at = told.give_up_at or now + timedelta(seconds=told.give_up_after_s)
    uncounted = replace(
        told, failures=termination.failures, problem=_UNCOUNTED, give_up_at=give_up_at
    )
    return _look_again(uncounted, now, policy)


def _on_submitted(told: Termination, now: datetime, policy: Policy) -> Decision:
    if told.on_submitted is OnSubmitted.REFUSE:
        problem = Problem(
            code="Client.JobSubmitted",
            message="the job is SUBMITTED, where the cloud forbids TerminateJob",
            advice='submit it again with on_submitted "hold", or once it has left SUBMITTED',
        )
        return _moved(replace(told, problem=problem), Event.CALL_REFUSED, now, why=problem.message)
    decision = (
        Decision(after=told)
        if told.state is State.HELD
        else _moved(told, Event.SEEN_SUBMITTED, now)
    )
    at = now + timedelta(seconds=policy.poll.held_s)
    return replace(decision, after=_look(decision.after, Look.SWEEP, at))


def _on_down_not_called(told: Termination, now: datetime, policy: Policy) -> Decision:
    # A termination leaves FAILED behind: the call whose answer was lost may well have acted.
    may_have_acted = told.state is State.SENDING and told.job_state is JobState.FAILED
    if may_have_acted or told.acknowledged_at:
        decision = _on_call_accepted(told, now, policy)
        after = replace(_look(decision.after, Look.JOB, now), evidence=evidence.JOB_FINISHED)
        return replace(decision, after=after, why="seen down after a call")
    proven = replace(told, evidence=evidence.NO_INSTANCE_LIVE, problem=None)
    return _moved(proven, Event.SEEN_DOWN, now)


def _on_terminable(told: Termination, now: datetime, policy: Policy) -> Decision:
    """The job runs and can be called: from now on it waits for its turn only."""
    first_in_line = told.first_in_line or told.state is State.HELD
    match told.state:
        case State.HELD:
            decision = _moved(told, Event.SEEN_TERMINABLE, now)
        case State.SENDING:
            decision = _moved(told, Event.CALL_NOT_EXECUTED, now, why="seen running on untouched")
        case _:
            decision = Decision(after=told)
    delay = _backoff(told, policy) if told.state is State.SENDING else timedelta()
    after = replace(
        _look(decision.after, Look.SWEEP, now + timedelta(seconds=policy.poll.queued_s)),
        call_at=told.call_at or max(now + delay, told.not_before or now),
        first_in_line=first_in_line,
    )
    return replace(decision, after=after)


def _on_job_draining(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    told = replace(_with_sighting(termination, seen), failures=0, problem=None)
    if evidence.proves_down(termination, seen):
        proven = replace(told, evidence=evidence.NO_INSTANCE_LIVE)
        decision = _moved(proven, Event.SEEN_DOWN, now)
        settle_until = seen.observed_at + timedelta(seconds=told.settle_s)
        at = min(settle_until, now + timedelta(seconds=policy.poll.settling_s))
        after = replace(_look(decision.after, Look.SWEEP, at), settle_until=settle_until)
        return replace(decision, after=after)
    if told.job_state is not None and told.job_state.finished:
        return Decision(after=_on_finished_not_down(termination, told, seen, now, policy))
    was_finished = termination.job_state is not None and termination.job_state.finished
    revived = was_finished and termination.evidence >= evidence.JOB_FINISHED
    if revived:
        told = replace(told, evidence=evidence.ACKNOWLEDGED)
    left_submitted = termination.job_state is JobState.SUBMITTED and not seen.next_action
    if told.job_state is JobState.SUBMITTED:
        told = replace(told, call_at=None)
    elif revived or left_submitted or (told.call_at is None and _runs_on(told, seen)):
        told = replace(told, call_at=now)
    elif seen.next_action:
        told = replace(told, call_at=None)
    age_s = (now - (told.acknowledged_at or now)).total_seconds()
    interval_s = polling.drain_look_s(policy.poll, sweep_s=policy.sweep_s, age_s=age_s)
    return Decision(after=_look(told, Look.SWEEP, now + timedelta(seconds=interval_s)))


def _runs_on(told: Termination, seen: JobSeen) -> bool:
    """Whether a job runs with nothing pending although its call was acknowledged long ago.

    RetryJobs may have revived it before it was seen down, or the call was dropped.  What the cloud
    shows while it acts is documented by one example only (NextAction TERMINATING,
    cloud.tencent.com/document/api/599/15904), so the time between two calls doubles.
    """
    if not seen.instances or not seen.instances.live or seen.next_action != "":
        return False
    if told.acknowledged_at is None or told.give_up_at is None:
        return False
    first_called_at = told.give_up_at - timedelta(seconds=told.give_up_after_s)
    patience = max(timedelta(seconds=CALL_AGAIN_AFTER_S), told.acknowledged_at - first_called_at)
    return seen.observed_at - told.acknowledged_at >= patience


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
    return _look(told, look, now + timedelta(seconds=wait_s))


def _on_job_settling(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    told = replace(_with_sighting(termination, seen), failures=0, problem=None)
    if told.job_state is None or not told.job_state.finished or seen.next_action:
        revived = replace(told, evidence=evidence.ACKNOWLEDGED, settle_until=None)
        decision = _moved(revived, Event.SEEN_LIVE_AGAIN, now, why="the job runs again")
        at = now + timedelta(seconds=policy.sweep_s)
        call_at = None if told.job_state is JobState.SUBMITTED else now
        after = replace(_look(decision.after, Look.SWEEP, at), call_at=call_at)
        return replace(decision, after=after)
    doubt = _doubt(termination, seen)
    if doubt is not None and termination.give_up_at is not None and now >= termination.give_up_at:
        # Down, in doubt and down again, it would have no end.
        return _given_up(told, now, why=doubt)
    if doubt is not None:
        unproven = replace(told, evidence=evidence.JOB_FINISHED, settle_until=None)
        decision = _moved(unproven, Event.SEEN_LIVE_AGAIN, now, why=doubt)
        return replace(decision, after=_look(decision.after, Look.JOB, now))
    settle_until = termination.settle_until or now
    if seen.observed_at >= settle_until:
        return _moved(replace(told, evidence=evidence.SETTLED), Event.SETTLED, now)
    at = min(settle_until, now + timedelta(seconds=policy.poll.settling_s))
    return Decision(after=_look(told, Look.SWEEP, at))


def _doubt(termination: Termination, seen: JobSeen) -> str | None:
    """Why a finished job may not be down any more; None: nothing speaks against it."""
    known = termination.job_end_time
    if known and seen.end_time and seen.end_time != known:
        return "its EndTime changed"
    if seen.instances is not None and not evidence.proves_down(termination, seen):
        return f"its counters read {seen.instances.live} live of {seen.instances.total}"
    return None
