"""Jobs as the cloud shows them: states, instance counters, and what one read returned.

Source: Tencent Cloud Batch API 2017-03-12, JobView, Job, TaskInstanceMetrics
(cloud.tencent.com/document/api/599/15912).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime


TERMINATING: Final = "TERMINATING"
"""The one value of NextAction that the vendor documents: cloud.tencent.com/document/api/599/15904.
"""


class JobState(StrEnum):
    """State of a job, a task or a task instance; the cloud uses one list for all three.

    ``JobState(word)`` accepts any other word as well and keeps it, so that the API shows what the
    cloud returned. Such a state is not ``documented``.
    """

    SUBMITTED = "SUBMITTED"
    PENDING = "PENDING"
    RUNNABLE = "RUNNABLE"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    SUCCEED = "SUCCEED"
    FAILED = "FAILED"
    FAILED_INTERRUPTED = "FAILED_INTERRUPTED"

    @property
    def finished(self) -> bool:
        """True for SUCCEED and FAILED; FAILED_INTERRUPTED keeps its machine and is live."""
        return self in (JobState.SUCCEED, JobState.FAILED)

    @property
    def documented(self) -> bool:
        """True if the vendor documents the state."""
        return self.value in type(self).__members__

    @classmethod
    def _missing_(cls, value: object) -> JobState | None:
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceCounters:
    """Number of task instances in each state."""

    submitted: int = 0
    pending: int = 0
    runnable: int = 0
    starting: int = 0
    running: int = 0
    succeed: int = 0
    failed: int = 0
    failed_interrupted: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def live(self) -> int:
        return self.total - self.succeed - self.failed


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSeen:
    """A task as DescribeJob (name and state) or DescribeTask (counters too) showed it."""

    name: str
    state: JobState | None = None
    instances: InstanceCounters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSeen:
    """A task instance as DescribeTask showed it."""

    index: int
    state: JobState | None
    machine_id: str | None = None
    """CVM id; the cloud blanks it once the instance has finished."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One page of DescribeTask: the task with its counters, and the requested instances."""

    observed_at: datetime
    task: TaskSeen
    instances: tuple[InstanceSeen, ...]
    rows: int
    """Instances on the cloud's page, including those in states that were not requested; more than
    in ``instances`` only if the cloud ignored the filter. Fewer than requested: the last page."""
    instances_total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """A task as it was submitted."""

    name: str
    instances: int
    env_id: str | None = None
    """Compute environment that the task runs on; None: an inline ComputeEnv, which creates one
    machine for each instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """The tasks that a job was submitted with; they never change."""

    observed_at: datetime
    job_id: str
    tasks: tuple[TaskSubmitted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """A job as one API call showed it; values that the call does not carry are None.

    ``observed_at`` is when the request was sent, so that an answer never seems newer than it is.
    ``state`` is None if the call does not carry it (DescribeTask).
    """

    observed_at: datetime
    job_id: str
    name: str | None = None
    state: JobState | None = None
    end_time: str | None = None
    next_action: str | None = None
    """Pending action of the cloud on the job; '' if it was read and nothing is pending."""
    instances: InstanceCounters | None = None
    tasks: tuple[TaskSeen, ...] = ()

    @property
    def terminating(self) -> bool:
        """True if NextAction shows that the cloud is terminating the job."""
        return self.next_action == TERMINATING

    @property
    def not_terminating(self) -> bool:
        """True if NextAction was read and shows that the cloud is not terminating the job."""
        return self.next_action is not None and not self.terminating
