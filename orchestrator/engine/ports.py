"""What the engine needs from the world, as Protocols; app.py supplies the real ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from orchestrator.domain.decisions.escalation import RoundOver, Straggler
    from orchestrator.domain.decisions.revival import RevivalCheck
    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.leasing.lease import FencingToken, LeaseSnapshot
    from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
    from orchestrator.domain.model.batch_job import JobSeen, JobState, JobSubmitted, TaskPage
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.machine import CapturedMachine, MachineSeen, MachineStatus
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.termination import PollFilter, Termination


class Clock(Protocol):
    """Wall time for records, monotonic time for pacing, and waiting."""

    def now(self) -> datetime:
        """Aware UTC time."""

    def monotonic(self) -> float:
        """Seconds that never jump."""

    async def sleep(self, seconds: float) -> None: ...


class Cloud(Protocol):
    """One account's calls to Tencent Cloud Batch and CVM; every method raises CloudError."""

    async def terminate_job(self, *, region: str, job_id: str) -> str:
        """Ask the cloud to terminate a job; asynchronous there.  Returns the RequestId."""

    async def terminate_task_instance(
        self, *, region: str, job_id: str, task_name: str, index: int
    ) -> str:
        """Ask the cloud to terminate one task instance.  Returns the RequestId."""

    async def describe_job(self, *, region: str, job_id: str) -> JobSeen:
        """Read one job with its counters and NextAction."""

    async def describe_jobs(self, *, region: str, job_ids: Sequence[str]) -> Mapping[str, JobSeen]:
        """Read up to 100 jobs, state only; an id that the cloud does not list is missing."""

    async def describe_job_submit_info(self, *, region: str, job_id: str) -> JobSubmitted:
        """Read what one job was submitted as."""

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
        """Read one task's counters and up to 1000 of its instances, of those in ``states``.

        A filtered call that fails as NOT_SENT is to be made again at once: it may then succeed.
        """

    @property
    def sees_machines(self) -> bool:
        """Whether machines may be asked for; where not, the calls for them raise ValueError."""

    async def describe_machines(
        self, *, region: str, machine_ids: Sequence[str]
    ) -> Mapping[str, MachineSeen]:
        """Read up to 100 machines; an id that the cloud does not list is missing.

        One id that the cloud does not accept may refuse the call for all.
        """

    async def terminate_machine(self, *, region: str, machine_id: str) -> str:
        """Ask the cloud to destroy a machine; asynchronous there.  Returns the RequestId."""


class InstanceStore(Protocol):
    """What is known of the task instances of one partition's jobs, and of their machines.

    Every method raises StoreUnavailable; those that write raise LeaseLost once the partition has
    passed to another replica.
    """

    async def to_read(
        self, now: datetime, limit: int
    ) -> tuple[list[Termination], list[Termination]]:
        """Terminations whose machines are to be captured now, in the order of the calls.

        And those whose live instances are to be read anew.
        """

    async def capture(
        self,
        before: Termination,
        after: Capture,
        page: TaskPage | None = None,
        *,
        awaits: bool,
        due_at: datetime | None = None,
    ) -> None:
        """Write how far a capture is, with the page that it went on by.

        ``awaits``: whether the job's calls wait for it.  ``due_at``: when to go on, if not now.
        Nothing is written where it is not as it was before.
        """

    async def read(
        self,
        before: Termination,
        after: Capture,
        page: TaskPage | None = None,
        *,
        due_at: datetime | None,
    ) -> None:
        """Write how far a reading of live instances is, with the page that it went on by.

        ``due_at``: when to go on, or to read once more, if not now.  Nothing is written where it
        is not as it was before.
        """

    async def next_in_rounds(self) -> Straggler | RoundOver | None:
        """A round that is over, or the instance, or machine, to call for next.

        None is named while an attempt for it is open, and no round is over before all are closed.
        """

    async def end_round(self, over: RoundOver, at: datetime) -> None:
        """Write a round as done."""

    async def interrupted(self, under_way: Collection[Straggler], at: datetime) -> None:
        """Close the attempts for single instances that are open, but for those under way."""

    async def start(self, straggler: Straggler, at: datetime) -> None:
        """Write an attempt before its call leaves."""

    async def finish(self, straggler: Straggler, answer: AttemptResult, *, again: bool) -> None:
        """Write its answer; ``again``: it had no effect and is to be made once more."""

    async def machines_due(
        self,
        now: datetime,
        seen_before: datetime,
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[CapturedMachine]:
        """Machines of one region to look up now: of jobs that are down, and a first few of others.

        None that was looked up since ``seen_before``, but to confirm at the end of a settle window
        that it is gone.  None of those whose ids are in ``without``.
        """

    async def machines_seen(
        self, seen: Sequence[tuple[CapturedMachine, MachineStatus | None]], at: datetime
    ) -> None:
        """Write what a look at these machines showed; None: nothing that is certain."""

    async def machines_hidden(self, machine: CapturedMachine, problem: ErrorDetail) -> None:
        """Write that the machines of this one's job cannot be looked up."""


class Store(Protocol):
    """One partition's rows; every method raises StoreUnavailable.

    Those that write raise RowsLocked, a StoreUnavailable, where that is so for some of the rows
    alone, and LeaseLost once the partition has passed to another replica.
    """

    @property
    def instances(self) -> InstanceStore:
        """Their instances."""

    async def planned(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[Termination]]:
        """Terminations of each kind to look at: due or not, the soonest first.

        Of a kind that goes in turn, those that are due.
        """

    async def callable(
        self, now: datetime, limit: int, *, capture_wait_s: float
    ) -> tuple[list[Termination], datetime | None]:
        """Terminations whose job may be called now, first in line first.

        Where there is none, with when one may be.  One that awaits the capture of its machines
        does so for ``capture_wait_s`` at most.
        """

    async def to_watch(self, looked_before: datetime, limit: int) -> list[Termination]:
        """Terminations of one region whose job is watched for coming back, the soonest due first.

        None whose watch has looked since ``looked_before``.
        """

    async def watch(
        self,
        looks: Sequence[RevivalCheck],
        at: datetime,
        *,
        reterminate_max: int,
        new_id: Callable[[str], str],
    ) -> None:
        """Write what these looks showed, with an operation for each job to be kept down.

        None is brought down again more than ``reterminate_max`` times in a row.  ``new_id`` makes
        an id with a prefix.
        """

    async def unanswered(self) -> list[Termination]:
        """Terminations with an attempt whose answer was never written."""

    async def draining(self, termination_ids: Sequence[str]) -> list[Termination]:
        """Those of these that drain and of which no count is planned, in the order given."""

    async def uncounted(
        self, before: datetime, operation_ids: Sequence[str] | None, limit: int
    ) -> list[Termination]:
        """Draining jobs whose instances were not counted since ``before``, the longest ago first.

        Of these operations; None: of any, where the call was acknowledged before then, too.
        """

    async def apply(self, changes: Sequence[tuple[Termination, Decision]], at: datetime) -> int:
        """Write decisions in one transaction; returns how many changed a state."""

    async def postpone(self, termination_ids: Sequence[str], until: datetime) -> None:
        """Let no look of these be due before ``until``."""

    async def set_aside(self, termination_id: str, error: Exception) -> bool:
        """Let no loop have this termination for a while.

        Returns False where it was set aside for the same error before.  The store itself does so
        with those whose row cannot be read.
        """

    async def let_go(self) -> bool:
        """Have the loops try those again whose rows another session had locked.

        Returns whether there was one.  The store itself keeps such rows from the loops, once a
        write has raised RowsLocked.
        """

    async def set_aside_until(self, now: datetime) -> datetime | None:
        """When the first of those that are set aside is to be tried again."""

    async def take_up(self, now: datetime) -> bool:
        """Have the loops try those again whose time has come, but for rows that are locked.

        Returns whether there was one.
        """

    async def start_attempt(
        self, before: Termination, decision: Decision, attempt: NewAttempt
    ) -> int | None:
        """Write the attempt and the move to sending; its number, or None if it moved meanwhile."""

    async def finish_attempt(
        self, before: Termination, decision: Decision, answer: AttemptResult
    ) -> None:
        """Write the open attempt's answer and what was decided on it, or neither."""

    async def set_condition(self, trouble: ErrorDetail | None, allowed_per_s: float | None) -> None:
        """Record how the partition fares, for everyone who asks.

        ``trouble``: why its calls fail.  ``allowed_per_s``: how many TerminateJob calls the cloud
        lets through; None: as many as are configured.
        """


class LeaseStore(Protocol):
    """Who drives which partition; every method raises StoreUnavailable."""

    async def join(self, replica: str, names: Collection[str], lease_s: float) -> None:
        """Have a new replica live, which is configured for these partitions."""

    async def renew(self, replica: str, lease_s: float) -> LeaseSnapshot | None:
        """Live on for ``lease_s``; None where the replica had counted as dead."""

    async def note_step(self, known_steps_s: int, by_s: int) -> None:
        """Add a step of the clock to the noted ones, unless another replica has done so."""

    async def take(self, replica: str, epochs: Mapping[str, int]) -> list[FencingToken]:
        """Hold those of these partitions that nobody took since their epochs were read.

        The times that are stored for them are moved along with the noted steps of the clock.
        """

    async def release(self, fence: FencingToken) -> None:
        """Give a partition back, so that another replica may take it at once."""

    async def leave(self, replica: str) -> None:
        """Live no more: all that it held is free."""
