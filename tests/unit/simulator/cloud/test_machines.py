"""The machines of task instances: their lifetime and their state."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.cloud.job import Job
from orchestrator.simulator.cloud.machines import MACHINE_ID, Fleet, machine_id
from tests.unit.simulator.support import START, Cloud, cloud, job

ID = "job-aaaaaaaa"
OTHER = "job-bbbbbbbb"
STARTING = {"starting_without_machine": True, "mix": {"STARTING": 0.3}}


def up(world: Cloud, job_id: str = ID) -> int:
    return int(world.truth(job_id)["machines_up"])


def shown(world: Cloud) -> list[str]:
    """Return the machines that DescribeTask shows."""
    page = world.call("DescribeTask", JobId=ID, TaskName="task-0", Limit=1000)
    rows = sorted(page["TaskInstanceSet"], key=lambda row: row["TaskInstanceIndex"])
    return [row["ComputeNodeInstanceId"] for row in rows if row["ComputeNodeInstanceId"]]


def states(world: Cloud, machines: list[str]) -> list[str]:
    page = world.call("DescribeInstances", InstanceIds=machines, Limit=100)
    found = {row["InstanceId"]: row["InstanceState"] for row in page["InstanceSet"]}
    return [found.get(machine, "gone") for machine in machines]


def test_a_machine_ends_with_its_instance_and_not_before():
    world = cloud(job())
    machines = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(4)
    assert states(world, machines) == ["gone"] * 4 + ["RUNNING"] * 6
    assert shown(world) == machines[4:]
    assert (up(world), world.truth()["machines_gone_at"]) == (6, None)
    world.clock.at(20)
    assert states(world, machines) == ["gone"] * 10
    assert (up(world), world.truth()["machines_gone_at"]) == (0, START + 10)


def test_only_instances_that_occupy_a_machine_have_one():
    mix = {"SUBMITTED": 0.1, "RUNNABLE": 0.2, "STARTING": 0.1, "FAILED_INTERRUPTED": 0.1}
    world = cloud(job(mix={**mix, "SUCCEED": 0.2}))
    assert len(shown(world)) == up(world) == 5


@pytest.mark.parametrize("state", ["SUBMITTED", "RUNNABLE"])
def test_a_job_that_never_had_machines_has_none_that_went(state):
    truth = cloud(job(state=state)).truth()
    assert (truth["machines_up"], truth["machines_gone_at"]) == (0, None)


def test_machines_can_outlive_their_instances():
    world = cloud(job(machine_linger_s=30.0))
    machines = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert (world.job_state(), shown(world)) == ("FAILED", [])
    assert states(world, machines) == ["RUNNING"] * 10
    world.clock.at(34)
    assert states(world, machines) == ["gone"] * 4 + ["RUNNING"] * 6
    world.clock.at(1000)
    assert (up(world), world.truth()["machines_gone_at"]) == (0, START + 40)


def test_machines_outlive_a_job_that_another_actor_deleted():
    world = cloud(job(machine_linger_s=30.0, vanish_after_s=1.0))
    machines = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(15)
    assert world.code("DescribeJob", JobId=ID) == "ResourceNotFound.Job"
    assert set(states(world, machines)) == {"RUNNING"}


def test_some_machines_are_never_released():
    world = cloud(job(machines_stay=2))
    machines = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(1e6)
    assert states(world, machines) == ["gone"] * 8 + ["RUNNING"] * 2
    assert (up(world), world.truth()["machines_gone_at"]) == (2, None)


def test_a_machine_that_is_being_created_is_not_shown_and_can_be_orphaned():
    world = cloud(job(**STARTING, orphan_s=50.0))
    (truth,) = world.simulator.truth()
    assert (truth["live"], truth["machines_up"], len(shown(world))) == (10, 10, 7)
    every = world.call("DescribeInstances", Limit=100)["InstanceSet"]
    hidden = [row for row in every if row["InstanceId"] not in shown(world)]
    assert {(row["InstanceState"], row["LatestOperationState"]) for row in hidden} == {
        ("PENDING", "OPERATING")
    }
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert (world.truth()["live"], up(world)) == (0, 3)
    assert states(world, [row["InstanceId"] for row in hidden]) == ["RUNNING"] * 3
    world.clock.at(100)
    assert (up(world), world.truth()["machines_gone_at"]) == (0, START + 53)


def test_without_a_time_as_an_orphan_a_hidden_machine_goes_with_its_instance():
    world = cloud(job(**STARTING, machine_linger_s=5.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert (world.truth()["live"], up(world)) == (0, 5)


def test_nodes_of_an_environment_restart_and_never_go():
    world = cloud(job(env_id="env-example1", node_restart_s=7.0, mix={"SUCCEED": 0.1}))
    nodes = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert states(world, nodes) == ["RUNNING"] * 2 + ["REBOOTING"] * 7
    world.clock.at(17)
    assert states(world, nodes) == ["RUNNING"] * 9
    assert world.truth()["nodes_restarted_at"] == START + 17
    world.clock.at(1e6)
    assert (up(world), world.truth()["machines_gone_at"]) == (10, None)


def test_nodes_do_not_restart_after_a_success():
    world = cloud(job(env_id="env-example1", node_restart_s=100.0, succeeds_after_s=5.0))
    nodes = shown(world)
    world.clock.at(6)
    assert (world.job_state(), set(states(world, nodes))) == ("SUCCEED", {"RUNNING"})


def test_a_revived_job_runs_on_new_machines_and_the_old_ones_keep_their_ids():
    world = cloud(job(revive_after_s=5.0, machine_linger_s=8.0))
    old = shown(world)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(15)
    new = shown(world)
    assert (len(new), set(old) & set(new)) == (10, set())
    assert states(world, old + new) == ["gone"] * 7 + ["RUNNING"] * 13
    assert up(world) == 13
    world.clock.at(100)
    assert states(world, old + new) == ["gone"] * 10 + ["RUNNING"] * 10


def test_the_api_and_the_truth_agree_at_every_moment():
    mix = {"STARTING": 0.2, "RUNNABLE": 0.1, "FAILED_INTERRUPTED": 0.1}
    world = cloud(job(instances=97, tasks=3, mix=mix, drain_s=3.3, machine_linger_s=0.7))
    world.call("TerminateTaskInstance", JobId=ID, TaskName="task-1", TaskInstanceIndex=20)
    world.call("TerminateJob", JobId=ID)
    for tick in range(60):
        world.clock.at(tick / 10)
        page = world.call("DescribeInstances", Limit=100)
        assert len(page["InstanceSet"]) == page["TotalCount"] == up(world)
        every = [row["InstanceId"] for row in page["InstanceSet"]]
        named = world.call("DescribeInstances", InstanceIds=every or ["ins-00000000"], Limit=100)
        assert {row["InstanceId"] for row in named["InstanceSet"]} == set(every)
        assert set(shown(world)) <= set(every)
    assert up(world) == 0


@given(sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=20), data=st.data())
def test_every_machine_has_an_id_of_its_own_that_leads_back_to_it(sizes: list[int], data: Any):
    fleet = Fleet()
    jobs = []
    for size in sizes:
        spec = job(instances=size)
        jobs.append(Job(spec, added_at=START, first_machine=fleet.next_number))
        fleet.add(jobs[-1])
    seen: dict[str, tuple[int, int, int]] = {}
    for _ in range(20):
        place = data.draw(st.integers(0, len(jobs) - 1))
        index = data.draw(st.sampled_from([0, sizes[place] // 2, sizes[place] - 1]))
        run = data.draw(st.integers(0, 1))
        name = machine_id(jobs[place], run, index)
        assert MACHINE_ID.fullmatch(name)
        assert fleet.find(name) == (jobs[place], run, index)
        assert seen.setdefault(name, (place, run, index)) == (place, run, index)


def test_an_id_that_no_job_has_leads_nowhere():
    fleet = Fleet()
    assert fleet.find("ins-00000000") is None
    only = Job(job(), added_at=START, first_machine=fleet.next_number)
    fleet.add(only)
    assert fleet.find("ins-00000000") is None
    assert fleet.find(machine_id(only, 1, 9)) == (only, 1, 9)
    assert fleet.find(machine_id(only, 2, 0)) is None


def test_the_machines_of_a_large_job_are_no_more_work_than_those_of_a_small_one():
    world = cloud(job(instances=200_000), job(job_id=OTHER, instances=200_000))
    machine = shown(world)[-1]
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    assert up(world) == world.truth()["live"] == pytest.approx(100_000, abs=2)
    assert up(world, OTHER) == 200_000
    assert states(world, [machine]) == ["RUNNING"]
    total = up(world) + 200_000
    page = world.call("DescribeInstances", Offset=total - 10)
    assert (page["TotalCount"], len(page["InstanceSet"])) == (total, 10)
    assert sum(len(run) for run in world.simulator._jobs[ID].runs) < 10


def test_no_two_jobs_share_a_machine_however_often_one_is_revived():
    often = job(instances=2, drain_s=1.0, revive_after_s=1.0, revivals=3)
    world = cloud(often, job(job_id=OTHER, instances=20))
    others = {machine_id(world.simulator._jobs[OTHER], 0, index) for index in range(20)}
    for run in range(4):
        world.clock.at(10 * run)
        assert len(shown(world)) == 2
        assert not others & set(shown(world))
        world.call("TerminateJob", JobId=ID)
