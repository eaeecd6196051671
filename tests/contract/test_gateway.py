"""The gateway over real HTTP: what each way of failing means, and that nothing is sent twice."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import timedelta
from email.utils import format_datetime

import pytest
from aiohttp import web

from orchestrator.domain.errors import CloudErrorKind as Kind
from tests.support.clock import NOON
from tests.unit.cloud.support import (
    REGION,
    ScriptedServer,
    failure,
    gateway_at,
    gateway_to,
    refused,
    said,
    served,
)

# --- errors that the cloud names -----------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/html"])
@pytest.mark.parametrize("charset", [None, "utf-8"])
@pytest.mark.parametrize("status", [200, 500])
async def test_error_in_a_body_counts_whatever_its_type_and_status(
    content_type, charset, status
) -> None:
    """The vendor's SDK takes all but two of these for successes."""
    text = json.dumps({"Response": {"Error": {"Code": "ResourceInUse.Job"}, "RequestId": "r"}})
    reply = web.Response(
        body=text.encode(), content_type=content_type, charset=charset, status=status
    )
    async with gateway_to(ScriptedServer(reply)) as gateway:
        error = await failure(gateway)

    assert (error.kind, error.request_id) == (Kind.STATE_CONFLICT, "r")


async def test_throttling_that_names_its_ceiling_passes_it_on() -> None:
    """The limiter learns from it."""
    reply = refused("RequestLimitExceeded", "which exceeds the frequency limit `2` in a second")
    async with gateway_to(ScriptedServer(reply)) as gateway:
        assert (await failure(gateway)).quota_ceiling == 2


async def test_undocumented_code_is_logged_once(caplog) -> None:
    """Loud, and not once per call."""
    server = ScriptedServer(lambda _: refused("Brandnew.Code"))
    async with gateway_to(server) as gateway:
        kinds = {(await failure(gateway)).kind for _ in range(3)}

    assert kinds == {Kind.OUTCOME_UNKNOWN}
    [record] = caplog.records
    assert (record.levelname, "Brandnew.Code" in record.getMessage()) == ("WARNING", True)


@pytest.mark.parametrize(("ahead_s", "words"), [(412, "412 s behind"), (-301, "301 s ahead of")])
async def test_clock_that_is_off_is_measured_and_named(ahead_s, words) -> None:
    """By the Date header; positive when the cloud's clock is ahead of ours."""
    reply = refused("AuthFailure.SignatureExpire")
    reply.headers["Date"] = format_datetime(NOON + timedelta(seconds=ahead_s), usegmt=True)
    async with gateway_to(ScriptedServer(reply)) as gateway:
        assert gateway.clock_offset_s is None
        error = await failure(gateway)
        assert gateway.clock_offset_s == ahead_s

    assert error.kind is Kind.CLOCK_SKEW
    off = f"the database's clock is {words} the cloud's"
    assert off in error.message
    assert error.advice == f"{off}, and requests are signed with its time: start NTP on its host"


# --- answers that are none -----------------------------------------------------------------------


async def truncated(request: web.Request) -> web.StreamResponse:
    """A head that promises more than what comes."""
    answer = web.StreamResponse(headers={"Content-Length": "1000"})
    await answer.prepare(request)
    await answer.write(b'{"Response": {"RequestId": "r-1"}}')
    closed(request)
    return answer


def no_http(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.write(b"no HTTP at all\r\n\r\n")
    return closed(request)


def closed(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    request.transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, linger
    )
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (lambda _: web.Response(status=500, text="oops"), "Client.HttpStatus"),
        (lambda _: web.Response(status=429), "Client.HttpStatus"),
        (lambda _: web.Response(status=302, headers={"Location": "/else"}), "Client.HttpStatus"),
        (lambda _: web.Response(text='{"Response": {"Reque'), "Client.BadAnswer"),
        (lambda _: web.Response(text="{}"), "Client.BadAnswer"),
        (lambda _: web.json_response({"Response": {}}), "Client.BadAnswer"),
        (truncated, "Client.BadAnswer"),
        (no_http, "Client.BadAnswer"),
        (closed, "Client.Disconnected"),
        (reset, "Client.Disconnected"),
    ],
)
async def test_call_without_a_readable_answer_may_have_been_executed(reply, code) -> None:
    """It is said so, and the call is never sent again: it arrived exactly once."""
    server = ScriptedServer(reply)
    async with gateway_to(server) as gateway:
        error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.OUTCOME_UNKNOWN, code)
    assert server.actions == ["TerminateJob"]


async def test_call_that_is_not_answered_in_time_may_have_been_executed() -> None:
    """The request was read, so only its answer is missing."""

    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return said()

    server = ScriptedServer(never)
    async with gateway_to(server, total_timeout_s=0.05) as gateway:
        error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.OUTCOME_UNKNOWN, "Client.Timeout")
    assert server.actions == ["TerminateJob"]


async def test_call_to_a_closed_port_was_not_sent(unused_tcp_port) -> None:
    """The call cannot have been executed."""
    async with gateway_at(f"http://127.0.0.1:{unused_tcp_port}") as gateway:
        error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.NOT_SENT, "Client.ConnectFailed")


async def test_call_to_a_host_without_an_address_was_not_sent() -> None:
    """The name is reserved: no resolver knows it."""
    async with gateway_at("http://batch.invalid", connect_timeout_s=1.0) as gateway:
        error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.NOT_SENT, "Client.ConnectFailed")


async def test_call_over_a_connection_that_is_never_made_was_not_sent() -> None:
    """The other side accepts and then says nothing to the TLS greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with gateway_at(f"https://127.0.0.1:{port}", connect_timeout_s=0.05) as gateway:
            error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.NOT_SENT, "Client.ConnectFailed")


async def test_call_to_a_port_without_tls_was_not_sent() -> None:
    """The keys never leave over a connection that is not the one configured."""
    server = ScriptedServer(lambda _: said())
    async with (
        served(server.handle) as url,
        gateway_at(url.replace("http:", "https:")) as gateway,
    ):
        assert (await failure(gateway)).kind is Kind.NOT_SENT

    assert server.arrived == []


# --- connections ---------------------------------------------------------------------------------


async def test_connection_is_used_again() -> None:
    """Five calls, one connection."""
    server = ScriptedServer(lambda _: said())
    async with gateway_to(server) as gateway:
        for _ in range(5):
            await gateway.terminate_job(region=REGION, job_id="job-1")

    assert (len(server.arrived), len(server.connections)) == (5, 1)


async def test_connection_that_is_seen_to_be_closed_is_replaced() -> None:
    """The call then goes out once, over a new one."""
    server = ScriptedServer(lambda _: said())
    other = ScriptedServer(lambda _: said())
    async with gateway_to(server) as gateway, gateway_to(other) as passing_time:
        await gateway.terminate_job(region=REGION, job_id="job-1")
        server.connections[0].close()
        await passing_time.terminate_job(region=REGION, job_id="job-2")
        await gateway.terminate_job(region=REGION, job_id="job-1")

    assert (len(server.arrived), len(server.connections)) == (2, 2)


async def test_connection_that_was_closed_unseen_leaves_the_outcome_unknown() -> None:
    """The server's end was on its way when the call left; no second try is made."""
    server = ScriptedServer(lambda _: said())
    async with gateway_to(server) as gateway:
        await gateway.terminate_job(region=REGION, job_id="job-1")
        server.connections[0].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        error = await failure(gateway)

    assert (error.kind, error.code) == (Kind.OUTCOME_UNKNOWN, "Client.Disconnected")
    assert (len(server.arrived), len(server.connections)) == (1, 1)


async def test_environments_proxy_is_not_asked(monkeypatch, unused_tcp_port) -> None:
    """A call goes where the configuration says."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    server = ScriptedServer(lambda _: said())
    async with gateway_to(server) as gateway:
        await gateway.terminate_job(region=REGION, job_id="job-1")

    assert server.actions == ["TerminateJob"]
