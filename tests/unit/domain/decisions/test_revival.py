"""Reads of watched jobs, and the explanation of a revival."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.revival import (
    check_counted,
    check_listed,
    check_refused,
    revival_of,
)
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import Revival
from orchestrator.services.explanation.explain import explain
from orchestrator.services.explanation.values import ExplanationContext
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import LIVE, NOW, batch_read, later, read, termination

if TYPE_CHECKING:
    from orchestrator.domain.model.batch_job import JobSeen

STOPPED = termination(
    State.VERIFIED,
    next_poll_at=None,
    finished_at=NOW,
    job_state=JobState.FAILED,
    job_end_time="E1",
    revival_watch_s=3600.0,
    revival_watch_from=NOW,
    revival_checked_at=NOW,
)
RUNS, ENDED, NEITHER = "runs", "ended", None


@pytest.mark.parametrize(
    ("seen", "at_s", "came_back", "then"),
    [
        (None, 60, NEITHER, "goes on"),
        (None, 3600, NEITHER, "is counted"),
        *[
            (batch_read(state), 60, RUNS, "ends")
            for state in JobState
            if state not in (JobState.SUCCEED, JobState.FAILED)
        ],
        (batch_read(JobState.FAILED, end_time="E1"), 60, NEITHER, "goes on"),
        (batch_read(JobState.FAILED), 60, NEITHER, "is counted"),
        (batch_read(JobState.SUCCEED, end_time="E1"), 60, NEITHER, "goes on"),
        (batch_read(JobState("CANCELLED"), end_time="E1"), 60, NEITHER, "is counted"),
        (batch_read(JobState.FAILED, end_time="E2"), 60, ENDED, "goes on"),
        (batch_read(JobState.FAILED, end_time="E1"), 3599.9, NEITHER, "goes on"),
        (batch_read(JobState.FAILED, end_time="E1"), 3600, NEITHER, "is counted"),
        (batch_read(JobState.FAILED, end_time="E2"), 9000, ENDED, "goes on"),
        (batch_read(JobState.RUNNING), 9000, RUNS, "ends"),
    ],
)
def test_answers_of_describe_jobs(
    seen: JobSeen | None, at_s: float, came_back: str | None, then: str
) -> None:
    check = check_listed(STOPPED, seen, later(at_s))
    assert (check.ends, check.count) == (then == "ends", then == "is counted")
    assert check.came_back == (None if came_back is None else seen)


@pytest.mark.parametrize(
    ("seen", "at_s", "came_back", "ends"),
    [
        (None, 60, NEITHER, True),
        (read(JobState.FAILED), 60, NEITHER, False),
        (read(JobState.FAILED), 3600, NEITHER, True),
        (read(JobState.FAILED, LIVE), 60, RUNS, True),
        (read(JobState("CANCELLED")), 3600, NEITHER, True),
        (read(JobState("CANCELLED"), LIVE), 3600, RUNS, True),
        (read(JobState.RUNNING, None), 60, RUNS, True),
        (read(JobState.FAILED, None), 3600, NEITHER, False),
    ],
)
def test_answers_of_a_count(
    seen: JobSeen | None, at_s: float, came_back: str | None, *, ends: bool
) -> None:
    check = check_counted(STOPPED, seen, later(at_s))
    assert check.ends is ends
    assert check.came_back == (None if came_back is None else seen)


@pytest.mark.parametrize(("at_s", "ends"), [(3599, False), (3600, True)])
def test_a_job_that_may_not_be_read_is_watched_until_its_time_is_over(
    at_s: float, *, ends: bool
) -> None:
    assert check_refused(STOPPED, later(at_s)).ends is ends


def test_an_instance_that_runs_again_under_a_finished_job_is_recorded_as_running() -> None:
    revival = revival_of(read(JobState.FAILED, LIVE))
    assert (revival.ended, revival.instances_live, revival.job_end_time) == (False, 4, None)
    ended = revival_of(batch_read(JobState.FAILED, end_time="E2"))
    assert (ended.ended, ended.job_end_time) == (True, "E2")


def test_an_ended_revival_is_recorded_once_and_a_running_one_after_it_as_well() -> None:
    known = with_fields(STOPPED, revival=Revival(at=later(60), job_state=JobState.FAILED))
    ended = batch_read(JobState.FAILED, at=later(120), end_time="E3")
    assert check_listed(known, ended, later(120)).came_back is None
    assert check_listed(known, batch_read(JobState.RUNNING), later(120)).came_back is not None


def test_without_an_end_time_there_is_nothing_to_compare() -> None:
    unknown = with_fields(STOPPED, job_end_time=None)
    assert check_listed(unknown, batch_read(JobState.FAILED, end_time="E2"), NOW).came_back is None


@pytest.mark.parametrize(
    ("known", "said", "to_do"),
    [
        (
            {"job_state": JobState.RUNNING},
            "the job was running again at 2026-01-01T12:01:00Z",
            "request its termination again",
        ),
        (
            {"job_state": JobState.SUBMITTED, "reterminated_by": "op_2"},
            "the job was running again at 2026-01-01T12:01:00Z, and op_2 terminates it again",
            "see GET /v1/operations/op_2",
        ),
        (
            {"job_state": JobState.RUNNING, "limit_reached": True},
            "and was terminated again as often as engine.reterminate_max allows",
            "check in the console who calls RetryJobs, then request the termination again",
        ),
        (
            {"job_state": JobState.SUCCEED, "job_end_time": "E"},
            "the job ran again and had ended at 2026-01-01T12:01:00Z",
            "check in the console who calls RetryJobs",
        ),
        (
            {"job_state": JobState.FAILED, "instances_live": 2},
            (
                "2 of its instances were running again at 2026-01-01T12:01:00Z, although the job "
                "state is FAILED"
            ),
            "request its termination again",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("state", [State.VERIFIED, State.ALREADY_FINISHED])
def test_a_revival_is_explained_beside_the_final_state(
    known: dict[str, Any], said: str, to_do: str, state: State
) -> None:
    around = ExplanationContext(
        now=later(90), jobs_ahead=0, rate=None, trouble=None, capture_wait_s=0.0
    )
    before = explain(replace(STOPPED, state=state), around)
    explanation = explain(
        with_fields(STOPPED, state=state, revival=Revival(at=later(60), **known)),
        around,
    )
    assert explanation.waiting_for.startswith(f"{before.waiting_for}; but ")
    assert explanation.waiting_for.endswith(said)
    assert explanation.next_action == to_do
