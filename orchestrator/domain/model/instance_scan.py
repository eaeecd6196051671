"""Capture of the machines of a job's instances, while the cloud still shows them.

The cloud blanks an instance's machine id once the instance has finished (ComputeNodeInstanceId,
cloud.tencent.com/document/api/599/15912), so the ids are captured before TerminateJob or in
parallel with it: DescribeJobSubmitInfo names the tasks, pages of DescribeTask the instances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import (
        InstanceCounters,
        JobSubmitted,
        TaskPage,
        TaskSubmitted,
    )

PAGE_INSTANCES: Final = 1000
"""Maximum number of instances in one DescribeTask (cloud.tencent.com/document/api/599/15905)."""
STATES_WITH_MACHINE: Final = (JobState.STARTING, JobState.RUNNING, JobState.FAILED_INTERRUPTED)
"""States in which an instance has a machine."""
LIVE: Final = tuple(state for state in JobState if not state.finished)
_UNCOUNTED: Final = ErrorDetail(
    code=ClientCode.UNCOUNTED, message="the cloud's answer had no instance counters"
)
_TOO_LATE: Final = ErrorDetail(
    code=ClientCode.TOO_LATE, message="its instances had ended before their machines were read"
)


TOO_MANY: Final = ErrorDetail(
    code=ClientCode.TOO_MANY_INSTANCES,
    message="the cloud showed more instances of a task than it was submitted with",
)


class CaptureTiming(StrEnum):
    """Time of the capture relative to TerminateJob."""

    BEFORE = "before"
    PARALLEL = "parallel"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePolicy:
    """Timing and limits of captures.

    Jobs of at most ``before_max_instances`` are captured before TerminateJob, whatever ``when``
    says. TerminateJob waits at most ``before_max_s`` for its capture. If captures cannot keep up
    with the quota of TerminateJob, jobs whose capture would be too late are terminated without
    waiting, so that no permit is unused. A machine whose instance was
    STARTING counts as gone only ``starting_watch_s`` after the job stopped.
    """

    when: CaptureTiming = CaptureTiming.PARALLEL
    before_max_instances: int = 100
    before_max_s: float = 3.0
    starting_watch_s: float = 120.0

    @property
    def wait_s(self) -> float:
        """Maximum time that TerminateJob waits for a capture."""
        before = self.when is CaptureTiming.BEFORE or self.before_max_instances > 0
        return self.before_max_s if before and self.when is not CaptureTiming.NONE else 0.0

    def call_waits(self, capture: InstanceScan) -> bool:
        """Return whether TerminateJob waits in each run of the job until its capture has ended."""
        instances = sum(task.instances for task in capture.tasks)
        return self.when is CaptureTiming.BEFORE or instances <= self.before_max_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceScan:
    """Progress of reading the instances of one run of a job, page by page and task by task.

    A scan is the capture of the machines, or a rescan of the live instances. Pages are read from
    ``began_at`` on.

    When the tasks so far were counted, ``occupying`` instances had a machine and ``waiting`` ones
    could still get one. The machine id was read for ``captured`` instances; ``nodes`` of these
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
    """Arrival of the last answer that counted a task."""
    failures: int = 0
    problem: ErrorDetail | None = None
    began_at: datetime | None = None
    ended_at: datetime | None = None


def with_tasks(scan: InstanceScan, submitted: JobSubmitted, now: datetime) -> InstanceScan:
    """Return the scan with the job's tasks."""
    return replace(
        scan,
        tasks=submitted.tasks,
        failures=0,
        problem=None,
        began_at=scan.began_at or now,
        ended_at=None if submitted.tasks else now,
    )


def with_page(scan: InstanceScan, page: TaskPage, now: datetime) -> InstanceScan:
    """Return the scan after a page of its current task; the first page counts the task.

    The scan ends if a task shows more instances than it was submitted with: otherwise the pages
    might never end.
    """
    scan = replace(scan, failures=0, problem=None)
    left = scan.tasks[scan.task].instances - scan.offset
    if page.rows > left:
        return ended(scan, now, TOO_MANY)
    if scan.offset == 0:
        counters = page.task.instances
        if counters is None:
            return ended(scan, now, _UNCOUNTED)
        scan = replace(
            scan,
            occupying=scan.occupying + machine_holding_count(counters),
            waiting=scan.waiting + counters.live - machine_holding_count(counters),
            counted_at=now,
        )
    if page.rows < PAGE_INSTANCES or page.rows == left:
        return _next_task(scan, now)
    return replace(scan, offset=scan.offset + PAGE_INSTANCES)


def _next_task(scan: InstanceScan, now: datetime) -> InstanceScan:
    task = scan.task + 1
    ended_at = now if task == len(scan.tasks) else None
    return replace(scan, task=task, offset=0, ended_at=ended_at)


def machine_holding_count(counters: InstanceCounters) -> int:
    """Return the number of instances that have a machine."""
    return counters.starting + counters.running + counters.failed_interrupted


def failed(scan: InstanceScan, problem: ErrorDetail) -> InstanceScan:
    """Return the scan after a failed request that will be retried."""
    return replace(scan, failures=scan.failures + 1, problem=problem)


def ended_too_late(scan: InstanceScan, now: datetime) -> InstanceScan:
    """Return the scan given up because the instances had ended before they were read."""
    return ended(scan, now, _TOO_LATE)


def ended(scan: InstanceScan, now: datetime, problem: ErrorDetail) -> InstanceScan:
    """Return the scan given up because of ``problem``."""
    return replace(scan, ended_at=now, problem=problem)
