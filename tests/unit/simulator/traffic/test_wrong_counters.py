"""Counters that show all instances as stopped after a TerminateJob, although some are live."""

from __future__ import annotations

import pytest

from tests.unit.simulator.support import Cloud, cloud, job

ID = "job-aaaaaaaa"


def rows(world: Cloud) -> list[str]:
    page = world.call("DescribeTask", JobId=ID, TaskName="task-0")
    return [row["TaskInstanceState"] for row in page["TaskInstanceSet"]]


def test_counters_are_wrong_for_a_while_and_all_else_is_right():
    world = cloud(job(mix={"SUCCEED": 0.2}, lying_counters_s=5.0))
    assert world.counters() == {"Running": 8, "Succeed": 2}
    world.call("TerminateJob", JobId=ID)
    world.clock.at(4.9)
    seen = world.call("DescribeJob", JobId=ID)
    assert world.counters() == {"Failed": 8, "Succeed": 2}
    assert (seen["JobState"], seen["NextAction"]) == ("RUNNING", "TERMINATING")
    assert seen["TaskMetrics"]["RunningCount"] == 1
    task = world.call("DescribeTask", JobId=ID, TaskName="task-0")
    assert task["TaskInstanceMetrics"] == seen["TaskInstanceMetrics"]
    assert task["TaskState"] == "RUNNING"
    assert rows(world).count("RUNNING") == world.truth()["live"] == 5


@pytest.mark.parametrize(("seconds", "running"), [(5.0, 5), (9.0, 1), (10.0, 0)])
def test_counters_are_true_again_after_it(seconds, running):
    world = cloud(job(lying_counters_s=5.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(seconds)
    assert world.counters().get("Running", 0) == rows(world).count("RUNNING") == running


def test_a_revived_job_has_right_counters():
    world = cloud(job(drain_s=1.0, revive_after_s=1.0, lying_counters_s=100.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(2)
    assert world.counters() == {"Running": 10}


@pytest.mark.parametrize(
    ("counters", "shown"), [("stale", {"Running": 8, "Succeed": 2}), ("empty", {})]
)
def test_counters_may_never_show_that_all_has_stopped(counters, shown):
    world = cloud(job(mix={"SUCCEED": 0.2}, lying_counters_s=5.0, counters=counters))
    world.call("TerminateJob", JobId=ID)
    assert world.counters() == {"Failed": 8, "Succeed": 2}
    for seconds in (5.0, 100.0):
        world.clock.at(seconds)
        assert world.counters() == shown
    assert (world.job_state(), world.truth()["live"]) == ("FAILED", 0)
    assert set(rows(world)) == {"FAILED", "SUCCEED"}


def test_next_action_may_hide_what_the_cloud_does():
    world = cloud(job(next_action_hidden=True))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    assert world.call("DescribeJob", JobId=ID)["NextAction"] == ""
    assert world.code("TerminateJob", JobId=ID) == "ResourceInUse.Job"
