"""The service CVM: responses of DescribeInstances, and error codes of both actions."""

from __future__ import annotations

import pytest

from orchestrator.simulator.cloud.machines import machine_id
from tests.unit.simulator.support import Cloud, answer, cloud, code, job, tc3_request

ID = "job-aaaaaaaa"
OTHER = "job-bbbbbbbb"
UNKNOWN = "ins-zzzzzzzz"


def machine(world: Cloud, index: int, job_id: str = ID) -> str:
    return machine_id(world.simulator._jobs[job_id], 0, index)


def machines(world: Cloud, *indices: int) -> list[str]:
    return [machine(world, index) for index in indices]


def test_an_instance_has_the_fields_that_matter():
    world = cloud(job(name="nightly", tags={"team": "blue"}))
    (row,) = world.call("DescribeInstances", InstanceIds=machines(world, 3))["InstanceSet"]
    assert row == {
        "InstanceId": machine(world, 3),
        "InstanceName": "nightly",
        "InstanceState": "RUNNING",
        "Placement": {"Zone": "ap-guangzhou-3", "ProjectId": 0},
        "CreatedTime": "2027-01-15T07:50:00Z",
        "LatestOperation": "RunInstances",
        "LatestOperationState": "SUCCESS",
        "Tags": [{"Key": "team", "Value": "blue"}],
    }


def test_a_node_is_named_after_its_environment_and_shows_that_it_restarts():
    world = cloud(job(env_id="env-example1", node_restart_s=5.0))
    world.call("TerminateJob", JobId=ID)
    seen = []
    for seconds in (0, 1, 6):
        world.clock.at(seconds)
        (row,) = world.call("DescribeInstances", InstanceIds=machines(world, 0))["InstanceSet"]
        assert row["InstanceName"] == "env-example1"
        seen.append((row["InstanceState"], row["LatestOperation"], row["LatestOperationState"]))
    assert seen == [
        ("RUNNING", "RunInstances", "SUCCESS"),
        ("REBOOTING", "RebootInstances", "OPERATING"),
        ("RUNNING", "RebootInstances", "SUCCESS"),
    ]


def test_a_machine_of_a_revived_job_was_created_then():
    world = cloud(job(revive_after_s=5.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(15)
    (row, *_) = world.call("DescribeInstances")["InstanceSet"]
    assert row["CreatedTime"] == "2027-01-15T08:00:15Z"


def test_unknown_ids_are_left_out_and_one_twice_is_found_once():
    world = cloud(job(), job(job_id=OTHER, region="ap-shanghai"))
    known = machine(world, 0)
    not_yet = machine_id(world.simulator._jobs[ID], 1, 0)
    elsewhere = machine(world, 0, OTHER)
    page = world.call("DescribeInstances", InstanceIds=[known, UNKNOWN, not_yet, elsewhere, known])
    assert [row["InstanceId"] for row in page["InstanceSet"]] == [known]
    assert page["TotalCount"] == 1


def test_naming_only_unknown_ids_finds_nothing():
    assert cloud(job()).call("DescribeInstances", InstanceIds=[UNKNOWN])["TotalCount"] == 0


def test_a_page_has_twenty_machines_by_default():
    world = cloud(job(instances=100))
    every = machines(world, *range(100))
    page = world.call("DescribeInstances", InstanceIds=every)
    assert (len(page["InstanceSet"]), page["TotalCount"]) == (20, 100)
    page = world.call("DescribeInstances", InstanceIds=every, Limit=100)
    assert {row["InstanceId"] for row in page["InstanceSet"]} == set(every)


def test_pages_cover_every_machine_of_the_region_once():
    world = cloud(
        job(instances=25),
        job(job_id=OTHER, instances=30),
        job(job_id="job-cccccccc", region="ap-shanghai"),
    )
    seen: list[str] = []
    for offset in range(0, 80, 20):
        page = world.call("DescribeInstances", Offset=offset)
        assert page["TotalCount"] == 55
        seen += [row["InstanceId"] for row in page["InstanceSet"]]
    assert len(seen) == len(set(seen)) == 55


@pytest.mark.parametrize(
    ("name", "values", "count"),
    [
        ("zone", ["ap-guangzhou-6"], 4),
        ("instance-name", ["second", "third"], 4),
        ("instance-state", ["PENDING"], 3),
        ("instance-state", ["RUNNING", "PENDING"], 14),
        ("tag-key", ["team"], 4),
        ("tag-value", ["blue"], 4),
        ("tag:team", ["blue"], 4),
        ("tag:team", ["red"], 0),
    ],
)
def test_filters(name, values, count):
    world = cloud(
        job(name="first", mix={"STARTING": 0.3}, starting_without_machine=True),
        job(job_id=OTHER, name="second", instances=4, zone="ap-guangzhou-6", tags={"team": "blue"}),
    )
    page = world.call("DescribeInstances", Filters=[{"Name": name, "Values": values}])
    assert page["TotalCount"] == len(page["InstanceSet"]) == count


def test_filters_must_all_hold():
    world = cloud(job(name="first"), job(job_id=OTHER, name="second"))
    filters = [
        {"Name": "zone", "Values": ["ap-guangzhou-3"]},
        {"Name": "instance-name", "Values": ["second"]},
    ]
    assert world.call("DescribeInstances", Filters=filters)["TotalCount"] == 10


ZONE = {"Name": "zone", "Values": ["z"]}


@pytest.mark.parametrize(
    ("action", "params", "expected"),
    [
        ("DescribeInstances", {"InstanceIds": ["ins-1122"]}, "InvalidInstanceId.Malformed"),
        ("DescribeInstances", {"InstanceIds": ["INS-ZZZZZZZZ"]}, "InvalidInstanceId.Malformed"),
        ("DescribeInstances", {"InstanceIds": [7]}, "InvalidParameter"),
        (
            "DescribeInstances",
            {"InstanceIds": [f"ins-{number:08}" for number in range(101)]},
            "InvalidParameterValue.LimitExceeded",
        ),
        ("DescribeInstances", {"InstanceIds": [UNKNOWN], "Filters": [ZONE]}, "InvalidParameter"),
        ("DescribeInstances", {"Filters": [{"Name": "x", "Values": ["y"]}]}, "InvalidFilter"),
        (
            "DescribeInstances",
            {"Filters": [{"Name": "zone", "Values": list("abcdef")}]},
            "InvalidFilterValue.LimitExceeded",
        ),
        ("DescribeInstances", {"Filters": [ZONE] * 11}, "InvalidParameterValue.LimitExceeded"),
        ("DescribeInstances", {"Limit": 101}, "InvalidParameterValue"),
        ("DescribeInstances", {"Offset": -1}, "InvalidParameterValue"),
        ("DescribeInstances", {"JobId": ID}, "UnknownParameter"),
        ("TerminateInstances", {}, "MissingParameter"),
        ("TerminateInstances", {"InstanceIds": []}, "MissingParameter"),
        ("TerminateInstances", {"InstanceIds": ["ins-1122"]}, "InvalidInstanceId.Malformed"),
        ("TerminateInstances", {"InstanceIds": [UNKNOWN]}, "InvalidInstanceId.NotFound"),
        (
            "TerminateInstances",
            {"InstanceIds": [f"ins-{number:08}" for number in range(101)]},
            "InvalidParameterValue.LimitExceeded",
        ),
        ("TerminateInstances", {"InstanceIds": [UNKNOWN], "ReleaseAddress": 1}, "InvalidParameter"),
    ],
)
def test_code(action, params, expected):
    assert cloud(job()).code(action, **params) == expected


@pytest.mark.parametrize(
    ("action", "service", "expected"),
    [
        ("DescribeInstances", "cvm", "OK"),
        ("DescribeInstances", "127", "OK"),
        ("DescribeInstances", "batch", "AuthFailure.SignatureFailure"),
        ("DescribeJobs", "batch", "OK"),
        ("DescribeJobs", "cvm", "AuthFailure.SignatureFailure"),
    ],
)
def test_a_call_is_signed_for_the_service_of_its_action(action, service, expected):
    request = tc3_request(action, service=service)
    assert code(cloud(job()).simulator.handle(request)) == expected


def test_a_cloud_can_forbid_actions_and_no_others():
    world = cloud(job(), forbidden_actions=["DescribeInstances", "TerminateInstances"])
    ids = machines(world, 0)
    assert world.code("DescribeInstances", InstanceIds=ids) == "UnauthorizedOperation"
    assert world.code("DescribeInstances", Limit=1000) == "UnauthorizedOperation"
    assert world.code("TerminateInstances", InstanceIds=ids) == "UnauthorizedOperation"
    assert [call.acted for call in world.simulator.calls] == [False] * 3
    world.clock.at(10)
    assert (world.counters(), world.truth()["machines_up"]) == ({"Running": 10}, 10)


def test_ids_come_in_a_query_too():
    world = cloud(job())
    params = {"InstanceIds.0": machine(world, 0), "Limit": 5}
    reply = world.simulator.handle(tc3_request("DescribeInstances", params, method="GET"))
    assert answer(reply)["TotalCount"] == 1
