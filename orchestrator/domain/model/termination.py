"""Terminations as values: one job to be stopped, and everything known about it."""

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
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.machine import MachineCounts
    from orchestrator.domain.model.unconfirmed import Unconfirmed


class EscalationLevel(StrEnum):
    """Levels of the escalation of a termination."""

    NONE = "none"
    INSTANCES = "instances"
    """TerminateTaskInstance for each live instance."""
    MACHINES = "machines"
    """TerminateInstances for the machine of each live instance."""
    MANUAL = "manual"
    """Manual action is required."""


class PollKind(StrEnum):
    """Kinds of the next read of a job."""

    BATCH = "batch"
    """DescribeJobs, together with up to 99 other jobs: the job's state and EndTime, no counters."""
    SINGLE = "single"
    """DescribeJob (or DescribeTask for a job of one task): the instance counters too."""
    SUBMIT_INFO = "submit_info"
    """DescribeJobSubmitInfo: the number of instances the job was submitted with."""


@dataclass(frozen=True, slots=True)
class PollFilter:
    """Terminations whose jobs are polled in the same way.

    ``seen``: True: only those whose job was read before; False: only the others; None: both.
    ``by_turn``: their operations take turns, even if one has polls that are due earlier.
    """

    poll_kind: PollKind
    states: tuple[State, ...] = LIVE_STATES
    seen: bool | None = None
    by_turn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPoll:
    """The next poll of a job, and what decides when it is made and with which others."""

    termination_id: str
    region: str
    state: State
    next_poll_at: datetime


class OnSubmitted(StrEnum):
    """Handling of a job that is SUBMITTED, a state in which the cloud forbids TerminateJob."""

    HOLD = "hold"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revival:
    """A revival of a job after its termination had ended, as it was read at ``at``.

    If the job reads finished and no instance was counted live, it had run again and ended, at
    ``job_end_time``.
    """

    at: datetime
    job_state: JobState
    job_end_time: str | None = None
    instances_live: int | None = None
    """Number of live instances at ``at``, if they were counted."""
    reterminated_by: str | None = None
    """The operation that terminates the job again, if that was requested."""
    limit_reached: bool = False
    """The job should be terminated again, but has been as often as the limit allows."""

    @property
    def ended(self) -> bool:
        """True if the job had ended again by then."""
        return self.job_state.finished and not self.instances_live


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationRequest:
    """What the operations that want the job stopped have asked for."""

    created_at: datetime
    settle_s: float
    give_up_after_s: float
    on_submitted: OnSubmitted = OnSubmitted.HOLD
    not_before: datetime | None = None
    revival_watch_s: float = 0.0
    """Time after the job stopped during which it is watched for revival; 0: not watched."""
    escalate: bool = True
    """True if instances that do not stop may be escalated beyond TerminateJob."""

    def begins_after(self, time: datetime) -> bool:
        """Return whether ``not_before`` is later than ``time``."""
        return self.not_before is not None and self.not_before > time


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatus:
    """The job as the last reads showed it."""

    name: str | None = None
    state: JobState | None = None
    end_time: str | None = None
    """EndTime as the last batch poll showed it; a later change means that the job ran again."""
    next_action: str | None = None
    observed_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """True if the job reads finished."""
        return self.state is not None and self.state.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """The task instances of the job, and how they stop."""

    counters: InstanceCounters | None = None
    counted_at: datetime | None = None
    instances_submitted: int | None = None
    """As DescribeJobSubmitInfo shows it; 0 if that may not be called; None if it was not read."""
    tasks: tuple[TaskSeen, ...] = ()
    last_progress_at: datetime | None = None
    """Time of the last count that showed another number of live instances than the one before."""
    history: DrainHistory | None = None
    """History of the drain, from the first count of the instances on."""
    forecast: Forecast | None = None
    """Forecast at the last count; ``progress.termination_forecast.current`` projects it to now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What is due next for a termination, and until when.

    ``terminate_after`` is the time from which TerminateJob may be sent. It is None unless a read
    has shown a job that may be terminated.
    ``next_poll_at`` is None while TerminateJob is in flight and once the state is final.
    """

    poll_kind: PollKind = PollKind.BATCH
    next_poll_at: datetime | None = None
    terminate_after: datetime | None = None
    priority: bool = False
    """The job was held: its TerminateJob goes before those of all other jobs."""
    failures: int = 0
    """Number of consecutive failed requests."""
    give_up_at: datetime | None = None
    settle_until: datetime | None = None
    confirm_from: datetime | None = None
    """Time from which the machines are read once more: the end of the settle window."""
    set_aside: str | None = None
    """Reason why the last decision could not be made or written and is retried later; not set by
    decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminateCalls:
    """The TerminateJob requests for the job."""

    run: int = 0
    """Number of the job's run: 0 before a read showed that it runs or is terminated, then 1.

    It grows each time the job runs again after it had stopped, or runs on in spite of TerminateJob.
    The machines are captured once in each run."""
    begun_at: datetime | None = None
    """Time of the first TerminateJob of any run. If this program sent none: of the first read that
    showed the job being terminated.

    Here and in ``first_sent_at``, requests that certainly had no effect do not count.
    """
    first_sent_at: datetime | None = None
    """Time of the first TerminateJob of this run."""
    acknowledged_at: datetime | None = None
    """Time at which the cloud last acknowledged TerminateJob, or was observed to act on it."""
    outcome_unknown: bool = False
    """TerminateJob was sent and its outcome is unknown: the job is read before anything else."""

    @property
    def last_called_at(self) -> datetime | None:
        """Time at which TerminateJob was last acknowledged, or first sent in a later run."""
        times = (self.acknowledged_at, self.first_sent_at)
        return max((at for at in times if at is not None), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """How far the escalation of instances that do not stop has gone."""

    level: EscalationLevel = EscalationLevel.NONE
    started_at: datetime | None = None
    """Start of the current round of the current level."""
    round: int = 0
    """Number of rounds of TerminateTaskInstance so far."""
    finished_at: datetime | None = None
    """End of the last completed round: each of its requests was answered or failed. Not set by
    decisions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captures:
    """Reads of the task instances with their machines; not set by decisions."""

    machines: InstanceScan | None = None
    """Capture of the machines of the current run, or of an earlier one."""
    awaited: bool = True
    """True if the first TerminateJob of each run waits for the capture of the machines."""
    rescan: InstanceScan | None = None
    """Progress of reading the live instances again."""
    rescanned_at: datetime | None = None
    """Start of the newest completed read of the live instances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevivalWatch:
    """The watch for a revival of the job after its termination has ended."""

    began_at: datetime | None = None
    """Start of the watch: ``finished_at``, moved along with steps of the clock."""
    checked_at: datetime | None = None
    """Last check, or start of the watch; None: the job is not watched."""
    revival: Revival | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Termination:
    """One job to be stopped.

    ``revision`` grows with every event; a write names the revision it was decided on.
    """

    id: str
    account: str
    region: str
    partition: str
    job_id: str
    request: TerminationRequest

    state: State = State.QUEUED
    revision: int = 0
    evidence: int = 0
    finished_at: datetime | None = None
    problem: ErrorDetail | None = None
    unconfirmed: Unconfirmed | None = None
    """Reason to end the termination (the job is missing, forbidden or unreadable) that more answers
    must confirm."""

    job: JobStatus = JobStatus()
    drain: Drain = Drain()
    schedule: Schedule = Schedule()
    calls: TerminateCalls = TerminateCalls()
    escalation: Escalation = Escalation()
    machines: MachineCounts = NO_MACHINES
    captures: Captures = Captures()
    watch: RevivalWatch = RevivalWatch()
