"""The control API, without a socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.simulator.http.control_api import control
from tests.unit.simulator.support import START, Cloud, cloud, job

ID = "job-aaaaaaaa"


def order(world: Cloud, method: str, name: str, **options: Any) -> tuple[int, dict[str, Any]]:
    return control(world.simulator, method, f"/_control/{name}", **options)


def post_jobs(world: Cloud, document: object) -> tuple[int, dict[str, Any]]:
    return order(world, "POST", "jobs", body=json.dumps(document).encode())


def test_jobs_can_be_added_while_it_runs():
    world = cloud(job())
    world.clock.at(100)
    status, document = post_jobs(world, [{"prefix": "new", "count": 2, "succeeds_after_s": 5}])
    assert (status, document) == (200, {"job_ids": ["job-new00001", "job-new00002"]})
    assert world.job_state("job-new00001") == "RUNNING"
    world.clock.at(105)
    assert world.job_state("job-new00001") == "SUCCEED"


def test_added_jobs_do_not_take_ids_in_use():
    world = cloud(job())
    status, document = post_jobs(world, [{"ids": [ID]}])
    assert (status, document) == (400, {"problems": [f"jobs[0]: the id {ID} is already in use"]})
    assert len(world.simulator.truth()) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b'[{"colour": 1}]'])
def test_bad_documents_are_refused(body):
    status, document = order(cloud(), "POST", "jobs", body=body)
    assert status == 400
    assert document["problems"]


def test_calls_can_be_read_on_from_where_one_stopped():
    world = cloud(job())
    world.call("DescribeJob", JobId=ID)
    world.clock.at(1)
    world.call("DescribeJobs", JobIds=[ID, "job-bbbbbbbb"])
    _, first = order(world, "GET", "calls")
    assert (len(first["calls"]), first["next"]) == (2, 2)
    world.call("TerminateJob", JobId="job-zzzzzzzz")
    _, rest = order(world, "GET", "calls", since="2")
    (call,) = rest["calls"]
    assert call == {
        "at": START + 1,
        "request_id": call["request_id"],
        "action": "TerminateJob",
        "region": "ap-guangzhou",
        "secret_id": "AKIDEXAMPLE",
        "job_ids": ("job-zzzzzzzz",),
        "code": "ResourceNotFound.Job",
        "acted": False,
        "fault": "",
    }
    assert first["calls"][1]["job_ids"] == (ID, "job-bbbbbbbb")
    assert order(world, "GET", "calls", since="x")[0] == 400


def test_faults_can_be_set_and_counted():
    world = cloud(job())
    body = json.dumps({"DescribeJob": {"internal_error": 1}}).encode()
    assert order(world, "PUT", "faults", body=body)[0] == 200
    assert world.code("DescribeJob", JobId=ID) == "InternalError"
    _, document = order(world, "GET", "faults")
    assert document["fired"]["internal_error"] == 1
    order(world, "PUT", "faults", body=b"{}")
    assert world.code("DescribeJob", JobId=ID) == "OK"


def test_truth_and_quotas_are_returned():
    world = cloud(job(label="one", expect=("verified",)))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    _, document = order(world, "GET", "truth")
    assert document == {
        "now": START + 10,
        "jobs": [
            {
                "job_id": ID,
                "region": "ap-guangzhou",
                "label": "one",
                "expect": ["verified"],
                "state": "FAILED",
                "instances": 10,
                "live": 0,
                "last_stopped_at": START + 10,
                "nodes_restarted_at": None,
                "terminated_at": START,
                "terminations_accepted": 1,
                "terminations_acted": 1,
                "instance_terminations": 0,
                "revived_at": None,
                "vanished_at": None,
                "machines_up": 0,
                "machines_gone_at": START + 10,
            }
        ],
    }
    _, quotas = order(world, "GET", "quotas")
    assert [row["action"] for row in quotas["quotas"]] == ["TerminateJob"]


def test_other_orders_are_not_known():
    assert order(cloud(), "DELETE", "jobs")[0] == 404
