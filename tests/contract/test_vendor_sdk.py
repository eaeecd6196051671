"""The vendor's own Python SDK, unchanged, against the simulator over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
import warnings
from typing import Any

import pytest

from orchestrator.simulator.cloud.job_spec import JobSpec
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tencentcloud.batch.v20170312 import batch_client, models
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.exception.tencent_cloud_sdk_exception import TencentCloudSDKException
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile
    from tencentcloud.cvm.v20170312 import cvm_client
    from tencentcloud.cvm.v20170312 import models as cvm_models

SECRET_ID = "AKIDEXAMPLE"
SECRET_KEY = "example-secret-key"
RUNNING = "job-running1"
MANNERS = [
    ("TC3-HMAC-SHA256", "POST"),
    ("TC3-HMAC-SHA256", "GET"),
    ("HmacSHA1", "POST"),
    ("HmacSHA1", "GET"),
    ("HmacSHA256", "POST"),
    ("HmacSHA256", "GET"),
]


@pytest.fixture
async def simulator():
    limits_per_s = dict.fromkeys(LOWEST_DOCUMENTED, 1000)
    made = Simulator(secret_keys={SECRET_ID: SECRET_KEY}, limits_per_s=limits_per_s)
    made.add_jobs(
        [
            JobSpec(job_id=RUNNING, instances=250, drain_s=3600.0),
            JobSpec(job_id="job-waiting1", state="SUBMITTED"),
            JobSpec(job_id="job-environ1", env_id="env-example1", refuse_env=True),
        ]
    )
    return made


@pytest.fixture
async def url(simulator):
    async with serve(simulator) as served:
        yield served


def client(
    url: str,
    *,
    service: str = "batch",
    sign: str = "TC3-HMAC-SHA256",
    method: str = "POST",
    secret_key: str = SECRET_KEY,
) -> Any:
    endpoint = url.removeprefix("http://")
    http = HttpProfile(protocol="http", endpoint=endpoint, reqMethod=method)
    profile = ClientProfile(signMethod=sign, httpProfile=http)
    make = {"batch": batch_client.BatchClient, "cvm": cvm_client.CvmClient}[service]
    return make(Credential(SECRET_ID, secret_key), "ap-guangzhou", profile)


async def ask(made: Any, action: str, **params: Any) -> Any:
    """Make a call in a thread, for the SDK blocks."""
    of_service = cvm_models if isinstance(made, cvm_client.CvmClient) else models
    request = getattr(of_service, f"{action}Request")()
    request.from_json_string(json.dumps(params))
    return await asyncio.to_thread(getattr(made, action), request)


async def refused(made: Any, action: str, **params: Any) -> str:
    with pytest.raises(TencentCloudSDKException) as caught:
        await ask(made, action, **params)
    return str(caught.value.get_code())


@pytest.mark.parametrize(("sign", "method"), MANNERS)
async def test_every_action_of_batch_in_every_manner_of_signing(url, simulator, sign, method):
    made = client(url, sign=sign, method=method)
    job = await ask(made, "DescribeJob", JobId=RUNNING)
    assert (job.JobState, job.TaskInstanceMetrics.RunningCount) == ("RUNNING", 250)
    assert job.TaskSet[0].TaskName == "task-0"
    jobs = await ask(made, "DescribeJobs", JobIds=[RUNNING, "job-zzzzzzzz"], Limit=100)
    assert [view.JobId for view in jobs.JobSet] == [RUNNING]
    filters = [{"Name": "job-state", "Values": ["SUBMITTED", "FAILED"]}]
    jobs = await ask(made, "DescribeJobs", Filters=filters)
    assert [view.JobId for view in jobs.JobSet] == ["job-waiting1"]
    task = await ask(made, "DescribeTask", JobId=RUNNING, TaskName="task-0", Offset=200)
    assert (len(task.TaskInstanceSet), task.TaskInstanceTotalCount) == (50, 250)
    assert task.TaskInstanceSet[0].ComputeNodeInstanceId.startswith("ins-")
    for name in ("task-instance-state", "task-instance-type"):
        filters = [{"Name": name, "Values": ["RUNNING"]}]
        page = await ask(
            made, "DescribeTask", JobId=RUNNING, TaskName="task-0", Limit=1, Filters=filters
        )
        assert (len(page.TaskInstanceSet), page.TaskInstanceTotalCount) == (1, 250)
    submitted = await ask(made, "DescribeJobSubmitInfo", JobId=RUNNING)
    assert submitted.Tasks[0].TaskInstanceNum == 250
    assert submitted.Tasks[0].ComputeEnv.EnvData.InstanceName == "job"
    assert submitted.Tasks[0].EnvId is None
    await ask(
        made, "TerminateTaskInstance", JobId=RUNNING, TaskName="task-0", TaskInstanceIndex=249
    )
    terminated = await ask(made, "TerminateJob", JobId=RUNNING)
    assert terminated.RequestId == simulator.calls[-1].request_id
    assert (await ask(made, "DescribeJob", JobId=RUNNING)).NextAction == "TERMINATING"
    truth = simulator.truth()[0]
    assert (truth["terminations_acted"], truth["instance_terminations"]) == (1, 1)


@pytest.mark.parametrize(("sign", "method"), MANNERS)
async def test_every_action_of_cvm_in_every_manner_of_signing(url, simulator, sign, method):
    batch = client(url, sign=sign, method=method)
    made = client(url, service="cvm", sign=sign, method=method)
    task = await ask(batch, "DescribeTask", JobId=RUNNING, TaskName="task-0", Limit=3)
    ids = [row.ComputeNodeInstanceId for row in task.TaskInstanceSet]
    seen = await ask(made, "DescribeInstances", InstanceIds=[*ids, "ins-zzzzzzzz"], Limit=100)
    assert {row.InstanceId: row.InstanceState for row in seen.InstanceSet} == dict.fromkeys(
        ids, "RUNNING"
    )
    (first, *_) = seen.InstanceSet
    assert (seen.TotalCount, first.Placement.Zone) == (3, "ap-guangzhou-3")
    assert (first.LatestOperation, first.LatestOperationState) == ("RunInstances", "SUCCESS")
    filters = [{"Name": "instance-name", "Values": ["env-example1", "env-example2"]}]
    (node,) = (await ask(made, "DescribeInstances", Filters=filters)).InstanceSet
    assert node.InstanceName == "env-example1"
    taken = await ask(made, "TerminateInstances", InstanceIds=ids[:2], ReleaseAddress=False)
    assert taken.RequestId == simulator.calls[-1].request_id
    seen = await ask(made, "DescribeInstances", InstanceIds=ids)
    assert sorted(row.InstanceState for row in seen.InstanceSet) == [
        "RUNNING",
        "TERMINATING",
        "TERMINATING",
    ]


@pytest.mark.parametrize(
    ("action", "params", "code"),
    [
        ("DescribeInstances", {"InstanceIds": ["ins-1"]}, "InvalidInstanceId.Malformed"),
        ("DescribeInstances", {"Filters": [{"Name": "x", "Values": ["y"]}]}, "InvalidFilter"),
        ("TerminateInstances", {"InstanceIds": ["ins-zzzzzzzz"]}, "InvalidInstanceId.NotFound"),
        ("TerminateInstances", {}, "MissingParameter"),
    ],
)
async def test_cvm_refuses_with_the_code_the_vendor_lists(url, action, params, code):
    assert await refused(client(url, service="cvm"), action, **params) == code


@pytest.mark.parametrize(("sign", "method"), MANNERS)
async def test_cvm_can_be_forbidden(sign, method):
    forbidden = ["DescribeInstances"]
    simulator = Simulator(secret_keys={SECRET_ID: SECRET_KEY}, forbidden_actions=forbidden)
    async with serve(simulator) as url:
        made = client(url, service="cvm", sign=sign, method=method)
        assert await refused(made, "DescribeInstances") == "UnauthorizedOperation"


async def test_the_other_name_of_the_filter_is_refused_where_a_cloud_has_one_alone():
    simulator = Simulator(secret_keys={SECRET_ID: SECRET_KEY}, filter_name="task-instance-type")
    simulator.add_jobs([JobSpec(job_id=RUNNING)])
    async with serve(simulator) as url:
        filters = [{"Name": "task-instance-state", "Values": ["RUNNING"]}]
        task = {"JobId": RUNNING, "TaskName": "task-0", "Filters": filters}
        code = await refused(client(url), "DescribeTask", **task)
    assert code == "InvalidParameterValue.InvalidFilter"


async def test_a_job_on_an_environment_was_submitted_with_its_id(url):
    seen = await ask(client(url), "DescribeJobSubmitInfo", JobId="job-environ1")
    assert seen.Tasks[0].EnvId == "env-example1"
    assert seen.Tasks[0].ComputeEnv is None


@pytest.mark.parametrize(
    ("job_id", "code"),
    [
        ("job-zzzzzzzz", "ResourceNotFound.Job"),
        ("job-1", "InvalidParameter.JobIdMalformed"),
        ("job-waiting1", "UnsupportedOperation"),
        ("job-environ1", "UnsupportedOperation.TerminateOperationWithEnvId"),
    ],
)
async def test_terminations_are_refused_with_the_code_the_vendor_lists(url, job_id, code):
    assert await refused(client(url), "TerminateJob", JobId=job_id) == code


@pytest.mark.parametrize(("sign", "method"), MANNERS)
async def test_a_wrong_key_is_refused(url, sign, method):
    made = client(url, sign=sign, method=method, secret_key="another-key")
    assert await refused(made, "DescribeJob", JobId=RUNNING) == "AuthFailure.SignatureFailure"


async def test_a_used_up_quota_is_reported():
    moment = time.time()
    simulator = Simulator(
        secret_keys={SECRET_ID: SECRET_KEY}, limits_per_s={"DescribeJobs": 1}, now=lambda: moment
    )
    async with serve(simulator) as url:
        made = client(url)
        await ask(made, "DescribeJobs")
        assert await refused(made, "DescribeJobs") == "RequestLimitExceeded"


async def test_an_unknown_task_and_an_unknown_instance_are_distinguished(url):
    made = client(url)
    task = {"JobId": RUNNING, "TaskName": "task-9"}
    assert await refused(made, "DescribeTask", **task) == "ResourceNotFound.Task"
    code = await refused(made, "TerminateTaskInstance", **task, TaskInstanceIndex=0)
    assert code == "ResourceNotFound.TaskInstance"
