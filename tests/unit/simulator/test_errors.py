"""Error codes of API calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.simulator.api.parameters import PARAMETERS
from orchestrator.simulator.protocol.request_parser import Request, unflatten
from tests.unit.simulator.support import Cloud, answer, cloud, code, job, tc3_request

ID = "job-aaaaaaaa"
UNKNOWN = "job-zzzzzzzz"


@pytest.mark.parametrize(
    ("action", "params", "expected"),
    [
        ("TerminateJob", {"JobId": UNKNOWN}, "ResourceNotFound.Job"),
        ("DescribeJob", {"JobId": UNKNOWN}, "ResourceNotFound.Job"),
        ("DescribeTask", {"JobId": UNKNOWN, "TaskName": "task-0"}, "ResourceNotFound.Job"),
        ("DescribeTask", {"JobId": ID, "TaskName": "task-9"}, "ResourceNotFound.Task"),
        ("TerminateJob", {"JobId": "job-A"}, "InvalidParameter.JobIdMalformed"),
        ("DescribeJob", {"JobId": "aaaaaaaa"}, "InvalidParameter.JobIdMalformed"),
        ("DescribeJobs", {"JobIds": [ID, "job-1"]}, "InvalidParameter.JobIdMalformed"),
        (
            "DescribeJobs",
            {"Filters": [{"Name": "job-id", "Values": ["x"]}]},
            "InvalidParameter.JobIdMalformed",
        ),
        (
            "DescribeJobs",
            {"JobIds": [ID], "Filters": [{"Name": "zone", "Values": ["z"]}]},
            "InvalidParameter.InvalidParameterCombination",
        ),
        (
            "DescribeJobs",
            {"JobIds": [f"job-{number:08}" for number in range(101)]},
            "InvalidParameterValue.LimitExceeded",
        ),
        ("DescribeJobs", {"Limit": 101}, "InvalidParameterValue.LimitExceeded"),
        ("DescribeJobs", {"Offset": -1}, "InvalidParameterValue"),
        (
            "DescribeJobs",
            {"Filters": [{"Name": "colour", "Values": ["red"]}]},
            "InvalidParameterValue.InvalidFilter",
        ),
        (
            "DescribeJobs",
            {"Filters": [{"Name": "job-name", "Values": [str(number) for number in range(101)]}]},
            "InvalidParameterValue.LimitExceeded",
        ),
        (
            "DescribeTask",
            {"JobId": ID, "TaskName": "task-0", "Limit": 1001},
            "InvalidParameterValue",
        ),
        (
            "DescribeTask",
            {"JobId": ID, "TaskName": "task-0", "Filters": [{"Name": "x", "Values": ["y"]}]},
            "InvalidParameterValue.InvalidFilter",
        ),
        ("TerminateJob", {}, "MissingParameter"),
        ("TerminateJob", {"JobId": None}, "MissingParameter"),
        ("TerminateJob", {"JobId": 7}, "InvalidParameter"),
        ("TerminateJob", {"JobId": ID, "Force": True}, "UnknownParameter"),
        ("DescribeJobs", {"JobIds": ID}, "InvalidParameter"),
        ("DescribeJobs", {"JobIds": [1]}, "InvalidParameter"),
        ("DescribeJobs", {"Limit": "20"}, "InvalidParameter"),
        ("DescribeJobs", {"Limit": True}, "InvalidParameter"),
        ("DescribeJobs", {"Filters": {}}, "InvalidParameter"),
        ("DescribeJobs", {"Filters": ["zone"]}, "InvalidParameter"),
        ("DescribeJobs", {"Filters": [{"Name": "zone"}]}, "MissingParameter"),
        ("DescribeJobs", {"Filters": [{"Name": "zone", "Value": "z"}]}, "UnknownParameter"),
        ("SubmitJob", {}, "InvalidAction"),
    ],
)
def test_code(action, params, expected):
    assert cloud(job()).code(action, **params) == expected


@pytest.mark.parametrize(
    ("job_id", "task", "index"),
    [(UNKNOWN, "task-0", 0), (ID, "task-1", 0), (ID, "task-0", 10), (ID, "task-0", -1)],
)
def test_a_task_instance_that_is_not_there(job_id, task, index):
    seen = cloud(job()).code(
        "TerminateTaskInstance", JobId=job_id, TaskName=task, TaskInstanceIndex=index
    )
    assert seen == "ResourceNotFound.TaskInstance"


def test_a_list_in_a_query_is_in_the_order_of_its_numbers():
    pairs = [(f"JobIds.{number}", str(number)) for number in (10, 2, 0, 1)]
    assert unflatten(pairs) == {"JobIds": ["0", "1", "2", "10"]}


def test_a_job_is_found_in_its_own_region_only():
    world = cloud(job(region="ap-shanghai"))
    assert world.code("DescribeJob", JobId=ID) == "ResourceNotFound.Job"
    assert world.call("DescribeJobs")["TotalCount"] == 0
    there = Cloud(world.clock, world.simulator, {"region": "ap-shanghai"})
    assert there.code("DescribeJob", JobId=ID) == "OK"


def test_a_forbidden_job_denies_every_call_that_names_it():
    world = cloud(job(forbidden=True), job(job_id="job-bbbbbbbb"))
    denied = "UnauthorizedOperation"
    assert world.code("TerminateJob", JobId=ID) == denied
    assert world.code("DescribeJob", JobId=ID) == denied
    assert world.code("DescribeTask", JobId=ID, TaskName="task-0") == denied
    assert world.code("DescribeJobs", JobIds=["job-bbbbbbbb", ID]) == denied
    assert world.code("DescribeJobs", JobIds=["job-bbbbbbbb"]) == "OK"
    assert world.truth()["terminations_accepted"] == 0


def test_other_versions_do_not_exist():
    request = tc3_request("DescribeJobs", version="2020-01-01")
    assert code(cloud().simulator.handle(request)) == "NoSuchVersion"


@pytest.mark.parametrize("absent", ["X-TC-Action", "X-TC-Version", "X-TC-Region"])
def test_common_parameters_are_required(absent):
    request = tc3_request("DescribeJobs")
    headers = [pair for pair in request.headers if pair[0] != absent]
    reply = cloud().simulator.handle(Request("POST", "/", headers, request.body))
    assert code(reply) == "MissingParameter"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request("DELETE", "/", [], b""), "UnsupportedProtocol"),
        (Request("POST", "/batch", [], b""), "InvalidRequest"),
        (Request("POST", "/", [], b"{}"), "AuthFailure.InvalidAuthorization"),
        (Request("GET", "/", [], b""), "MissingParameter"),
        (
            Request("POST", "/", [("Authorization", "Basic YTpi")], b"{}"),
            "AuthFailure.InvalidAuthorization",
        ),
        (tc3_request("DescribeJobs", body=b"{"), "InvalidRequest"),
        (tc3_request("DescribeJobs", body=b"[]"), "InvalidRequest"),
        (tc3_request("DescribeJobs", body=b"\xff"), "InvalidRequest"),
        (tc3_request("DescribeJobs", body=b"[" * 100_000), "InvalidRequest"),
    ],
)
def test_requests_that_cannot_be_read(request_, expected):
    assert code(cloud().simulator.handle(request_)) == expected


def test_every_answer_is_bare_json_with_status_200_and_its_own_request_id():
    world = cloud(job())
    replies = [
        world.simulator.handle(tc3_request(action, {"JobId": ID}))
        for action in ("DescribeJob", "TerminateJob", "TerminateJob", "Nothing")
    ]
    assert {(reply.status, reply.content_type) for reply in replies} == {(200, "application/json")}
    assert len({answer(reply)["RequestId"] for reply in replies}) == 4


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["JobId", "JobIds", "InstanceIds", "Filters", "Limit", "Offset", "TaskName", "X"]
)


@given(
    action=st.sampled_from(sorted(PARAMETERS)),
    params=st.dictionaries(NAMES, JSON, max_size=4),
)
def test_no_parameters_can_break_it(action, params):
    world = cloud(job())
    assert "RequestId" in answer(world.simulator.handle(tc3_request(action, params)))


KEYS = st.from_regex(r"(JobIds|Filters|Limit|Offset)(\.[0-9A-Za-z]{0,3}){0,10}", fullmatch=True)


@given(params=st.dictionaries(KEYS, st.text(max_size=25), max_size=4))
def test_no_query_can_break_it(params):
    request = tc3_request("DescribeJobs", params, method="GET")
    assert "RequestId" in answer(cloud(job()).simulator.handle(request))
