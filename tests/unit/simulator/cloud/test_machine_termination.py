"""Machines terminated by TerminateInstances, and the instances on them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.simulator.cloud.machines import machine_id
from tests.unit.simulator.support import Cloud, cloud, code, job, plain_request

ID = "job-aaaaaaaa"


def machine(world: Cloud, index: int) -> str:
    return machine_id(world.simulator._jobs[ID], 0, index)


def machines(world: Cloud, *indices: int) -> list[str]:
    return [machine(world, index) for index in indices]


def states(world: Cloud, **params: Any) -> dict[str, str]:
    page = world.call("DescribeInstances", **params)
    return {row["InstanceId"]: row["InstanceState"] for row in page["InstanceSet"]}


def test_a_taken_machine_terminates_and_its_instance_fails_with_it():
    world = cloud(job())
    assert world.code("TerminateInstances", InstanceIds=machines(world, 4, 7)) == "OK"
    page = world.call("DescribeInstances", InstanceIds=machines(world, 4))
    (row,) = page["InstanceSet"]
    assert (row["InstanceState"], row["LatestOperation"], row["LatestOperationState"]) == (
        "TERMINATING",
        "TerminateInstances",
        "OPERATING",
    )
    assert world.counters() == {"Running": 10}
    world.clock.at(5)
    assert states(world, InstanceIds=machines(world, 4, 5, 7)) == {machine(world, 5): "RUNNING"}
    assert world.counters() == {"Running": 8, "Failed": 2}
    assert world.truth()["machines_up"] == 8


def test_the_machines_of_immortal_instances_can_be_taken():
    world = cloud(job(immortal=2))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(100)
    world.call("TerminateInstances", InstanceIds=machines(world, 8, 9))
    world.clock.at(105)
    assert (world.job_state(), world.counters()) == ("FAILED", {"Failed": 10})
    assert world.truth()["machines_gone_at"] == world.clock()


def test_machines_that_stay_can_be_taken_after_their_instances_ended():
    world = cloud(job(machines_stay=1))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(100)
    world.call("TerminateInstances", InstanceIds=machines(world, 9))
    world.clock.at(105)
    truth = world.truth()
    assert (truth["machines_up"], truth["machines_gone_at"]) == (0, world.clock())
    assert truth["last_stopped_at"] == world.clock() - 95


def test_a_machine_that_would_have_gone_sooner_still_does():
    world = cloud(job(machine_linger_s=2.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(1)
    world.call("TerminateInstances", InstanceIds=machines(world, 0, 9))
    world.clock.at(3)
    assert states(world, InstanceIds=machines(world, 0, 9)) == {machine(world, 9): "TERMINATING"}
    world.clock.at(6)
    assert world.counters() == {"Running": 3, "Failed": 7}


def test_a_node_of_an_environment_can_be_taken():
    world = cloud(job(env_id="env-example1"))
    world.call("TerminateInstances", InstanceIds=machines(world, 0))
    world.clock.at(5)
    assert world.truth()["machines_up"] == 9


def test_a_machine_left_of_an_earlier_run_can_be_taken_alone():
    world = cloud(job(machines_stay=1, revive_after_s=5.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(20)
    assert world.truth()["machines_up"] == 11
    world.call("TerminateInstances", InstanceIds=machines(world, 9))
    world.clock.at(25)
    assert world.truth()["machines_up"] == 10
    assert world.counters() == {"Running": 10}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"state": "STARTING", "starting_without_machine": True},
            "UnsupportedOperation.InstanceStatePending",
        ),
        (
            {"env_id": "env-example1", "node_restart_s": 100.0},
            "UnsupportedOperation.InstanceStateRebooting",
        ),
        ({"machines_stay": 10}, "OK"),
    ],
)
def test_a_state_can_prevent_the_termination_of_machines(values, expected):
    world = cloud(job(**values))
    if values.get("state") != "STARTING":
        world.call("TerminateJob", JobId=ID)
        world.clock.at(10)
    assert world.code("TerminateInstances", InstanceIds=machines(world, 0)) == expected


def test_where_one_cannot_be_taken_none_is():
    world = cloud(job())
    world.call("TerminateInstances", InstanceIds=machines(world, 0))
    seen = world.code("TerminateInstances", InstanceIds=machines(world, 1, 0))
    assert seen == "UnsupportedOperation.InstanceStateTerminating"
    world.clock.at(5)
    assert world.truth()["machines_up"] == 9


def test_flags_of_the_vendor_are_taken_in_json_and_as_text():
    world = cloud(job())
    (first, second) = machines(world, 0, 1)
    flags = {"ReleaseAddress": False, "ReleasePrepaidDataDisks": True}
    assert world.code("TerminateInstances", InstanceIds=[first], **flags) == "OK"
    params = {"InstanceIds.0": second, "ReleaseAddress": "false"}
    assert code(world.simulator.handle(plain_request("TerminateInstances", params))) == "OK"
