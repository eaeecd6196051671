"""The HTTP server of the simulator: real connections to 127.0.0.1, and connection faults."""

from __future__ import annotations

import io
import json
import time

import aiohttp
import pytest

from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.fault_injection import Fault, Rule
from tests.unit.simulator.support import SECRET_ID, SECRET_KEY, UNLIMITED, job, tc3_request

ID = "job-aaaaaaaa"


def simulator(*rules: Rule) -> Simulator:
    made = Simulator(
        secret_keys={SECRET_ID: SECRET_KEY},
        limits_per_s=UNLIMITED,
        faults={"TerminateJob": list(rules)},
    )
    made.add_jobs([job()])
    return made


async def send(
    url: str, *, action: str = "TerminateJob", host: str | None = None
) -> tuple[int, str, bytes]:
    """Send one signed call, with a Host header that a client may send."""
    host = host or url.removeprefix("http://")
    request = tc3_request(action, {"JobId": ID}, host=host, timestamp=time.time())
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=request.body, headers=dict(request.headers)) as response,
    ):
        return response.status, response.headers["Content-Type"], await response.read()


async def test_an_answer_comes_as_bare_json():
    async with serve(simulator()) as url:
        status, content_type, body = await send(url, action="DescribeJob")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(body)["Response"]["JobId"] == ID


async def test_a_url_as_host_is_accepted():
    async with serve(simulator()) as url:
        _, _, body = await send(url, host=url, action="DescribeJob")
    assert json.loads(body)["Response"]["JobId"] == ID


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.LOST_ANSWER, Fault.HANG])
async def test_a_cut_connection_gives_no_answer(fault, caplog):
    world = simulator(Rule(fault, 1.0, hang_s=0.0))
    async with serve(world) as url:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await send(url)
    (truth,) = world.truth()
    assert truth["terminations_acted"] == (1 if fault is Fault.LOST_ANSWER else 0)
    assert caplog.records == []


async def test_a_truncated_answer_breaks_off_in_the_body(caplog):
    async with serve(simulator(Rule(Fault.TRUNCATE, 1.0))) as url:
        with pytest.raises(aiohttp.ClientPayloadError):
            await send(url)
    assert caplog.records == []


async def test_a_hanging_call_does_not_hold_up_the_end():
    world = simulator(Rule(Fault.HANG, 1.0, hang_s=3600.0))
    began = time.monotonic()
    async with serve(world) as url:
        timeout = aiohttp.ClientTimeout(total=0.2)
        request = tc3_request("TerminateJob", {"JobId": ID}, timestamp=time.time())
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with pytest.raises(TimeoutError):
                await session.post(url, data=request.body, headers=dict(request.headers))
    assert time.monotonic() - began < 5


async def test_a_gateway_page_and_a_charset_arrive_as_such():
    async with serve(
        simulator(Rule(Fault.HTTP_500, 1.0, first_n=1), Rule(Fault.CHARSET, 1.0))
    ) as url:
        page = await send(url)
        charset = await send(url)
    assert page[:2] == (500, "text/html")
    assert charset[:2] == (200, "application/json; charset=utf-8")


async def test_the_control_api_needs_no_signature():
    async with serve(simulator()) as url, aiohttp.ClientSession(url) as session:
        async with session.post("/_control/jobs", json=[{"ids": ["job-bbbbbbbb"]}]) as response:
            assert (response.status, await response.json()) == (200, {"job_ids": ["job-bbbbbbbb"]})
        async with session.get("/_control/truth") as response:
            assert len((await response.json())["jobs"]) == 2
        async with session.get("/_control/calls", params={"since": "0"}) as response:
            assert await response.json() == {"calls": [], "next": 0}


async def test_a_body_of_several_megabytes_is_read():
    async with serve(simulator()) as url:
        request = tc3_request(
            "DescribeJob",
            {"JobId": "x" * 2_000_000},
            host=url.removeprefix("http://"),
            timestamp=time.time(),
        )
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                url, data=io.BytesIO(request.body), headers=dict(request.headers)
            ) as response,
        ):
            error = (await response.json())["Response"]["Error"]
    assert error["Code"] == "InvalidParameter.JobIdMalformed"
