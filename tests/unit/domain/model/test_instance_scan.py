"""Capture of a job's machines: page by page, and what is missing at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions import capture_coverage
from orchestrator.domain.model import instance_scan
from orchestrator.domain.model.batch_job import (
    InstanceCounters,
    JobState,
    JobSubmitted,
    TaskPage,
    TaskSeen,
    TaskSubmitted,
)
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming, InstanceScan
from orchestrator.domain.model.lifecycle import State
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import LIVE, NOW, STOPPED, later, termination

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination

TASKS = (TaskSubmitted(name="a", instances=3), TaskSubmitted(name="b", instances=2500))
COUNTED = InstanceCounters(
    submitted=1, pending=2, runnable=4, starting=8, running=16, succeed=32, failed_interrupted=64
)


def page(task: str, rows: int, instances: InstanceCounters | None = COUNTED) -> TaskPage:
    return TaskPage(
        observed_at=NOW,
        task=TaskSeen(name=task, instances=instances),
        instances=(),
        rows=rows,
        instances_total=None,
    )


def submitted(*tasks: TaskSubmitted) -> JobSubmitted:
    return JobSubmitted(observed_at=NOW, job_id="job-1", tasks=tasks)


def ended(**changes: Any) -> InstanceScan:
    """Return the capture of a job whose five machines were all read before TerminateJob."""
    values: dict[str, Any] = {
        "run": 1,
        "tasks": TASKS,
        "task": 2,
        "occupying": 5,
        "captured": 5,
        "counted_at": NOW,
        "ended_at": NOW,
    }
    return InstanceScan(**(values | changes))


def called(capture: InstanceScan | None, **changes: Any) -> Termination:
    values: dict[str, Any] = {"run": 1, "first_sent_at": later(1), "capture": capture}
    return termination(State.DRAINING, **(values | changes))


def test_it_goes_page_by_page_and_task_by_task() -> None:
    capture = instance_scan.with_tasks(InstanceScan(run=1), submitted(*TASKS), NOW)
    places = []
    for name, rows in (("a", 3), ("b", 1000), ("b", 1000), ("b", 500)):
        assert capture.ended_at is None
        places.append((capture.tasks[capture.task].name, capture.offset))
        capture = instance_scan.with_page(capture, page(name, rows), later(len(places)))
    assert places == [("a", 0), ("b", 0), ("b", 1000), ("b", 2000)]
    assert capture.ended_at == later(4)


def test_the_first_page_of_each_task_counts_it() -> None:
    capture = InstanceScan(run=1, tasks=TASKS)
    for number, (name, rows) in enumerate((("a", 3), ("b", 1000), ("b", 1))):
        capture = instance_scan.with_page(capture, page(name, rows), later(number))
    assert (capture.occupying, capture.waiting) == (2 * (8 + 16 + 64), 2 * (1 + 2 + 4))
    assert capture.counted_at == later(1), "of the last task"


def test_a_task_that_is_not_counted_ends_it() -> None:
    capture = instance_scan.with_page(InstanceScan(run=1, tasks=TASKS), page("a", 3, None), NOW)
    assert capture.ended_at == NOW
    assert capture.problem is not None


def test_a_job_without_tasks_has_no_machines_to_capture() -> None:
    assert instance_scan.with_tasks(InstanceScan(run=1), submitted(), NOW).ended_at == NOW


def test_an_answer_ends_the_failure_before_it() -> None:
    problem = ErrorDetail(code="X", message="y")
    failed = instance_scan.failed(
        instance_scan.failed(InstanceScan(run=1, tasks=TASKS), problem), problem
    )
    assert (failed.failures, failed.problem) == (2, problem)
    again = instance_scan.with_page(failed, page("a", 3), NOW)
    assert (again.failures, again.problem) == (0, None)


def test_a_job_that_runs_again_is_captured_again() -> None:
    first = called(ended())
    assert capture_coverage.capture_to_continue(first) == first.captures.machines
    assert capture_coverage.capture_to_continue(
        replace(first, calls=replace(first.calls, run=2))
    ) == InstanceScan(run=2)


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"state": State.SETTLING}, True),
        ({"job_state": JobState.FAILED, "instances": STOPPED}, True),
        ({"job_state": JobState.FAILED, "instances": LIVE}, False),
        ({"job_state": JobState.FAILED}, False),
        ({"job_state": JobState.RUNNING, "instances": STOPPED}, False),
    ],
)
def test_an_ended_job_shows_no_machines(changes: dict[str, Any], *, late: bool) -> None:
    assert capture_coverage.too_late(with_fields(called(None), **changes)) == late


# --- what is missing -----------------------------------------------------------------------------


def test_nothing_is_missing_where_all_were_read_before_the_call() -> None:
    assert capture_coverage.missed(called(ended())) is None


def test_nothing_is_missing_before_the_call() -> None:
    assert capture_coverage.missed(termination(run=1, capture=ended())) is None
    assert capture_coverage.missed(called(ended(), first_sent_at=None, terminate_after=NOW)) is None


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (called(None), "were not captured"),
        (called(ended(), run=2), "were not captured"),
        (called(ended(problem=ErrorDetail(code="Some.Code", message="no"))), "Some.Code: no"),
        (called(ended(ended_at=None)), "did not finish"),
        (called(ended(counted_at=None)), "did not finish"),
        (called(ended(counted_at=later(2))), "counted only after"),
        (called(ended(), first_sent_at=None), "counted only after"),
        (called(ended(waiting=3)), "3 instances were still waiting"),
        (called(ended(captured=3)), "2 of 5 instances"),
    ],
)
def test_missing_machines_are_explained(after: Termination, why: str) -> None:
    assert why in str(capture_coverage.missed(after))


# --- what waits for it ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "instances", "waits"),
    [
        (CapturePolicy(), 100, True),
        (CapturePolicy(), 101, False),
        (CapturePolicy(when=CaptureTiming.BEFORE), 100_000, True),
        (CapturePolicy(before_max_instances=0), 1, False),
    ],
)
def test_small_jobs_are_captured_before_they_are_called(
    policy: CapturePolicy, instances: int, *, waits: bool
) -> None:
    tasks = (TaskSubmitted(name="a", instances=instances),)
    assert policy.call_waits(InstanceScan(run=1, tasks=tasks)) == waits
    # The next run of the job is captured before, too.
    assert policy.call_waits(InstanceScan(run=1, tasks=tasks, ended_at=NOW)) == waits


@pytest.mark.parametrize(
    ("policy", "wait_s"),
    [
        (CapturePolicy(before_max_s=7), 7.0),
        (CapturePolicy(before_max_instances=0), 0.0),
        (CapturePolicy(when=CaptureTiming.BEFORE, before_max_instances=0), 3.0),
        (CapturePolicy(when=CaptureTiming.NONE), 0.0),
    ],
)
def test_no_call_waits_for_what_is_not_captured_before(
    policy: CapturePolicy, wait_s: float
) -> None:
    assert policy.wait_s == wait_s


@pytest.mark.parametrize("instances", [1, 10, 999, 1000, 1001, 2500])
def test_a_task_has_no_more_pages_than_it_was_submitted_with_instances(instances: int) -> None:
    capture = InstanceScan(
        run=1, tasks=(TaskSubmitted(name="a", instances=instances),), began_at=NOW
    )
    pages = 0
    while capture.ended_at is None:
        pages += 1
        capture = instance_scan.with_page(
            capture, page("a", rows=instance_scan.PAGE_INSTANCES), NOW
        )
    assert pages == -(-instances // instance_scan.PAGE_INSTANCES)
    assert capture.problem == (None if instances == 1000 else instance_scan.TOO_MANY)
