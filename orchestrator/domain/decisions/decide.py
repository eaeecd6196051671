"""Entry to all decisions: a termination and an observation in, the next value out.

Nothing here does I/O. The engine sends a request, passes its result to :func:`decide`, and writes
the decision if the termination has not changed meanwhile.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from orchestrator.domain.decisions.before_terminate_job import on_job_before_effect, on_submit_info
from orchestrator.domain.decisions.decision import (
    Decision,
    apply_event,
    given_up,
    on_acknowledged,
    past_deadline,
    schedule_poll,
    with_unknown_outcome,
)
from orchestrator.domain.decisions.draining import on_job_draining
from orchestrator.domain.decisions.failed_reads import on_missing, on_read_failed
from orchestrator.domain.decisions.settling import on_job_settling
from orchestrator.domain.decisions.terminate_job_failures import on_call_failed
from orchestrator.domain.model.batch_job import JobSeen, JobSubmitted
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import (
    BatchReadFailed,
    CallAcknowledged,
    CallFailed,
    CallInterrupted,
    CallStarted,
    JobUnlisted,
    ReadFailed,
    Withdrawn,
)
from orchestrator.domain.model.termination import PollKind
from orchestrator.domain.model.unconfirmed import DESCRIBE_JOBS

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Policy
    from orchestrator.domain.model.observation import Observation, Read
    from orchestrator.domain.model.termination import Termination


def decide(termination: Termination, seen: Observation, now: datetime, policy: Policy) -> Decision:
    """Decide what ``seen`` changes in ``termination``.

    Raise IllegalTransition if ``seen`` is not possible in the termination's state.
    """
    match seen:
        case CallStarted():
            decision = apply_event(termination, Event.CALL_STARTED, now)
        case CallAcknowledged():
            decision = on_acknowledged(termination, now, policy)
        case CallFailed():
            decision = on_call_failed(termination, seen, now, policy)
        case CallInterrupted():
            decision = Decision(after=with_unknown_outcome(termination, now))
        case Withdrawn():
            decision = apply_event(termination, Event.WITHDRAWN, now)
        case _:
            decision = on_read(termination, seen, now, policy)
    return _bounded_by_deadline(decision, now)


def on_read(termination: Termination, seen: Read, now: datetime, policy: Policy) -> Decision:
    """Decide on a read of the job, successful or not."""
    match seen:
        case JobSeen():
            return on_job(termination, seen, now, policy)
        case JobSubmitted():
            return on_submit_info(termination, seen, now, policy)
        case JobUnlisted():
            return on_missing(termination, DESCRIBE_JOBS, now, policy)
        case BatchReadFailed():
            return Decision(after=schedule_poll(termination, PollKind.SINGLE, now))
        case ReadFailed(error):
            return on_read_failed(termination, error, now, policy)
        case _:
            assert_never(seen)


def on_job(termination: Termination, seen: JobSeen, now: datetime, policy: Policy) -> Decision:
    """Decide on a job that a read showed, by the state of its termination and its deadline."""
    match termination.state:
        case State.QUEUED | State.HELD | State.SENDING:
            decision = on_job_before_effect(termination, seen, now, policy)
        case State.DRAINING:
            decision = on_job_draining(termination, seen, now, policy)
        case State.SETTLING:
            decision = on_job_settling(termination, seen, now, policy)
        case _:
            return Decision(after=termination)
    if decision.event is None and past_deadline(termination, now):
        if seen.instances is None and termination.schedule.poll_kind is not PollKind.SINGLE:
            # Do not report live instances without fresh counters: read the job once more.
            return Decision(after=schedule_poll(decision.after, PollKind.SINGLE, now))
        decision = given_up(decision.after, now, why="the deadline passed")
    return decision


def _bounded_by_deadline(decision: Decision, now: datetime) -> Decision:
    """Move a poll that is planned past the deadline to the deadline, where the job is read last.

    Only retries of that last read may be planned later.
    """
    after = decision.after
    if (
        after.schedule.give_up_at is None
        or after.schedule.next_poll_at is None
        or after.state is State.SETTLING
    ):
        return decision
    # The read at the deadline was made: its retry stays as planned.
    retried = now >= after.schedule.give_up_at and (
        after.schedule.poll_kind is PollKind.SINGLE or after.unconfirmed is not None
    )
    if retried or after.schedule.next_poll_at <= after.schedule.give_up_at:
        return decision
    return replace(
        decision, after=schedule_poll(after, PollKind.SINGLE, max(now, after.schedule.give_up_at))
    )
