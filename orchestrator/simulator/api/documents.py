"""Jobs and task instances in the vendor's structures (cloud.tencent.com/document/api/599/15912).

JobView, which DescribeJobs returns, has no TaskInstanceMetrics, NextAction or TaskSet; the response
of DescribeJob has all three.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.api.paging import rows
from orchestrator.simulator.cloud.instance_ranges import (
    FINISHED,
    OCCUPYING,
    STATES,
    WAITING,
    RangeView,
)
from orchestrator.simulator.cloud.machines import is_hidden, machine_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.simulator.cloud.job import Job

TASK_PREFIX: Final = "task-"
COUNTERS: Final = {
    state: "".join(word.capitalize() for word in state.split("_")) + "Count" for state in STATES
}


def task_name(task: int) -> str:
    return f"{TASK_PREFIX}{task}"


def task_number(name: str, job: Job) -> int | None:
    """Return the number of the task of this name, from 0; None if the job has no such task."""
    return next((task for task in range(job.spec.tasks) if task_name(task) == name), None)


def time_text(seconds: float | None) -> str | None:
    """Format a time as the vendor does: ISO 8601 in UTC with whole seconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def job_view(job: Job, now: float) -> dict[str, object]:
    spec = job.spec
    return {
        "JobId": spec.job_id,
        "JobName": spec.name,
        "JobState": job.shown_state(now),
        "Priority": spec.priority,
        "Placement": {"Zone": spec.zone, "ProjectId": 0},
        "CreateTime": time_text(job.created_at),
        "EndTime": time_text(job.end_time(now)),
        "TaskMetrics": _task_metrics(job, now),
        "Tags": tag_list(spec.tags),
    }


def job_document(job: Job, now: float) -> dict[str, object]:
    """Return the response of DescribeJob."""
    spec = job.spec
    return {
        "JobId": spec.job_id,
        "JobName": spec.name,
        "Zone": spec.zone,
        "Priority": spec.priority,
        "JobState": job.shown_state(now),
        "CreateTime": time_text(job.created_at),
        "EndTime": time_text(job.end_time(now)),
        "TaskSet": [_task_view(job, task, now) for task in range(spec.tasks)],
        "DependenceSet": [],
        "TaskMetrics": _task_metrics(job, now),
        "TaskInstanceMetrics": _metrics(job.shown_counts(now, 0, spec.instances)),
        "StateReason": "",
        "Tags": tag_list(spec.tags),
        "NextAction": job.next_action(now),
    }


def task_document(
    job: Job, task: int, now: float, *, states: frozenset[str], offset: int, limit: int
) -> dict[str, object]:
    """Return the response of DescribeTask: one page of the instances in ``states``.

    TaskInstanceTotalCount counts the rows of all pages; the vendor does not say whether it should.
    The metrics count every instance of the task.
    """
    parts = [part for part in _parts(job, task, now) if part.state in states]
    page = rows(parts, offset=offset, limit=limit)
    return {
        "JobId": job.spec.job_id,
        **_task_view(job, task, now),
        "TaskInstanceTotalCount": sum(part.count for part in parts),
        "TaskInstanceSet": [_instance_view(job, task, part, index) for part, index in page],
        "TaskInstanceMetrics": _metrics(job.shown_counts(now, *job.task_range(task))),
    }


def _parts(job: Job, task: int, now: float) -> list[RangeView]:
    """Return the instances of a task, starting in the middle: the API guarantees no order."""
    first, end = job.task_range(task)
    middle = first + (end - first + 1) // 2
    return [*job.parts(now, middle, end), *job.parts(now, first, middle)]


def _instance_view(job: Job, task: int, part: RangeView, index: int) -> dict[str, object]:
    ended = part.state in FINISHED
    began = part.span.state not in WAITING
    created = time_text(job.created_at)
    return {
        "TaskInstanceIndex": index - job.task_range(task)[0],
        "TaskInstanceState": part.state,
        "ExitCode": 0 if part.state == "SUCCEED" else None,
        "StateReason": "",
        "StateDetailedReason": "",
        "ComputeNodeInstanceId": _machine(job, part, index),
        "CreateTime": created,
        "LaunchTime": created if began else None,
        "RunningTime": created if began and part.state != "STARTING" else None,
        "EndTime": time_text(part.span.ended_at(index)) if ended else None,
        "RedirectInfo": {
            "StdoutRedirectPath": "",
            "StderrRedirectPath": "",
            "StdoutRedirectFileName": "",
            "StderrRedirectFileName": "",
        },
    }


def _machine(job: Job, part: RangeView, index: int) -> str:
    if part.state not in OCCUPYING or is_hidden(job.spec, part.state):
        return ""
    return machine_id(job, len(job.runs) - 1, index)


def _task_view(job: Job, task: int, now: float) -> dict[str, object]:
    return {
        "TaskName": task_name(task),
        "TaskState": job.task_state(task, now),
        "CreateTime": time_text(job.created_at),
        "EndTime": time_text(job.stopped_at(now, *job.task_range(task))),
    }


def _task_metrics(job: Job, now: float) -> dict[str, int]:
    counts = dict.fromkeys(STATES, 0)
    for task in range(job.spec.tasks):
        counts[job.task_state(task, now)] += 1
    return _metrics(counts)


def _metrics(counts: Mapping[str, int]) -> dict[str, int]:
    return {COUNTERS[state]: count for state, count in counts.items()}
