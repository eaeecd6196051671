"""Protocols of what the engine depends on: clock, cloud and stores; ``composition`` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from orchestrator.domain.decisions.escalation import ROUND_ACTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.decisions.escalation import RoundFinished, Straggler
    from orchestrator.domain.decisions.revival import RevivalCheck
    from orchestrator.domain.leasing.leases import FencingToken, LeaseSnapshot
    from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
    from orchestrator.domain.model.batch_job import JobSeen, JobState, JobSubmitted, TaskPage
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.machine import CapturedMachine, MachineSeen, MachineStatus
    from orchestrator.domain.model.termination import (
        EscalationLevel,
        PlannedPoll,
        PollFilter,
        Termination,
    )


class Clock(Protocol):
    """Wall time for records, monotonic time for pacing, and waiting."""

    def now(self) -> datetime:
        """Return the wall time, aware and in UTC."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""

    async def sleep(self, seconds: float) -> None:
        """Wait so many seconds of ``monotonic``."""


class Cloud(Protocol):
    """API calls of one account to Tencent Cloud Batch and CVM; every method raises CloudError."""

    async def terminate_job(self, *, region: str, job_id: str) -> str:
        """Call TerminateJob, which ends the job asynchronously; return the RequestId."""

    async def terminate_task_instance(
        self, *, region: str, job_id: str, task_name: str, index: int
    ) -> str:
        """Call TerminateTaskInstance for one instance; return the RequestId."""

    async def describe_job(self, *, region: str, job_id: str) -> JobSeen:
        """Call DescribeJob: one job with its instance counters and NextAction."""

    async def describe_jobs(self, *, region: str, job_ids: Sequence[str]) -> Mapping[str, JobSeen]:
        """Call DescribeJobs for up to 100 jobs: their states, without instance counters.

        The result has no entry for an id that the cloud does not list.
        """

    async def describe_job_submit_info(self, *, region: str, job_id: str) -> JobSubmitted:
        """Call DescribeJobSubmitInfo: the definition that a job was submitted with."""

    async def describe_task(
        self,
        *,
        region: str,
        job_id: str,
        task_name: str,
        offset: int = 0,
        limit: int = 1,
        states: Sequence[JobState] = (),
    ) -> TaskPage:
        """Call DescribeTask: one task's counters and up to 1000 of its instances in ``states``.

        Repeat at once a filtered call that fails with NOT_SENT: it may then succeed.
        """

    @property
    def sees_machines(self) -> bool:
        """True if the account can call CVM; if not, the two calls for machines raise ValueError."""

    async def describe_machines(
        self, *, region: str, machine_ids: Sequence[str]
    ) -> Mapping[str, MachineSeen]:
        """Call DescribeInstances of CVM for up to 100 machines.

        The result has no entry for an id that the cloud does not list. One id that the cloud does
        not accept may fail the call for all.
        """

    async def terminate_machine(self, *, region: str, machine_id: str) -> str:
        """Call TerminateInstances of CVM, which destroys the machine asynchronously.

        Return the RequestId.
        """


class InstanceStore(Protocol):
    """Stored task instances of one partition's jobs, and their machines.

    Every method raises StoreUnavailable; those that write raise LeaseLost once another replica has
    taken the partition.
    """

    async def to_read(
        self, now: datetime, limit: int
    ) -> tuple[list[Termination], list[Termination]]:
        """Return the terminations whose machines are to be captured now, then those to rescan.

        The first are in the order of their TerminateJob calls. A rescan reads the live instances
        of a job again.
        """

    async def write_capture(
        self,
        before: Termination,
        after: InstanceScan,
        page: TaskPage | None = None,
        *,
        awaits: bool,
        due_at: datetime | None = None,
    ) -> None:
        """Write the progress of a capture, with the page that was read.

        ``awaits``: whether the job's TerminateJob calls wait for the capture. ``due_at``: when to
        continue, if not now. Write nothing if the stored capture differs from ``before``.
        """

    async def write_rescan(
        self,
        before: Termination,
        after: InstanceScan,
        page: TaskPage | None = None,
        *,
        due_at: datetime | None,
    ) -> None:
        """Write the progress of a rescan of live instances, with the page that was read.

        ``due_at``: when to continue, or to begin the next rescan, if not now. Write nothing if the
        stored rescan differs from ``before``.
        """

    async def next_escalation_target(
        self, levels: Collection[EscalationLevel] = tuple(ROUND_ACTIONS)
    ) -> Straggler | RoundFinished | None:
        """Return a round that is finished, or the next instance or machine at one of the levels.

        Skip targets with an open attempt; a round ends only after all its attempts are closed.
        """

    async def end_round(self, finished: RoundFinished, at: datetime) -> None:
        """Write that a round has ended."""

    async def close_orphaned_attempts(self, under_way: Collection[Straggler], at: datetime) -> None:
        """Close the open attempts for instances and machines, except those ``under_way``."""

    async def open_attempt(self, straggler: Straggler, at: datetime) -> bool:
        """Write an attempt before its request is sent.

        Return False, and write nothing, if the target is no longer to be terminated.
        """

    async def close_attempt(
        self, straggler: Straggler, answer: AttemptResult, *, again: bool
    ) -> None:
        """Write the result of an attempt; ``again``: it had no effect and must be repeated."""

    async def machines_due(
        self,
        now: datetime,
        seen_before: datetime,
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[CapturedMachine]:
        """Return the machines of one region to read now: of stopped jobs, and a few of others.

        Leave out machines read since ``seen_before``, unless they are to be confirmed as gone at
        the end of a settle window, and those whose ids are in ``without``.
        """

    async def machines_seen(
        self, seen: Sequence[tuple[CapturedMachine, MachineStatus | None]], at: datetime
    ) -> None:
        """Write the observed status of each machine; None: the poll showed nothing certain."""

    async def record_machines_invisible(
        self, machine: CapturedMachine, problem: ErrorDetail
    ) -> None:
        """Write that the machines of this machine's job cannot be read, and why."""


class Store(Protocol):
    """Rows of one partition; every method raises StoreUnavailable.

    Those that write raise RowsLocked, a StoreUnavailable, if only some of the rows cannot be
    written, and LeaseLost once another replica has taken the partition.
    """

    @property
    def instances(self) -> InstanceStore:
        """Task instances of the partition's jobs."""

    async def next_polls(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[Termination]]:
        """Return the terminations that each filter selects for a poll, the soonest due first.

        They may be due later than ``now``, except where the filter is ``by_turn``.
        """

    async def planned_polls(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[PlannedPoll]]:
        """Return the polls of the same terminations, which cost much less to read."""

    async def planned(self, termination_ids: Sequence[str], kind: PollFilter) -> list[Termination]:
        """Return those of these that the filter still selects, in the given order."""

    async def ready_to_terminate(
        self, now: datetime, limit: int, *, capture_wait_s: float, captured_in_time: int | None
    ) -> tuple[list[Termination], datetime | None]:
        """Return the terminations for which TerminateJob may be sent now, in dispatch order.

        If there is none, return also when there will be one. A termination that awaits the capture
        of its machines does so for ``capture_wait_s`` at most. If all of them await it, those
        behind the first ``captured_in_time`` may be sent: these alone can be captured in that time.
        None: all of them can.
        """

    async def due_for_revival_check(
        self, checked_before: datetime, limit: int
    ) -> list[Termination]:
        """Return terminations of one region to check for a revival, the soonest due first.

        Leave out those that were checked since ``checked_before``.
        """

    async def record_revival_checks(
        self,
        checks: Sequence[RevivalCheck],
        at: datetime,
        *,
        reterminate_max: int,
        new_id: Callable[[str], str],
    ) -> None:
        """Write the results of revival checks, with an operation for each job to terminate again.

        No job is terminated again more than ``reterminate_max`` times in a row. ``new_id`` makes
        an id with the given prefix.
        """

    async def with_open_attempts(self) -> list[Termination]:
        """Return the terminations with a TerminateJob attempt whose result is not written."""

    async def draining(self, termination_ids: Sequence[str]) -> list[Termination]:
        """Return those of these that are draining without a planned count, in the given order."""

    async def with_stale_counters(
        self, before: datetime, operation_ids: Sequence[str] | None, limit: int
    ) -> list[Termination]:
        """Return draining jobs without an instance count since ``before``, the oldest count first.

        They belong to ``operation_ids``. None: to any operation, and then only jobs whose
        TerminateJob call was also acknowledged before ``before``.
        """

    async def apply(self, changes: Sequence[tuple[Termination, Decision]], at: datetime) -> int:
        """Write decisions in one transaction; return how many changed a state."""

    async def postpone(self, termination_ids: Sequence[str], until: datetime) -> None:
        """Make no batch poll of these due before ``until``."""

    async def set_aside(self, termination_id: str, error: Exception) -> bool:
        """Keep this termination from the loops for a while.

        Return False if it was set aside for the same error before. The store itself sets aside
        terminations whose row cannot be read.
        """

    async def forget_unlocked(self) -> bool:
        """Give the loops back the terminations whose rows another session had locked.

        Return whether there was one. The store itself keeps such rows from the loops, once a write
        has raised RowsLocked.
        """

    async def set_aside_until(self, now: datetime) -> datetime | None:
        """Return when the first termination that is set aside is to be tried again."""

    async def retry_set_aside(self, now: datetime) -> bool:
        """Give the loops back those set aside whose time has come, except rows that are locked.

        Return whether there was one.
        """

    async def start_attempt(
        self, before: Termination, decision: Decision, attempt: NewAttempt
    ) -> int | None:
        """Write an attempt and the transition to ``sending``; return the attempt's number.

        Return None if the termination has changed since ``before``.
        """

    async def finish_attempt(
        self, before: Termination, decision: Decision, answer: AttemptResult
    ) -> None:
        """Write the open attempt's result and the decision on it, or neither."""

    async def set_health(self, trouble: ErrorDetail | None, allowed_per_s: float | None) -> None:
        """Store the health of the partition's API calls, for every replica to report.

        ``trouble``: why its calls fail. ``allowed_per_s``: rate of TerminateJob calls that the
        cloud accepts; None: the configured rate.
        """


class LeaseStore(Protocol):
    """Live replicas and the partitions they hold; every method raises StoreUnavailable."""

    async def join(self, replica: str, names: Collection[str], lease_s: float) -> LeaseSnapshot:
        """Register a live replica that is configured for these partitions.

        It may be repeated with the same id if its answer was lost.
        """

    async def renew(self, replica: str, lease_s: float) -> LeaseSnapshot | None:
        """Extend the replica's life by ``lease_s``; return None if it had already expired."""

    async def note_step(self, known_steps_s: int, by_s: int) -> None:
        """Add a step of the database's clock to the recorded ones, unless another replica did."""

    async def take(self, replica: str, epochs: Mapping[str, int]) -> list[FencingToken]:
        """Take those of these partitions whose epochs are still the ones that were read.

        Move the times that are stored for them along with the recorded steps of the clock.
        """

    async def release(self, fence: FencingToken) -> None:
        """Give a partition back, so that another replica may take it at once."""

    async def leave(self, replica: str) -> None:
        """Remove a replica; all partitions that it held become free."""

    async def with_work(self, names: Sequence[str]) -> set[str]:
        """Return those of these partitions whose loops have something to do, now or later.

        They have an unfinished termination, a job that is watched for a revival, or an attempt
        without a result.
        """
