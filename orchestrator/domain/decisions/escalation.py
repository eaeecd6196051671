"""Instances that do not go down, and what is done about them, one level after the other.

TerminateJob is made again first, where the job runs on with nothing pending (``looks``).  Then
TerminateTaskInstance is called for each instance that is left, round after round; it has the same
effect on one as TerminateJob has on all (cloud.tencent.com/document/api/599/15911).  Then, only
where the account allows it, the machines of those instances are ended.  Then it is up to a person,
who is told which instances, machines and commands.

All levels fit into the deadline (``give_up_after_s``).  The first one begins no later than a third
of it after the last movement, and the last one before two thirds of it.  Where the deadline is
short, jobs are counted more often and called again sooner for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.attempt import TERMINATE_INSTANCES, TERMINATE_TASK_INSTANCE
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel, PollKind

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import InstanceCounters
    from orchestrator.domain.model.termination import Termination

READ_MAX_INSTANCES: Final = 5000
"""Of a job with more live ones, they are not read again once captured: that is five calls."""
MOST_FACTOR: Final = 10.0
"""So many times longer it takes until a job of which more than half is left is escalated.

It may just drain slowly; and calls for all of its instances do what TerminateJob does.
"""
MOVED_SHARE: Final = 0.9
"""How much of the time for which a drain had moved it must have stood still.

Not all of it: counts may be a minute apart, and the first one passes for a movement.
"""
COUNTED_EVERY_S: Final = 60.0
"""How old the counters of a draining job may grow, whoever watches it."""
COUNTED_SHARE: Final = 1 / 16
"""And how old at most, as a share of its deadline."""
CALL_AGAIN_SHARE: Final = 1 / 10
"""How long an acknowledged call has to show in the job, as a share of its deadline."""
FIRST_SHARE: Final = 1 / 3
"""The first level begins so much of the deadline after the last movement, at the latest."""
LAST_SHARE: Final = 2 / 3
"""And the last level."""
COUNTS_TO_SPARE: Final = 2
"""A level is due so many counts before it must begin: counts come late where the quota is spent."""
IN_ROUNDS: Final = (EscalationLevel.INSTANCES, EscalationLevel.MACHINES)
"""Those on which one call is made for each instance that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationPolicy:
    """A level follows when nothing moved for ``after_s``, and nearly as long as it had moved.

    TerminateTaskInstance is called for ``instances_max`` at most, each up to ``rounds_max`` times;
    0 rounds: never.  ``machines``: whether the machines of so many may be ended after that, once.
    """

    after_s: float = 60.0
    instances_max: int = 200
    rounds_max: int = 3
    machines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A task instance to call for; with ``machine_id``, its machine is to be ended instead."""

    termination_id: str
    region: str
    job_id: str
    task: str
    instance_index: int
    machine_id: str | None = None

    @property
    def action(self) -> str:
        return TERMINATE_INSTANCES if self.machine_id else TERMINATE_TASK_INSTANCE

    @property
    def target(self) -> str:
        """As attempts name it."""
        return self.machine_id or f"{self.task}/{self.instance_index}"


@dataclass(frozen=True, slots=True)
class RoundOver:
    """All instances of a termination that a round was begun for have been called for."""

    termination_id: str


def last_progress_at(
    termination: Termination, counted: InstanceCounters | None, observed_at: datetime
) -> datetime | None:
    """When a count last showed another number of live instances than the one before."""
    known = termination.instances
    if counted is None or (known is not None and known.live == counted.live):
        return termination.last_progress_at
    return observed_at


def still_s(termination: Termination, seen_at: datetime) -> float:
    """For how many seconds nothing had moved, nor was anything done, at a look."""
    known = (
        termination.last_sent_at,
        termination.last_progress_at,
        termination.escalation_finished_at,
    )
    since = max((at for at in known if at is not None), default=seen_at)
    return (seen_at - since).total_seconds()


def by_deadline_s(termination: Termination, usual_s: float, share: float) -> float:
    """``usual_s``, or this share of the termination's deadline where that is shorter."""
    return min(usual_s, share * termination.give_up_after_s)


def count_every_s(termination: Termination) -> float:
    """How old its counters may grow while it drains."""
    return by_deadline_s(termination, COUNTED_EVERY_S, COUNTED_SHARE)


def count_due_at(termination: Termination) -> datetime | None:
    """When to count the instances of a draining job whose deadline is short.

    None: its deadline is long enough for the counts that every draining job gets, or a count is
    planned anyway.
    """
    every_s = count_every_s(termination)
    planned = termination.state is not State.DRAINING or termination.poll_kind is PollKind.SINGLE
    if planned or every_s >= COUNTED_EVERY_S:
        return None
    known = (termination.acknowledged_at, termination.instances_observed_at)
    counted_at = max((at for at in known if at is not None), default=termination.created_at)
    return counted_at + timedelta(seconds=every_s)


def next_rung(
    termination: Termination, seen_at: datetime, policy: EscalationPolicy
) -> EscalationLevel | None:
    """The level that it is time for, after a look that counted live instances; None: not yet."""
    live = termination.instances.live if termination.instances else 0
    if not live or going_on(termination):
        return None
    patient = still_s(termination, seen_at) < _patience_s(termination, policy)
    if patient and not _must_begin(_level(termination), termination, seen_at, policy):
        return None
    may_call = termination.escalate and live <= policy.instances_max
    # Rounds that the deadline leaves no time for are left out.
    rounds = policy.rounds_max
    if _must_begin(rounds, termination, seen_at, policy):
        rounds = 0
    if may_call and termination.escalation_round < rounds:
        return EscalationLevel.INSTANCES
    if termination.escalation_level is EscalationLevel.MANUAL:
        return None
    may_end = (
        may_call
        and policy.machines
        and termination.escalation_level is not EscalationLevel.MACHINES
    )
    return EscalationLevel.MACHINES if may_end else EscalationLevel.MANUAL


def _patience_s(termination: Termination, policy: EscalationPolicy) -> float:
    counted, began_at = termination.instances, termination.acknowledged_at
    most = counted is not None and 2 * counted.live > counted.total
    patience_s = policy.after_s * (MOST_FACTOR if most else 1.0)
    if began_at is None or termination.last_progress_at is None:
        return patience_s
    return max(patience_s, MOVED_SHARE * (termination.last_progress_at - began_at).total_seconds())


def presses(termination: Termination, seen_at: datetime, policy: EscalationPolicy) -> bool:
    """Whether there is a next level, and the deadline leaves no more time to wait with it."""
    must_begin = _must_begin(_level(termination), termination, seen_at, policy)
    return must_begin and next_rung(termination, seen_at, policy) is not None


def _level(termination: Termination) -> int:
    """How many levels came before the next one."""
    return termination.escalation_round + (termination.escalation_level is EscalationLevel.MACHINES)


def _must_begin(
    level: int, termination: Termination, seen_at: datetime, policy: EscalationPolicy
) -> bool:
    """Whether the deadline leaves no more time to wait with this level; the first one is 0."""
    history, last_progress_at = termination.history, termination.last_progress_at
    if history is None or (last_progress_at is not None and last_progress_at >= seen_at):
        return False
    last_level = policy.rounds_max + policy.machines
    between = level / last_level if last_level else 0.0
    share = FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * min(1.0, between)
    latest_s = share * termination.give_up_after_s
    to_spare_s = COUNTS_TO_SPARE * count_every_s(termination)
    return seen_at.timestamp() - history.last_progress_at >= latest_s - to_spare_s


def going_on(termination: Termination) -> bool:
    """Whether the calls of its round are not all made yet."""
    done_at, escalation_started_at = (
        termination.escalation_finished_at,
        termination.escalation_started_at,
    )
    return termination.escalation_level in IN_ROUNDS and (
        done_at is None or escalation_started_at is None or done_at < escalation_started_at
    )


def read_since(termination: Termination) -> bool:
    """Whether what its round is for has been read since it began."""
    read_at, escalation_started_at = termination.read_at, termination.escalation_started_at
    return (
        read_at is not None
        and escalation_started_at is not None
        and read_at >= escalation_started_at
    )
