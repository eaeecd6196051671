"""Escalation of instances that do not stop, level by level.

TerminateJob is repeated first if the job runs with nothing pending (``draining``). Then
TerminateTaskInstance is sent for each live instance, in rounds; it has the same effect on one
instance as TerminateJob on all (cloud.tencent.com/document/api/599/15911). Then, only if the
account allows it, the machines of those instances are terminated. Then manual action is required,
and the instances, machines and commands are shown.

The levels are to fit into the deadline (``give_up_after_s``): the first begins within a third of it
after the last progress, the last within two thirds. Rounds for which no time is left are skipped.
For a short deadline, counts and repeats of TerminateJob come sooner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.attempt import TERMINATE_INSTANCES, TERMINATE_TASK_INSTANCE
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel, PollKind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.domain.model.batch_job import InstanceCounters
    from orchestrator.domain.model.termination import Drain, Termination

READ_MAX_INSTANCES: Final = 5000
"""Maximum number of live instances to read again: 5,000 take five DescribeTask requests."""
MAJORITY_FACTOR: Final = 10.0
"""Multiplier on ``after_s`` while more than half of the instances are live.

The job may just drain slowly, and terminating nearly all instances one by one does what
TerminateJob does.
"""
MOVED_SHARE: Final = 0.9
"""A drain that made progress for some time is escalated after this share of it without progress.

It is below 1, since counts may be a minute apart and the first one counts as progress.
"""
COUNTED_EVERY_S: Final = 60.0
"""Maximum age of the counters of a draining job, whether or not a client watches it."""
COUNTED_SHARE: Final = 1 / 16
"""Maximum age of the counters, as a share of the deadline."""
CALL_AGAIN_SHARE: Final = 1 / 10
"""Time that an acknowledged TerminateJob has to show an effect, as a share of the deadline."""
FIRST_SHARE: Final = 1 / 3
"""Latest start of the first level after the last progress, as a share of the deadline."""
LAST_SHARE: Final = 2 / 3
"""Latest start of the last level after the last progress, as a share of the deadline."""
COUNTS_TO_SPARE: Final = 2
"""Count intervals by which a level is due early: counts are late when the quota is used up."""
ROUND_ACTIONS: Final[Mapping[EscalationLevel, str]] = {
    EscalationLevel.INSTANCES: TERMINATE_TASK_INSTANCE,
    EscalationLevel.MACHINES: TERMINATE_INSTANCES,
}
"""The action of each level that sends one request for each live instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationPolicy:
    """Conditions and limits of the levels.

    A level follows after ``after_s`` without progress, and not before the stall has lasted nearly
    as long as the progress before it. TerminateTaskInstance is sent for each live instance,
    up to ``rounds_max`` times; 0 rounds: never. ``machines``: whether their machines may be
    terminated after that, once. A job with more than ``instances_max`` live instances gets neither:
    manual action is required.
    """

    after_s: float = 60.0
    instances_max: int = 200
    rounds_max: int = 3
    machines: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A task instance to terminate, or its machine if ``machine_id`` is set."""

    termination_id: str
    region: str
    job_id: str
    task: str
    instance_index: int
    machine_id: str | None = None

    @property
    def action(self) -> str:
        level = EscalationLevel.MACHINES if self.machine_id else EscalationLevel.INSTANCES
        return ROUND_ACTIONS[level]

    @property
    def target(self) -> str:
        """Id of the target in ``attempts``."""
        return self.machine_id or f"{self.task}/{self.instance_index}"


@dataclass(frozen=True, slots=True)
class RoundFinished:
    """A round of a termination that has no request left to send."""

    termination_id: str


def last_progress_at(
    drain: Drain, counted: InstanceCounters | None, observed_at: datetime
) -> datetime | None:
    """Return when a count last showed another number of live instances than the one before."""
    known = drain.counters
    if counted is None or (known is not None and known.live == counted.live):
        return drain.last_progress_at
    return observed_at


def stalled_for_s(termination: Termination, seen_at: datetime) -> float:
    """Return the seconds without progress, TerminateJob or finished round before a read."""
    known = (
        termination.calls.last_called_at,
        termination.drain.last_progress_at,
        termination.escalation.finished_at,
    )
    since = max((at for at in known if at is not None), default=seen_at)
    return (seen_at - since).total_seconds()


def by_deadline_s(termination: Termination, usual_s: float, share: float) -> float:
    """Return ``usual_s``, or this share of the termination's deadline if that is shorter."""
    return min(usual_s, share * termination.request.give_up_after_s)


def count_every_s(termination: Termination) -> float:
    """Return the maximum age of the counters while the job drains, in seconds."""
    return by_deadline_s(termination, COUNTED_EVERY_S, COUNTED_SHARE)


def count_due_at(termination: Termination) -> datetime | None:
    """Return when to count the instances of a draining job whose deadline is short.

    None: the deadline is long enough for the counts that every draining job gets, or a count is
    already planned.
    """
    every_s = count_every_s(termination)
    planned = (
        termination.state is not State.DRAINING or termination.schedule.poll_kind is PollKind.SINGLE
    )
    if planned or every_s >= COUNTED_EVERY_S:
        return None
    known = (termination.calls.acknowledged_at, termination.drain.counted_at)
    counted_at = max((at for at in known if at is not None), default=termination.request.created_at)
    return counted_at + timedelta(seconds=every_s)


def next_level(
    termination: Termination, seen_at: datetime, policy: EscalationPolicy
) -> EscalationLevel | None:
    """Return the level that is due after a count that showed live instances; None: not yet."""
    live = termination.drain.counters.live if termination.drain.counters else 0
    if not live or going_on(termination):
        return None
    may_wait = stalled_for_s(termination, seen_at) < _stall_needed_s(termination, policy)
    if may_wait and not _must_begin(_levels_done(termination), termination, seen_at, policy):
        return None
    may_call = termination.request.escalate and live <= policy.instances_max
    # Skip the rounds for which the deadline leaves no time.
    rounds = policy.rounds_max
    if _must_begin(rounds, termination, seen_at, policy):
        rounds = 0
    if may_call and termination.escalation.round < rounds:
        return EscalationLevel.INSTANCES
    if termination.escalation.level is EscalationLevel.MANUAL:
        return None
    may_terminate_machines = (
        may_call
        and policy.machines
        and termination.escalation.level is not EscalationLevel.MACHINES
    )
    return EscalationLevel.MACHINES if may_terminate_machines else EscalationLevel.MANUAL


def _stall_needed_s(termination: Termination, policy: EscalationPolicy) -> float:
    """Return the seconds without progress after which the next level is due."""
    counted, began_at = termination.drain.counters, termination.calls.acknowledged_at
    majority = counted is not None and 2 * counted.live > counted.total
    needed_s = policy.after_s * (MAJORITY_FACTOR if majority else 1.0)
    if began_at is None or termination.drain.last_progress_at is None:
        return needed_s
    return max(
        needed_s, MOVED_SHARE * (termination.drain.last_progress_at - began_at).total_seconds()
    )


def is_urgent(termination: Termination, seen_at: datetime, policy: EscalationPolicy) -> bool:
    """Return whether there is a next level that the deadline leaves no time to postpone."""
    must_begin = _must_begin(_levels_done(termination), termination, seen_at, policy)
    return must_begin and next_level(termination, seen_at, policy) is not None


def _levels_done(termination: Termination) -> int:
    """Return the number of levels before the next one."""
    return termination.escalation.round + (termination.escalation.level is EscalationLevel.MACHINES)


def _must_begin(
    level: int, termination: Termination, seen_at: datetime, policy: EscalationPolicy
) -> bool:
    """Return whether the deadline leaves no time to postpone this level; the first one is 0."""
    history, last_progress_at = termination.drain.history, termination.drain.last_progress_at
    if history is None or (last_progress_at is not None and last_progress_at >= seen_at):
        return False
    last_level = policy.rounds_max + policy.machines
    between = level / last_level if last_level else 0.0
    share = FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * min(1.0, between)
    latest_s = share * termination.request.give_up_after_s
    to_spare_s = COUNTS_TO_SPARE * count_every_s(termination)
    return seen_at.timestamp() - history.last_progress_at >= latest_s - to_spare_s


def going_on(termination: Termination) -> bool:
    """Return whether the current round still has requests to send."""
    started_at, finished_at = termination.escalation.started_at, termination.escalation.finished_at
    return termination.escalation.level in ROUND_ACTIONS and (
        finished_at is None or started_at is None or finished_at < started_at
    )


def read_since(termination: Termination) -> bool:
    """Return whether the live instances have been read since the current round began."""
    read_at, started_at = termination.captures.rescanned_at, termination.escalation.started_at
    return read_at is not None and started_at is not None and read_at >= started_at
