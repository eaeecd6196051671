"""Database ports of the services, and the records that they return."""

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
    """Counts of the captured machines of an operation, without nodes of compute environments."""

    total: int
    up: int
    gone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """An operation as stored, with the progress of its jobs."""

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
    """Number of jobs that were revived after their terminations had ended."""
    observed_at: datetime | None
    partition: str
    calls_per_s: float
    """TerminateJob requests a second of its partition: of the last ten seconds, or of the time
    since the operation was created if that is shorter."""
    allowed_per_s: float | None
    """TerminateJob requests a second that the cloud accepts from its partition now; None: as many
    as are configured."""
    trouble: ErrorDetail | None
    """Why the API calls of its partition fail now."""
    reterminate_for_s: float | None
    reterminates_for: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOperation:
    """An operation whose jobs have not been counted."""

    seq: int
    id: str
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTerminations:
    """Unfinished terminations in one state.

    ``since``: when the oldest of them was requested, or its ``not_before`` if that is later; None
    if their times cannot be read.
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
    """A termination as stored.

    ``jobs_ahead``: number of jobs of its partition for which TerminateJob is sent before this one.
    """

    seq: int
    termination: Termination
    operation_ids: tuple[str, ...]
    attempts: tuple[AttemptRecord, ...]
    jobs_ahead: int
    trouble: ErrorDetail | None
    allowed_per_s: float | None
    """As in ``OperationRecord``."""
    holder: str | None
    """Host and process id of the replica that holds its partition, or held it last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRecord:
    """A task instance as last read, with its machine as last read."""

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
    """Position among the events of its operation or termination."""
    facts: Mapping[str, object] | None
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminationHistory:
    """A termination with its attempts and events, both in order."""

    termination: Termination
    attempts: tuple[AttemptRecord, ...]
    events: tuple[EventRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationHistory:
    """An operation with its events in order, and pages of its terminations in no order."""

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
class SubmissionResult:
    """The operation of a request.

    ``replayed``: the same request was stored before under the same idempotency key. ``record``: the
    operation, if it is new and so are the terminations of all its jobs.
    """

    operation_id: str
    replayed: bool
    record: OperationRecord | None


class Records(Protocol):
    """Operations and terminations for the REST API; every method raises StoreUnavailable."""

    async def create(self, operation: NewOperation, termination_ids: list[str]) -> SubmissionResult:
        """Store an operation, with a new termination for each job that has no live one.

        Raises IdempotencyKeyReused. ``termination_ids`` has a new id for each job.
        """

    async def find_operation(self, operation_id: str) -> FoundOperation | None: ...

    async def find_operations(
        self, *, after: int, limit: int, finished: bool | None, account: str | None
    ) -> list[FoundOperation]:
        """Return operations below sequence number ``after``, the newest first."""

    async def operations(self, ids: Collection[str]) -> list[OperationRecord]:
        """Count the jobs of these operations; return them newest first."""

    async def progress(
        self, operations: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        """Count how far the jobs of running operations are, by the id of each operation.

        Each comes with the TerminateJob requests a second that the cloud accepts.
        """

    async def termination(self, termination_id: str) -> TerminationRecord | None: ...

    async def past_durations(self, partition: str) -> Durations | None:
        """Return how long recent drains of the partition took; None if there were none."""

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
        """Return terminations above sequence number ``after``, in the order of submission."""

    async def instances(
        self,
        *,
        after: int,
        limit: int,
        termination_id: str,
        states: Collection[JobState] | None,
        machine: MachineStatus | None,
    ) -> list[InstanceRecord]:
        """Return instances of a termination that had a machine when they were read.

        ``after``: number of instances to skip.
        """

    async def ask_for_instances(self, termination_id: str) -> None:
        """Have the live instances of an unfinished termination read again, within the quota."""

    async def events(
        self, *, after: int, limit: int, operation_id: str | None, termination_id: str | None
    ) -> list[EventRecord]:
        """Return the events of an operation and its terminations, or of one termination."""

    async def live(self) -> Mapping[str, LiveTerminations]:
        """Return the unfinished terminations by state; a state without any is left out."""

    async def ping(self) -> None:
        """Return if a request for one job could be stored and read."""

    async def troubles(self) -> Mapping[str, tuple[str, str | None]]:
        """Return the error code and the holder of each partition whose API calls fail."""

    async def set_aside(self, limit: int) -> tuple[int, list[str]]:
        """Return how many terminations are set aside, and the ids of the first ``limit``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Terminations of an account and region that no replica is configured for.

    ``jobs``: number of unfinished terminations. ``watched``: number of finished terminations whose
    jobs should be watched for a revival and are not.
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
                f"{wait} for {place}, which no replica is configured for: configure them again, or "
                "end each operation with POST /v1/operations/ID:stop"
            )
        if self.watched:
            jobs = "1 stopped job" if self.watched == 1 else f"{self.watched} stopped jobs"
            parts.append(
                f"{jobs} of {place} cannot be watched for a revival, because no replica is "
                "configured for them: configure them again"
            )
        return "; ".join(parts)


class Unconfigured(Protocol):
    """Terminations that no replica is configured for; every method raises StoreUnavailable."""

    async def waiting(self) -> Sequence[Waiting]: ...

    async def end(self, operation_id: str, *, by: str, reason: str) -> None:
        """End the rest of an operation.

        Raises NotFound, and NotPossible if a replica is configured for its account and region.
        """


class Histories(Protocol):
    """Complete histories of operations; raises StoreUnavailable."""

    def history(self, operation_id: str) -> AbstractAsyncContextManager[OperationHistory | None]:
        """Open the history of an operation: one consistent snapshot while the context is open."""
