"""Requests of the gateway: content, signature, decoded reply, and credential."""

from __future__ import annotations

import asyncio
import json

import pytest

from orchestrator.cloud import error_codes
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.hosts import host_for
from orchestrator.cloud.refreshing import RefreshingProvider
from orchestrator.cloud.signing import Credential, authorization
from orchestrator.domain.errors import CloudErrorKind as Kind
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.machine import MachineState
from tests.support.clock import NOON, ManualClock
from tests.unit.cloud.support import (
    KEYS,
    REGION,
    NoTransport,
    ScriptedServer,
    failure,
    gateway_at,
    gateway_to,
    refused,
    said,
    served,
)

ZEROS = dict.fromkeys(
    [
        *("SubmittedCount", "PendingCount", "RunnableCount", "StartingCount", "RunningCount"),
        *("SucceedCount", "FailedInterruptedCount", "FailedCount"),
    ],
    0,
)


async def test_call_carries_what_the_vendor_asks_for_and_signs_what_is_sent() -> None:
    """The signature is valid for the body and the Host header that arrived."""
    server = ScriptedServer(lambda _: said())
    token = {"token": "tok"}
    async with gateway_to(
        server, credentials=build_provider("static", KEYS | token, ManualClock(), NoTransport())
    ) as gateway:
        assert await gateway.terminate_job(region=REGION, job_id="job-1") == "r-1"

    [(headers, body)] = server.arrived
    assert json.loads(body) == {"JobId": "job-1"}
    assert {name: headers[name] for name in headers if name.startswith("X-TC-")} == {
        "X-TC-Action": "TerminateJob",
        "X-TC-Version": "2017-03-12",
        "X-TC-Region": REGION,
        "X-TC-Timestamp": str(int(NOON.timestamp())),
        "X-TC-Language": "en-US",
        "X-TC-Token": "tok",
    }
    assert headers.getall("Content-Type") == ["application/json"]
    assert headers["Authorization"] == authorization(
        Credential(secret_id="AKIDexample", secret_key="secret"),
        service="batch",
        host=headers["Host"],
        body=body,
        timestamp_s=int(NOON.timestamp()),
    )


async def test_every_call_gets_a_new_signature() -> None:
    """A request one second later has another timestamp and another signature."""
    server = ScriptedServer(lambda _: said())
    clock = ManualClock()
    async with gateway_to(server, clock=clock) as gateway:
        for _ in range(2):
            await gateway.terminate_job(region=REGION, job_id="job-1")
            clock.passed_s += 1

    signatures = {headers["Authorization"] for headers, _ in server.arrived}
    assert len(signatures) == 2


async def test_all_calls_of_the_port_reach_their_action() -> None:
    """Each method calls its action and decodes its reply."""
    server = ScriptedServer(
        lambda _: said(),
        lambda _: said(JobId="job-1", JobState="FAILED", TaskSet=[], TaskInstanceMetrics=ZEROS),
        lambda _: said(JobSet=[{"JobId": "job-2", "JobState": "RUNNING"}], TotalCount=1),
        lambda _: said(JobId="job-1", Tasks=[{"TaskName": "t", "TaskInstanceNum": 3}]),
        lambda _: said(JobId="job-1", TaskName="t", TaskInstanceSet=[], TaskState="FAILED"),
        lambda _: said(
            InstanceSet=[{"InstanceId": "ins-2", "InstanceState": "RUNNING"}], TotalCount=1
        ),
        lambda _: said(),
    )
    async with gateway_to(server) as gateway:
        request_id = await gateway.terminate_task_instance(
            region=REGION, job_id="job-1", task_name="t", index=7
        )
        job = await gateway.describe_job(region=REGION, job_id="job-1")
        jobs = await gateway.describe_jobs(region=REGION, job_ids=["job-1", "job-2"])
        submitted = await gateway.describe_job_submit_info(region=REGION, job_id="job-1")
        page = await gateway.describe_task(
            region=REGION, job_id="job-1", task_name="t", states=[JobState.RUNNING]
        )
        machines = await gateway.describe_machines(region=REGION, machine_ids=["ins-1", "ins-2"])
        ended = await gateway.terminate_machine(region=REGION, machine_id="ins-2")

    assert ended == "r-1"
    assert request_id == "r-1"
    assert (job.state, job.instances) == (JobState.FAILED, InstanceCounters())
    assert {job_id: seen.state for job_id, seen in jobs.items()} == {"job-2": JobState.RUNNING}
    assert [(task.name, task.instances) for task in submitted.tasks] == [("t", 3)]
    assert page.task.state is JobState.FAILED
    assert {id_: seen.state for id_, seen in machines.items()} == {"ins-2": MachineState.RUNNING}
    assert server.actions == [
        *("TerminateTaskInstance", "DescribeJob", "DescribeJobs", "DescribeJobSubmitInfo"),
        *("DescribeTask", "DescribeInstances", "TerminateInstances"),
    ]
    assert json.loads(server.arrived[0][1])["TaskInstanceIndex"] == 7
    assert json.loads(server.arrived[4][1])["Filters"][0]["Values"] == ["RUNNING"]
    assert json.loads(server.arrived[5][1]) == {"InstanceIds": ["ins-1", "ins-2"], "Limit": 100}
    assert json.loads(server.arrived[6][1]) == {"InstanceIds": ["ins-2"]}


async def test_observation_is_as_old_as_its_call() -> None:
    """``observed_at`` is the time of the request, not of the reply."""
    clock = ManualClock()

    def slowly(_):
        clock.passed_s += 9
        return said(JobId="job-1", JobState="RUNNING", TaskSet=[])

    async with gateway_to(ScriptedServer(slowly), clock=clock) as gateway:
        seen = await gateway.describe_job(region=REGION, job_id="job-1")

    assert seen.observed_at == NOON


async def test_hundred_ids_are_one_call_more_are_a_mistake_and_none_is_no_call() -> None:
    """Without ids the cloud would list every job of the account."""
    server = ScriptedServer(lambda _: said(JobSet=[]))
    ids = [f"job-{number}" for number in range(101)]
    async with gateway_to(server) as gateway:
        assert await gateway.describe_jobs(region=REGION, job_ids=ids[:100]) == {}
        assert await gateway.describe_jobs(region=REGION, job_ids=[]) == {}
        with pytest.raises(ValueError, match="at most 100"):
            await gateway.describe_jobs(region=REGION, job_ids=ids)

    [(_, body)] = server.arrived
    assert json.loads(body) == {"JobIds": ids[:100], "Limit": 100}


async def test_machines_are_asked_for_where_they_are_signed_for() -> None:
    """CVM requests go to the CVM host and are signed for cvm; Batch requests to the other."""
    of_jobs, of_machines = (
        ScriptedServer(lambda _: said()),
        ScriptedServer(lambda _: said(InstanceSet=[], TotalCount=0)),
    )
    async with (
        served(of_jobs.handle) as jobs_url,
        served(of_machines.handle) as machines_url,
        gateway_at(jobs_url, cvm_endpoint=machines_url) as gateway,
    ):
        assert gateway.sees_machines
        await gateway.terminate_job(region=REGION, job_id="job-1")
        await gateway.describe_machines(region=REGION, machine_ids=["ins-1"])

    for server, service, action in (
        (of_jobs, "batch", "TerminateJob"),
        (of_machines, "cvm", "DescribeInstances"),
    ):
        [(headers, body)] = server.arrived
        assert (headers["X-TC-Action"], headers["X-TC-Version"]) == (action, "2017-03-12")
        assert headers["Authorization"] == authorization(
            Credential(secret_id="AKIDexample", secret_key="secret"),
            service=service,
            host=headers["Host"],
            body=body,
            timestamp_s=int(NOON.timestamp()),
        )


async def test_hundred_machines_are_one_call_more_are_a_mistake_and_none_is_no_call() -> None:
    """Without ids the cloud would list every machine of the account."""
    server = ScriptedServer(lambda _: said(InstanceSet=[], TotalCount=0))
    ids = [f"ins-{number}" for number in range(101)]
    async with gateway_to(server) as gateway:
        assert await gateway.describe_machines(region=REGION, machine_ids=ids[:100]) == {}
        assert await gateway.describe_machines(region=REGION, machine_ids=[]) == {}
        with pytest.raises(ValueError, match="at most 100"):
            await gateway.describe_machines(region=REGION, machine_ids=ids)

    assert [json.loads(body)["InstanceIds"] for _, body in server.arrived] == [ids[:100]]


async def test_no_machine_is_read_without_an_endpoint_for_machines() -> None:
    """No request goes to the host of Batch instead."""
    server = ScriptedServer(lambda _: said())
    async with served(server.handle) as url, gateway_at(url) as gateway:
        assert not gateway.sees_machines
        with pytest.raises(ValueError, match="no endpoint for cvm"):
            await gateway.describe_machines(region=REGION, machine_ids=["ins-1"])
        with pytest.raises(ValueError, match="no endpoint for cvm"):
            await gateway.terminate_machine(region=REGION, machine_id="ins-1")

    assert server.arrived == []


@pytest.mark.parametrize(
    "region", ["", "AP-guangzhou", "ap-guangzhou\n", "evil.example/", "ap-x@evil", "ap-x:1", "ap"]
)
async def test_region_cannot_alter_the_host(region) -> None:
    """An invalid region is refused before anything is signed."""
    assert host_for("https://batch.{region}.tencentcloudapi.com", "ap-shanghai-fsi") == (
        "batch.ap-shanghai-fsi.tencentcloudapi.com"
    )
    async with gateway_at("http://127.0.0.1:1") as gateway:
        with pytest.raises(ValueError, match="region"):
            await gateway.terminate_job(region=region, job_id="job-1")


# --- errors of the credential --------------------------------------------------------------------


class Keyring:
    """Source that returns a new key at each load."""

    def __init__(self) -> None:
        self.loads = 0

    async def load(self) -> Credential:
        self.loads += 1
        return Credential(secret_id=f"AKID{self.loads}", secret_key="secret")


KEY_IN_DOUBT = [
    code
    for code, meaning in error_codes.MEANINGS.items()
    if meaning.kind in {Kind.CREDENTIAL, Kind.UNAUTHORIZED} and not code.startswith("Client.")
]
"""Codes of errors that another key may end."""


def test_every_failure_of_authentication_is_one_of_the_key() -> None:
    """Every AuthFailure except a clock difference puts the key in doubt."""
    assert {code for code in error_codes.MEANINGS if code.startswith("AuthFailure")} - {
        "AuthFailure.SignatureExpire"
    } <= set(KEY_IN_DOUBT)


@pytest.mark.parametrize("code", [*KEY_IN_DOUBT, "AuthFailure.NotYetDocumented"])
async def test_outdated_credential_is_refreshed_once_for_the_next_call(code) -> None:
    """Ten concurrent failures keep their errors and cause one refresh."""
    clock, keyring = ManualClock(), Keyring()
    credentials = RefreshingProvider(keyring.load, clock=clock)
    server = ScriptedServer(*[refused(code) for _ in range(10)], lambda _: said())
    async with gateway_to(server, clock=clock, credentials=credentials) as gateway:
        await credentials.get()
        clock.passed_s = 60
        errors = await asyncio.gather(*(failure(gateway) for _ in range(10)))
        await gateway.terminate_job(region=REGION, job_id="job-1")

    assert {error.kind for error in errors} <= {Kind.CREDENTIAL, Kind.UNAUTHORIZED}
    assert keyring.loads == 2
    assert "Credential=AKID2/" in server.arrived[-1][0]["Authorization"]


@pytest.mark.parametrize("code", ["AuthFailure.SignatureExpire", "RequestLimitExceeded"])
async def test_an_error_that_another_key_cannot_end_causes_no_refresh(code) -> None:
    clock, keyring = ManualClock(), Keyring()
    credentials = RefreshingProvider(keyring.load, clock=clock)
    server = ScriptedServer(lambda _: refused(code))
    async with gateway_to(server, clock=clock, credentials=credentials) as gateway:
        for _ in range(2):
            await failure(gateway)
            clock.passed_s += 60

    assert keyring.loads == 1


async def test_nothing_is_sent_without_a_credential() -> None:
    """The request fails with the error of the credential provider."""

    async def stopped() -> Credential:
        raise error_codes.error(ClientCode.CREDENTIAL_UNAVAILABLE, "stopped")

    clock = ManualClock()
    server = ScriptedServer(lambda _: said())
    async with gateway_to(
        server, clock=clock, credentials=RefreshingProvider(stopped, clock=clock)
    ) as gateway:
        assert (await failure(gateway)).kind is Kind.CREDENTIAL

    assert server.arrived == []
