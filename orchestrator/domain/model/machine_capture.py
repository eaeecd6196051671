"""Which machines a job's instances run on, read while the cloud still says so.

The cloud blanks an instance's machine id once the instance has finished (ComputeNodeInstanceId,
cloud.tencent.com/document/api/599/15912), so the ids are captured before TerminateJob or along
with it: DescribeJobSubmitInfo names the tasks, pages of DescribeTask the instances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ErrorDetail

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import (
        InstanceCounters,
        JobSubmitted,
        TaskPage,
        TaskSubmitted,
    )

PAGE_INSTANCES: Final = 1000
"""Instances in one DescribeTask at most (cloud.tencent.com/document/api/599/15905)."""
STATES_WITH_MACHINE: Final = (JobState.STARTING, JobState.RUNNING, JobState.FAILED_INTERRUPTED)
"""States in which an instance has a machine."""
LIVE: Final = tuple(state for state in JobState if not state.finished)
_UNCOUNTED: Final = ErrorDetail(
    code="Client.Uncounted", message="the cloud's answer had no instance counters"
)
_TOO_LATE: Final = ErrorDetail(
    code="Client.TooLate", message="its instances had ended before their machines were read"
)


TOO_MANY: Final = ErrorDetail(
    code="Client.TooManyInstances",
    message="the cloud showed more instances of a task than it was submitted with",
)


class CaptureTiming(StrEnum):
    """When machines are captured, relative to TerminateJob."""

    BEFORE = "before"
    PARALLEL = "parallel"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePolicy:
    """``before_max_instances``: jobs no larger are captured before, whatever ``when`` says.

    No call waits for its capture for more than ``before_max_s``.  A machine whose instance was
    STARTING counts as gone only ``starting_watch_s`` after the job was down.
    """

    when: CaptureTiming = CaptureTiming.PARALLEL
    before_max_instances: int = 100
    before_max_s: float = 3.0
    starting_watch_s: float = 120.0

    @property
    def wait_s(self) -> float:
        """How long a call waits for a capture of which nothing is known yet."""
        before = self.when is CaptureTiming.BEFORE or self.before_max_instances > 0
        return self.before_max_s if before and self.when is not CaptureTiming.NONE else 0.0

    def call_waits(self, capture: Capture) -> bool:
        """Whether the job is called, each time that it runs, only once a capture has ended."""
        instances = sum(task.instances for task in capture.tasks)
        return self.when is CaptureTiming.BEFORE or instances <= self.before_max_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """How far the capture of one run of a job is: page after page, task after task.

    Its live instances are read anew in the same way.  Pages are read from ``began_at`` on.

    When the tasks so far were counted, ``occupying`` instances had a machine and ``waiting`` ones
    could still get one.  Of ``captured`` instances the machine's id was read; ``nodes`` of these
    machines belong to compute environments.
    """

    run: int
    tasks: tuple[TaskSubmitted, ...] = ()
    task: int = 0
    offset: int = 0
    occupying: int = 0
    waiting: int = 0
    captured: int = 0
    nodes: int = 0
    counted_at: datetime | None = None
    """When the last answer arrived that counted a task."""
    failures: int = 0
    problem: ErrorDetail | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None


def with_tasks(capture: Capture, submitted: JobSubmitted, now: datetime) -> Capture:
    """The capture once the job's tasks are known."""
    return replace(
        capture,
        tasks=submitted.tasks,
        failures=0,
        problem=None,
        began_at=capture.began_at or now,
        ended_at=None if submitted.tasks else now,
    )


def with_page(capture: Capture, page: TaskPage, now: datetime) -> Capture:
    """The capture after a page of its present task; the first of each counts it.

    A task has no more pages than it was submitted with instances: else they might have no end.
    """
    capture = replace(capture, failures=0, problem=None)
    left = capture.tasks[capture.task].instances - capture.offset
    if page.rows > left:
        return ended(capture, now, TOO_MANY)
    if capture.offset == 0:
        counters = page.task.instances
        if counters is None:
            return ended(capture, now, _UNCOUNTED)
        capture = replace(
            capture,
            occupying=capture.occupying + occupying(counters),
            waiting=capture.waiting + counters.live - occupying(counters),
            counted_at=now,
        )
    if page.rows < PAGE_INSTANCES or page.rows == left:
        return _next_task(capture, now)
    return replace(capture, offset=capture.offset + PAGE_INSTANCES)


def _next_task(capture: Capture, now: datetime) -> Capture:
    task = capture.task + 1
    ended_at = now if task == len(capture.tasks) else None
    return replace(capture, task=task, offset=0, ended_at=ended_at)


def occupying(counters: InstanceCounters) -> int:
    """How many instances have a machine."""
    return counters.starting + counters.running + counters.failed_interrupted


def failed(capture: Capture, problem: ErrorDetail) -> Capture:
    """The capture after a call that is to be made again."""
    return replace(capture, failures=capture.failures + 1, problem=problem)


def ended_too_late(capture: Capture, now: datetime) -> Capture:
    return ended(capture, now, _TOO_LATE)


def ended(capture: Capture, now: datetime, problem: ErrorDetail) -> Capture:
    """The capture given up for ``problem``."""
    return replace(capture, ended_at=now, problem=problem)
