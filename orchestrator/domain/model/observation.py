"""What can be seen of a termination: the end of a call or of a look, or what a person did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.model.batch_job import JobSeen, JobSubmitted

if TYPE_CHECKING:
    from orchestrator.domain.errors import CloudError
    from orchestrator.domain.model.termination import Termination


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A TerminateJob call is about to leave."""


@dataclass(frozen=True, slots=True)
class CallAccepted:
    """The cloud acknowledged the call."""

    request_id: str


@dataclass(frozen=True, slots=True)
class CallFailed:
    """The call did not succeed; ``before``: the termination before the call was started."""

    error: CloudError
    before: Termination


@dataclass(frozen=True, slots=True)
class CallInterrupted:
    """The process ended between writing the attempt and writing its answer."""


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """A look at this one job did not succeed."""

    error: CloudError


@dataclass(frozen=True, slots=True)
class JobUnlisted:
    """DescribeJobs did not list the job; that alone does not prove that it is unknown."""


@dataclass(frozen=True, slots=True)
class JobsRefused:
    """DescribeJobs was refused, or failed, for the job or some others asked for with it."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The requester took it back."""


Read = JobSeen | JobSubmitted | JobUnlisted | JobsRefused | ReadFailed
"""How a read of the job ended."""
Observation = Read | CallStarted | CallAccepted | CallFailed | CallInterrupted | Withdrawn
