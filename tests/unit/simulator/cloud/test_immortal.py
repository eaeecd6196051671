"""Instances that neither TerminateJob nor TerminateTaskInstance stops; stuck instances."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.cloud.instance_ranges import (
    ExitSchedule,
    InstanceRange,
    drain,
    mark_tail,
)
from tests.unit.simulator.support import Cloud, cloud, job

ID = "job-aaaaaaaa"


def terminate_instances(world: Cloud, *indices: int) -> list[str]:
    where = {"JobId": ID, "TaskName": "task-0"}
    return [
        world.code("TerminateTaskInstance", **where, TaskInstanceIndex=index) for index in indices
    ]


def test_immortal_instances_survive_both_terminations():
    world = cloud(job(immortal=2))
    world.call("TerminateJob", JobId=ID)
    assert terminate_instances(world, *range(10)) == ["OK"] * 10
    world.clock.at(1000)
    seen = world.call("DescribeJob", JobId=ID)
    assert (seen["JobState"], seen["NextAction"]) == ("RUNNING", "TERMINATING")
    assert world.counters() == {"Running": 2, "Failed": 8}
    assert world.truth()["instance_terminations"] == 10


def test_stuck_instances_are_counted_beside_the_immortal():
    world = cloud(job(stuck=3, immortal=2, instance_drain_s=1.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert world.counters() == {"Running": 5, "Failed": 5}
    terminate_instances(world, *range(10))
    world.clock.at(11)
    assert world.counters() == {"Running": 2, "Failed": 8}


def test_the_others_drain_as_if_the_immortal_were_not_there():
    world = cloud(job(instances=12, immortal=2))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    assert world.counters() == {"Running": 7, "Failed": 5}


@pytest.mark.parametrize("state", ["RUNNABLE", "SUCCEED"])
def test_an_instance_without_a_machine_is_not_immortal(state):
    world = cloud(job(state=state, immortal=10))
    world.call("TerminateJob", JobId=ID)
    assert world.truth()["live"] == 0


def test_a_submitted_job_has_immortal_instances_once_it_runs():
    world = cloud(job(state="SUBMITTED", submitted_s=5.0, immortal=1))
    terminate_instances(world, 0)
    world.clock.at(5)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(15)
    assert world.counters() == {"Running": 1, "Failed": 9}


def test_a_drain_leaves_the_immortal_wherever_they_are():
    immortal = InstanceRange(0, 2, "RUNNING", unkillable=True)
    mortal = InstanceRange(2, 2, "RUNNING")
    kept, drained = drain([immortal, mortal], now=0.0, drain_s=2.0, stuck=0)
    assert kept == immortal
    assert (drained.ended_at(2), drained.ended_at(3)) == (1.0, 2.0)


COUNTS = st.integers(1, 5)
ENDINGS = st.sampled_from([None, ExitSchedule("FAILED", 1.0)])


@given(
    kinds=st.lists(st.tuples(COUNTS, st.sampled_from(["RUNNING", "RUNNABLE"]), ENDINGS)),
    count=st.integers(0, 12),
)
def test_marking_takes_the_last_live_ones_and_keeps_every_instance(kinds, count):
    spans: list[InstanceRange] = []
    for size, state, ending in kinds:
        first = spans[-1].end if spans else 0
        spans.append(InstanceRange(first, size, state, ending))
    marked = mark_tail(spans, count, lambda last: InstanceRange(last.first, last.count, "MARKED"))
    before = {i: one for one in spans for i in range(one.first, one.end)}
    after = {i: one for one in marked for i in range(one.first, one.end)}
    assert list(after) == list(before)
    able = [i for i, one in before.items() if one.state == "RUNNING" and one.ending is None]
    assert [i for i, one in after.items() if one.state == "MARKED"] == able[-count:][:count]
