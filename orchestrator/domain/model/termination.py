"""A termination as a value: one job being brought down, and all that is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.domain.model.lifecycle import LIVE_STATES, State
from orchestrator.domain.model.machine import NO_MACHINES

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.forecasting.drain_history import DrainHistory
    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.model.batch_job import InstanceCounters, JobState, TaskSeen
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.machine import MachineCounts
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.unconfirmed import Unconfirmed


class EscalationLevel(StrEnum):
    """How far a termination had to be escalated."""

    NONE = "none"
    INSTANCES = "instances"
    """TerminateTaskInstance for each that is left."""
    MACHINES = "machines"
    """TerminateInstances for the machine of each that is left."""
    MANUAL = "manual"


class PollKind(StrEnum):
    """The call by which a job is read next."""

    BATCH = "batch"
    """DescribeJobs, with up to 99 others: the job's state only."""
    SINGLE = "single"
    """DescribeJob (or DescribeTask for a job of one task): the instance counters too."""
    SUBMIT_INFO = "submit_info"
    """DescribeJobSubmitInfo: how many instances the job was submitted with."""


@dataclass(frozen=True, slots=True)
class PollFilter:
    """Terminations that are looked at alike.

    ``seen``: only those whose job a look has shown already, or has not; None: both.
    ``in_turn``: their operations take turns, whatever is due sooner.
    """

    poll_kind: PollKind
    states: tuple[State, ...] = LIVE_STATES
    seen: bool | None = None
    in_turn: bool = False


class OnSubmitted(StrEnum):
    """What to do with a job that is SUBMITTED, where the cloud forbids TerminateJob."""

    HOLD = "hold"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revival:
    """How a job was seen, at ``at``, that came back after its termination had ended.

    Where it reads finished and no instance was counted live, it had run again and ended, at
    ``job_end_time``.
    """

    at: datetime
    job_state: JobState
    job_end_time: str | None = None
    instances_live: int | None = None
    """How many instances ran then, where they were counted."""
    reterminated_by: str | None = None
    """The operation that keeps it down, where that was asked for."""
    limit_reached: bool = False
    """It was to be kept down, and has been brought down again as often as that may be."""

    @property
    def ended(self) -> bool:
        """Whether the job had ended again by then."""
        return self.job_state.finished and not self.instances_live


@dataclass(frozen=True, slots=True, kw_only=True)
class Termination:
    """One job being brought down.

    ``revision`` grows with every change of state; a write names the revision it was decided on.
    ``terminate_after`` is None unless a read has shown that the job may be called now;
    ``next_poll_at`` is None while a call is under way and once the state is final.
    """

    id: str
    account: str
    region: str
    partition: str
    job_id: str
    created_at: datetime
    settle_s: float
    give_up_after_s: float
    on_submitted: OnSubmitted = OnSubmitted.HOLD
    not_before: datetime | None = None
    revival_watch_s: float = 0.0
    """How long after it was down its job is looked at for having come back; 0: not at all."""

    state: State = State.QUEUED
    revision: int = 0
    evidence: int = 0

    job_name: str | None = None
    job_state: JobState | None = None
    job_end_time: str | None = None
    """EndTime as the last sweep showed it; another value later means that the job ran again."""
    job_next_action: str | None = None
    observed_at: datetime | None = None
    instances: InstanceCounters | None = None
    instances_observed_at: datetime | None = None
    instances_submitted: int | None = None
    """As DescribeJobSubmitInfo has it, 0 where that may not be called; None: it was not asked."""
    tasks: tuple[TaskSeen, ...] = ()

    poll_kind: PollKind = PollKind.BATCH
    next_poll_at: datetime | None = None
    terminate_after: datetime | None = None
    priority: bool = False
    in_doubt: bool = False
    """A call was made whose outcome is not known: the job is read before anything else."""
    failures: int = 0
    """Calls in a row that did not get through."""
    run: int = 0
    """How often it was seen to begin to run; machines are captured once for each."""
    first_sent_at: datetime | None = None
    """When the first call of this run left."""
    acknowledged_at: datetime | None = None
    """When the cloud last acknowledged a call, or was seen to act on one."""
    give_up_at: datetime | None = None
    settle_until: datetime | None = None
    confirm_from: datetime | None = None
    """From then on its machines are looked up once more: the end of its settle window."""
    problem: ErrorDetail | None = None
    unconfirmed: Unconfirmed | None = None
    """What would end it, once more answers say the same."""
    finished_at: datetime | None = None
    history: DrainHistory | None = None
    """Of its drain, once its instances were counted."""
    forecast: Forecast | None = None
    """As at the last count; ``decisions.forecast_updates.current`` is what to tell."""

    last_progress_at: datetime | None = None
    """When a count last showed another number of live instances than the one before."""
    escalate: bool = True
    """Whether more than TerminateJob may be called for what does not go down."""
    escalation_level: EscalationLevel = EscalationLevel.NONE
    escalation_started_at: datetime | None = None
    """When this round of this level began."""
    escalation_round: int = 0
    """How often TerminateTaskInstance was called for what was left."""
    escalation_finished_at: datetime | None = None
    """When the last such call of a round had been answered; not set by decisions."""

    capture: Capture | None = None
    """Of this run, or of an earlier one."""
    awaits_capture: bool = True
    """Whether the first call of each run waits a while for its machines to be captured."""
    machines: MachineCounts = NO_MACHINES
    reading: Capture | None = None
    """How far its live instances are read anew."""
    read_at: datetime | None = None
    """When the newest reading of them began that came to its end."""

    revival_checked_at: datetime | None = None
    """When its come-back watch looked last, or began; None: its job is not watched."""
    revival: Revival | None = None
    set_aside: str | None = None
    """Why no decision on it could be made or written last, so that it is tried later; not set by
    decisions."""

    @property
    def last_sent_at(self) -> datetime | None:
        """When a call last was acknowledged, or the first one of a later run left."""
        times = (self.acknowledged_at, self.first_sent_at)
        return max((at for at in times if at is not None), default=None)

    def begins_after(self, time: datetime) -> bool:
        """Whether it was asked to be left alone until later than ``time``."""
        return self.not_before is not None and self.not_before > time
