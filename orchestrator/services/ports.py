"""What the services need from the database, and the shapes in which it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.model.batch_job import JobState
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.lifecycle import State
    from orchestrator.domain.model.machine import MachineStatus
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.progress.instance_totals import Tally
    from orchestrator.domain.progress.operation_forecast import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MachinesProgress:
    """Captured machines of an operation, but for nodes of compute environments."""

    total: int
    up: int
    gone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """An operation as stored, with how far its jobs are."""

    seq: int
    id: str
    account: str
    region: str
    reason: str
    requested_by: str
    duplicates_merged: int
    outcome: str | None
    created_at: datetime
    finished_at: datetime | None
    jobs_by_state: Mapping[State, int]
    instances: Tally
    machines: MachinesProgress
    revived: int
    """Jobs that came back after their terminations had ended."""
    observed_at: datetime | None
    partition: str
    calls_per_s: float
    """TerminateJob calls a second of its partition: of the last ten seconds, or of those since the
    operation was created, where that is less."""
    allowed_per_s: float | None
    """As many as the cloud lets its partition make now; None: as many as are configured."""
    trouble: ErrorDetail | None
    """Why its partition's calls fail now."""
    reterminate_for_s: float | None
    reterminates_for: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTerminations:
    """Terminations in one state that have not ended; the oldest may be called since ``since``.

    None: their times cannot be read.
    """

    count: int
    since: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    number: int
    action: str
    target: str
    sent_at: datetime
    answered_at: datetime | None
    outcome: str | None
    code: str | None
    message: str | None
    request_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationRecord:
    """A termination as stored; ``ahead`` jobs of its partition are called before it."""

    seq: int
    termination: Termination
    operation_ids: tuple[str, ...]
    attempts: tuple[AttemptRecord, ...]
    ahead: int
    trouble: ErrorDetail | None
    allowed_per_s: float | None
    """As of an operation."""
    holder: str | None
    """The replica that holds its partition, or held it last, by host and process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """A task instance as it was last read, with its machine as that was last looked up."""

    task: str
    index: int
    state: str | None
    reason: str | None
    observed_at: datetime
    machine_id: str | None
    machine: str | None
    machine_observed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    id: int
    at: datetime
    type: str
    operation_id: str | None
    termination_id: str | None
    from_state: str | None
    to_state: str | None
    evidence: int | None
    why: str | None
    number: int
    """Of the events of its subject."""
    facts: Mapping[str, object] | None
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationHistory:
    """A termination with its attempts and its events, each in order."""

    termination: Termination
    attempts: tuple[AttemptRecord, ...]
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationHistory:
    """An operation with its events in order, and all of its terminations in no order, in pages."""

    id: str
    account: str
    region: str
    reason: str
    requested_by: str
    created_at: datetime
    finished_at: datetime | None
    outcome: str | None
    events: tuple[EventRecord, ...]
    terminations: AsyncIterator[Sequence[TerminationHistory]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """``replayed``: the same request had been stored before, under the same key."""

    operation_id: str
    replayed: bool


class Records(Protocol):
    """Operations and terminations as people ask for them; raises StoreUnavailable."""

    async def create(self, operation: NewOperation, termination_ids: list[str]) -> Created:
        """Store an operation with a termination per job, or join the live one; raises Conflict.

        ``termination_ids`` has a fresh id for each job.
        """

    async def operation(self, operation_id: str) -> OperationRecord | None: ...

    async def operations(
        self, *, after: int, limit: int, finished: bool | None, account: str | None
    ) -> list[OperationRecord]:
        """Newest first, below sequence number ``after``."""

    async def progress(self, operation: OperationRecord, calls_per_s: float) -> Progress:
        """How far the jobs of an operation are; so many calls a second are let through."""

    async def termination(self, termination_id: str) -> TerminationRecord | None: ...

    async def others(self, partition: str) -> Durations | None:
        """How long drains of a partition took of late."""

    async def terminations(
        self,
        *,
        after: int,
        limit: int,
        operation_id: str | None = None,
        state: State | None = None,
        job_id: str | None = None,
        account: str | None = None,
        region: str | None = None,
        revived: bool | None = None,
    ) -> list[TerminationRecord]:
        """In the order of submission, above sequence number ``after``."""

    async def instances(
        self,
        *,
        after: int,
        limit: int,
        termination_id: str,
        states: Collection[JobState] | None,
        machine: MachineStatus | None,
    ) -> list[InstanceRecord]:
        """Instances of a termination that had a machine when they were read, ``after`` so many."""

    async def ask_for_instances(self, termination_id: str) -> None:
        """Have the live instances of an unfinished termination read anew, within the quota."""

    async def events(
        self, *, after: int, limit: int, operation_id: str | None, termination_id: str | None
    ) -> list[EventRecord]:
        """An operation's events with those of its terminations, or a termination's own."""

    async def live(self) -> Mapping[str, LiveTerminations]:
        """Those that have not ended, by state; none in a state that is not there."""

    async def ping(self) -> None:
        """Return if a request of one job could be stored, and be read."""

    async def troubles(self) -> Mapping[str, tuple[str, str | None]]:
        """Which partitions' calls fail, with the code and the replica that holds each."""

    async def set_aside(self, limit: int) -> tuple[int, list[str]]:
        """How many terminations are set aside, and the ids of the first of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many terminations wait for an account and region that no replica is configured for.

    ``watched``: of how many more, that have ended, nobody sees whether their jobs are revived.
    """

    account: str
    region: str
    jobs: int
    watched: int = 0

    @property
    def place(self) -> str:
        return f"{self.account}/{self.region}"

    @property
    def message(self) -> str:
        place = f"account {self.account!r} and its region {self.region!r}"
        parts = []
        if self.jobs:
            wait = "1 termination waits" if self.jobs == 1 else f"{self.jobs} terminations wait"
            parts.append(
                f"{wait} for {place}, which the configuration does not name: name them again, or "
                "end each operation with POST /v1/operations/ID:stop"
            )
        if self.watched:
            jobs = "1 stopped job" if self.watched == 1 else f"{self.watched} stopped jobs"
            parts.append(
                f"nobody sees whether {jobs} of {place} run again, for the configuration does not "
                "name them: name them again"
            )
        return "; ".join(parts)


class Unconfigured(Protocol):
    """What nobody drives, for its account is configured nowhere; raises StoreUnavailable."""

    async def waiting(self) -> Sequence[Waiting]: ...

    async def end(self, operation_id: str, *, by: str, reason: str) -> None:
        """End what is left of an operation; raises NotFound, and NotPossible where it is driven."""


class Histories(Protocol):
    """All that has become of an operation; raises StoreUnavailable."""

    def history(self, operation_id: str) -> AbstractAsyncContextManager[OperationHistory | None]:
        """All of an operation, read as it was at one moment, for as long as this is open."""
