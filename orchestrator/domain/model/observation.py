"""Observations that decisions are made on: results of requests and reads, and withdrawals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.model.batch_job import JobSeen, JobSubmitted

if TYPE_CHECKING:
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.termination import Termination


@dataclass(frozen=True, slots=True)
class CallStarted:
    """TerminateJob is about to be sent."""


@dataclass(frozen=True, slots=True)
class CallAcknowledged:
    """The cloud acknowledged TerminateJob."""

    request_id: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """TerminateJob failed; ``before``: the termination before it was sent."""

    error: CloudError
    before: Termination


@dataclass(frozen=True, slots=True)
class CallInterrupted:
    """The process ended after storing the attempt and before storing its result."""


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """A read of this one job failed."""

    error: CloudError


@dataclass(frozen=True, slots=True)
class JobUnlisted:
    """DescribeJobs did not list the job; that alone does not prove that the cloud lost it."""


@dataclass(frozen=True, slots=True)
class BatchReadFailed:
    """DescribeJobs was refused or failed because of the job or of others in the same request."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The operation was stopped before any TerminateJob was sent."""


Read = JobSeen | JobSubmitted | JobUnlisted | BatchReadFailed | ReadFailed
"""Result of a read of the job."""
Observation = Read | CallStarted | CallAcknowledged | CallFailed | CallInterrupted | Withdrawn
