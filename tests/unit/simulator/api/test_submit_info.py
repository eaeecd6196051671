"""DescribeJobSubmitInfo: a job as it was submitted."""

from __future__ import annotations

import pytest

from tests.unit.simulator.support import cloud, job

ID = "job-aaaaaaaa"


def test_a_job_with_machines_of_its_own_has_a_compute_environment_inline():
    world = cloud(job(instances=7, tasks=2, priority=3, name="nightly", tags={"team": "blue"}))
    seen = world.call("DescribeJobSubmitInfo", JobId=ID)
    assert set(seen) == {
        *("JobId", "JobName", "JobDescription", "Priority", "Tasks", "Dependences", "Tags"),
        "RequestId",
    }
    assert (seen["JobId"], seen["JobName"], seen["Priority"]) == (ID, "nightly", 3)
    assert (seen["Tags"], seen["Dependences"]) == ([{"Key": "team", "Value": "blue"}], [])
    assert [(task["TaskName"], task["TaskInstanceNum"]) for task in seen["Tasks"]] == [
        ("task-0", 4),
        ("task-1", 3),
    ]
    for task in seen["Tasks"]:
        assert "EnvId" not in task
        assert task["ComputeEnv"]["EnvData"]["InstanceName"] == "nightly"
        assert (task["FailedAction"], task["MaxRetryCount"]) == ("TERMINATE", 0)
        assert task["Application"]["DeliveryForm"] == "LOCAL"


def test_a_job_on_nodes_of_an_environment_names_it_and_has_none_inline():
    (task,) = cloud(job(env_id="env-example1")).call("DescribeJobSubmitInfo", JobId=ID)["Tasks"]
    assert task["EnvId"] == "env-example1"
    assert "ComputeEnv" not in task


@pytest.mark.parametrize(
    "values", [{"state": "FAILED_INTERRUPTED"}, {"mix": {"FAILED_INTERRUPTED": 0.2}}]
)
def test_an_instance_that_keeps_its_machine_was_submitted_with_interrupt(values):
    (task,) = cloud(job(**values)).call("DescribeJobSubmitInfo", JobId=ID)["Tasks"]
    assert task["FailedAction"] == "INTERRUPT"


def test_a_termination_changes_nothing_of_it():
    world = cloud(job())
    before = world.call("DescribeJobSubmitInfo", JobId=ID)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    after = world.call("DescribeJobSubmitInfo", JobId=ID)
    assert {**before, "RequestId": ""} == {**after, "RequestId": ""}


@pytest.mark.parametrize(
    ("job_id", "code"),
    [
        ("job-zzzzzzzz", "ResourceNotFound.Job"),
        ("job-1", "InvalidParameter.JobIdMalformed"),
        (None, "MissingParameter"),
    ],
)
def test_its_errors_are_those_of_describe_job(job_id, code):
    assert cloud(job()).code("DescribeJobSubmitInfo", JobId=job_id) == code
