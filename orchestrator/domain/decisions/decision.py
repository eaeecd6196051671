"""Decisions as values, and the steps that decisions of every kind share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions import escalation, evidence, unconfirmed_ends
from orchestrator.domain.decisions.instance_counts import contradiction
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.lifecycle import Event, State, next_state
from orchestrator.domain.model.termination import Escalation, PollKind, Termination
from orchestrator.domain.pacing.backoff import backoff_s

if TYPE_CHECKING:
    from orchestrator.domain.decisions.escalation import EscalationPolicy
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import TerminateCalls
    from orchestrator.domain.pacing.polling import PollPolicy

BEFORE_EFFECT: Final = (State.QUEUED, State.HELD, State.SENDING)
"""States before any TerminateJob of the current run is known to have taken effect."""
_LATE: Final = ErrorDetail(
    code=ClientCode.DEADLINE_PASSED,
    message="the job was not proven stopped by its deadline",
    advice="check the job in the console and terminate there what is live, or request its "
    "termination again with a longer give_up_after_s",
)
_UNSETTLED: Final = replace(
    _LATE,
    message="the job was observed stopped, but by its deadline it was not proven to stay stopped",
    advice="check in the console that the job was not revived, and terminate its machines that "
    "are up, or request its termination again with a longer give_up_after_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that :func:`decide` may know beside the termination itself.

    ``batch_interval_s``: current interval between batch polls. ``jitter``: one draw from [0, 1).
    ``not_found_after_s``: time for which a job that was never read is polled before it ends as
    ``not_found``. ``refused_after_s``: time for which a request that the account may not make is
    retried before the job ends as ``refused``. ``reads_submit_info``: whether a job whose number of
    submitted instances is unknown is compared with DescribeJobSubmitInfo before it is verified; it
    is true if machines are captured and no capture waits for its quota.
    """

    poll: PollPolicy
    escalation: EscalationPolicy
    batch_interval_s: float
    jitter: float
    backoff_base_s: float = 1.0
    backoff_max_s: float = 60.0
    not_found_after_s: float = unconfirmed_ends.NOT_FOUND_AFTER_S
    refused_after_s: float = unconfirmed_ends.REFUSED_AFTER_S
    reads_submit_info: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The termination's next value, the event that led to it, if one did, and why."""

    after: Termination
    event: Event | None = None
    why: str | None = None


def apply_event(
    termination: Termination, event: Event, now: datetime, *, why: str | None = None
) -> Decision:
    """Return the termination after ``event``, with the changes that every change of state implies.

    Raise IllegalTransition if the lifecycle table does not allow the event.
    """
    state = next_state(termination.state, event)
    idle = state.final or state is State.SENDING
    schedule, calls = termination.schedule, termination.calls
    schedule = replace(
        schedule,
        next_poll_at=None if idle else schedule.next_poll_at,
        terminate_after=None,
        priority=schedule.priority and state in BEFORE_EFFECT,
    )
    if state is State.SENDING:
        calls = replace(
            calls, begun_at=calls.begun_at or now, first_sent_at=calls.first_sent_at or now
        )
    if state is State.HELD and schedule.give_up_at is None:
        schedule = replace(schedule, give_up_at=_deadline(termination, now))
    after = replace(
        termination,
        state=state,
        revision=termination.revision + 1,
        finished_at=now if state.final else termination.finished_at,
        unconfirmed=None if state.final else termination.unconfirmed,
        schedule=schedule,
        calls=replace(calls, outcome_unknown=False),
    )
    return Decision(after=after, event=event, why=why)


def schedule_poll(
    termination: Termination, poll_kind: PollKind, at: datetime | None
) -> Termination:
    """Return the termination with its next poll planned."""
    return replace(
        termination, schedule=replace(termination.schedule, poll_kind=poll_kind, next_poll_at=at)
    )


def with_failure(termination: Termination) -> Termination:
    """Return the termination after one more request in a row that failed."""
    schedule = termination.schedule
    return replace(termination, schedule=replace(schedule, failures=schedule.failures + 1))


def retry_poll(termination: Termination, now: datetime, policy: Policy) -> Termination:
    """Return the termination with a failed read planned again after a growing delay."""
    failed = with_failure(termination)
    planned = termination.schedule.poll_kind
    poll_kind = PollKind.SINGLE if planned is PollKind.BATCH else planned
    return schedule_poll(failed, poll_kind, now + backoff(failed, policy))


def with_observation(termination: Termination, seen: JobSeen) -> Termination:
    """Return the termination with the values of this read; values it did not carry stay."""
    job, drain = termination.job, termination.drain
    counted = seen.instances is not None
    return replace(
        termination,
        job=replace(
            job,
            name=seen.name or job.name,
            state=evidence.state_seen(termination, seen),
            end_time=job.end_time if counted else seen.end_time,
            next_action=job.next_action if seen.next_action is None else seen.next_action,
            observed_at=seen.observed_at,
        ),
        drain=replace(
            drain,
            counters=seen.instances or drain.counters,
            counted_at=seen.observed_at if counted else drain.counted_at,
            tasks=seen.tasks or drain.tasks,
            last_progress_at=escalation.last_progress_at(drain, seen.instances, seen.observed_at),
        ),
        unconfirmed=unconfirmed_ends.after_read(termination),
    )


def after_successful_read(
    termination: Termination, seen: JobSeen, *, problem: ErrorDetail | None = None
) -> Termination:
    """Return the termination with the values of this read, which ends a row of failures."""
    observed = with_observation(termination, seen)
    return replace(observed, schedule=replace(observed.schedule, failures=0), problem=problem)


def to_be_counted(
    termination: Termination, updated: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Termination:
    """Plan a count of the instances: at once after a batch poll that showed no counters.

    If this read was itself a count, and it proves nothing, the next one follows after a backoff,
    and the job has a deadline from now on.
    """
    if termination.schedule.poll_kind is PollKind.BATCH and seen.instances is None:
        return schedule_poll(updated, PollKind.SINGLE, now)
    give_up_at = updated.schedule.give_up_at or _deadline(updated, now)
    uncounted = replace(
        updated,
        schedule=replace(
            updated.schedule, failures=termination.schedule.failures, give_up_at=give_up_at
        ),
        problem=contradiction(termination, seen),
    )
    return retry_poll(uncounted, now, policy)


def past_deadline(termination: Termination, now: datetime) -> bool:
    """Return whether the deadline has passed.

    A job that was observed stopped has ``give_up_after_s`` once more after its settle window.
    """
    deadline = termination.schedule.give_up_at
    if termination.state is State.SETTLING and termination.schedule.settle_until is not None:
        deadline = termination.schedule.settle_until + timedelta(
            seconds=termination.request.give_up_after_s
        )
    return deadline is not None and now >= deadline


def with_deadline(termination: Termination, now: datetime) -> Termination:
    """Return the termination with a deadline, counted from the first TerminateJob.

    Used once a request may have reached the cloud.
    """
    if termination.schedule.give_up_at is not None:
        return termination
    give_up_at = _deadline(termination, termination.calls.first_sent_at or now)
    return replace(termination, schedule=replace(termination.schedule, give_up_at=give_up_at))


def _deadline(termination: Termination, since: datetime) -> datetime:
    return since + timedelta(seconds=termination.request.give_up_after_s)


def not_executed(
    termination: Termination, before: TerminateCalls, now: datetime, policy: Policy, *, why: str
) -> Decision:
    """Decide on a TerminateJob that certainly had no effect; ``before``: the calls before it.

    The deadline does not count from it: otherwise jobs would expire during a network outage before
    any request was sent.
    """
    decision = apply_event(termination, Event.CALL_NOT_EXECUTED, now, why=why)
    after = schedule_poll(decision.after, PollKind.BATCH, now + backoff(termination, policy))
    return replace(decision, after=replace(after, calls=before))


def with_unknown_outcome(termination: Termination, at: datetime) -> Termination:
    """Return the termination after a TerminateJob with unknown outcome: the job is read first."""
    sent = with_deadline(termination, at)
    sent = replace(sent, calls=replace(sent.calls, outcome_unknown=True))
    return schedule_poll(sent, PollKind.SINGLE, at)


def on_acknowledged(termination: Termination, now: datetime, policy: Policy) -> Decision:
    """Decide on a TerminateJob that the cloud acknowledged or was observed to act on."""
    decision = apply_event(with_deadline(termination, now), Event.CALL_ACKNOWLEDGED, now)
    after = replace(
        decision.after,
        evidence=max(termination.evidence, evidence.ACKNOWLEDGED),
        problem=None,
        unconfirmed=None,
        schedule=replace(
            decision.after.schedule,
            poll_kind=PollKind.BATCH,
            next_poll_at=now + timedelta(seconds=policy.batch_interval_s),
            failures=0,
        ),
        calls=calls_after_acknowledgement(decision.after.calls, now),
    )
    return replace(decision, after=after)


def calls_after_acknowledgement(calls: TerminateCalls, now: datetime) -> TerminateCalls:
    """Return the calls of a job for which the cloud acknowledged TerminateJob, or acts on it."""
    return replace(with_run(calls), begun_at=calls.begun_at or now, acknowledged_at=now)


def with_run(calls: TerminateCalls) -> TerminateCalls:
    """Return the calls of a job whose first run was observed: it runs, or is terminated."""
    return replace(calls, run=max(calls.run, 1))


def start_new_run(termination: Termination) -> Termination:
    """Return the termination in the job's next run: uncaptured, uncalled and not escalated."""
    return replace(
        termination,
        calls=replace(termination.calls, run=termination.calls.run + 1, first_sent_at=None),
        escalation=Escalation(finished_at=termination.escalation.finished_at),
    )


def given_up(termination: Termination, now: datetime, *, why: str) -> Decision:
    """End the termination at its deadline, with the last error in its problem."""
    last = termination.problem
    late = _UNSETTLED if termination.evidence >= evidence.NO_INSTANCE_LIVE else _LATE
    message = f"{late.message}; last error: {last.code}: {last.message}" if last else late.message
    updated = replace(termination, problem=replace(late, message=message))
    return apply_event(updated, Event.GAVE_UP, now, why=why)


def problem_of(error: CloudError) -> ErrorDetail:
    """Return the error as terminations store it and the API shows it."""
    return ErrorDetail(code=error.code, message=error.message, advice=error.advice)


def backoff(termination: Termination, policy: Policy) -> timedelta:
    """Return the wait after the termination's consecutive failures."""
    return timedelta(
        seconds=backoff_s(
            termination.schedule.failures,
            base_s=policy.backoff_base_s,
            max_s=policy.backoff_max_s,
            jitter=policy.jitter,
        )
    )
