"""The cloud's own nouns: job states, instance counters, and what one look at a job returned.

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

    ``JobState(word)`` takes any other word as well, and keeps it: what is shown is what the cloud
    said.  Such a state is not ``known``.
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
        """Finished as the cloud means it; FAILED_INTERRUPTED keeps its machine and is live."""
        return self in (JobState.SUCCEED, JobState.FAILED)

    @property
    def known(self) -> bool:
        """Whether the vendor documents it."""
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
    """How many task instances are in each state."""

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
    """One task as DescribeJob (name and state) or DescribeTask (counters too) showed it."""

    name: str
    state: JobState | None = None
    instances: InstanceCounters | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSeen:
    """One task instance as DescribeTask showed it."""

    index: int
    state: JobState | None
    machine_id: str | None = None
    """CVM id; the cloud blanks it once the instance has finished."""
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One page of DescribeTask: the task with its counters, and the instances asked for."""

    observed_at: datetime
    task: TaskSeen
    instances: tuple[InstanceSeen, ...]
    rows: int
    """Instances on the cloud's page, those in other states than asked for as well: as few as there
    are in ``instances``, unless the cloud did not obey.  Less than was asked for: the last page."""
    instances_total: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmitted:
    """One task as it was submitted."""

    name: str
    instances: int
    env_id: str | None = None
    """The compute environment that it runs on; None: machines of its own, by an inline ComputeEnv,
    each created for one instance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSubmitted:
    """What a job was submitted as, which never changes."""

    observed_at: datetime
    job_id: str
    tasks: tuple[TaskSubmitted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSeen:
    """One job as one call showed it; what that call does not carry is None.

    ``observed_at`` is when the call was sent, so that an answer never looks younger than it is.
    ``state`` is None when the call does not carry it (DescribeTask).
    """

    observed_at: datetime
    job_id: str
    name: str | None = None
    state: JobState | None = None
    end_time: str | None = None
    next_action: str | None = None
    """What the cloud is about to do with the job; '' where it was read and nothing is pending."""
    instances: InstanceCounters | None = None
    tasks: tuple[TaskSeen, ...] = ()

    @property
    def terminating(self) -> bool:
        """Whether the cloud says that it is terminating the job."""
        return self.next_action == TERMINATING

    @property
    def untouched(self) -> bool:
        """Whether NextAction was read, and the cloud is not terminating the job."""
        return self.next_action is not None and not self.terminating
