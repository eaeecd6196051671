"""Test doubles: a scripted server on 127.0.0.1, and a gateway to it."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.cloud.transport import AiohttpTransport, HttpAnswer
from orchestrator.domain.errors import CloudError
from tests.support.clock import ManualClock

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from multidict import CIMultiDictProxy

    from orchestrator.cloud.credentials import CredentialProvider

    Reply = (
        web.Response | Callable[[web.Request], web.StreamResponse | Awaitable[web.StreamResponse]]
    )
    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REGION = "ap-guangzhou"
KEYS: dict[str, str | int | Path | None] = {"secret_id": "AKIDexample", "secret_key": "secret"}


class NoTransport:
    """Transport for providers that send no request."""

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        raise AssertionError(url)


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Serve every request with ``handler``; yield the URL without a trailing slash."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def said(**response: object) -> web.Response:
    """Return a reply in the cloud's format."""
    return web.Response(
        body=json.dumps({"Response": {"RequestId": "r-1"} | response}).encode(),
        content_type="application/json",
    )


def refused(code: str, message: str = "m") -> web.Response:
    return said(Error={"Code": code, "Message": message})


class ScriptedServer:
    """Server that records requests and sends the scripted replies in order, then the last again."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.arrived: list[tuple[CIMultiDictProxy[str], bytes]] = []
        self.connections: list[asyncio.Transport] = []

    @property
    def actions(self) -> list[str]:
        return [headers["X-TC-Action"] for headers, _ in self.arrived]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.arrived.append((request.headers, await request.read()))
        assert request.transport is not None
        if request.transport not in self.connections:
            self.connections.append(request.transport)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        answer = reply if isinstance(reply, web.Response) else reply(request)
        return answer if isinstance(answer, web.StreamResponse) else await answer


@asynccontextmanager
async def gateway_at(
    endpoint: str,
    *,
    cvm_endpoint: str | None = None,
    credentials: CredentialProvider | None = None,
    clock: ManualClock | None = None,
    **timeouts: Any,
) -> AsyncIterator[TencentBatch]:
    clock = clock or ManualClock()
    transport = AiohttpTransport(**timeouts)
    try:
        yield TencentBatch(
            endpoint=endpoint,
            cvm_endpoint=cvm_endpoint,
            credentials=credentials or build_provider("static", KEYS, clock, transport),
            clock=clock,
            transport=transport,
        )
    finally:
        await transport.close()


@asynccontextmanager
async def gateway_to(
    server: ScriptedServer,
    *,
    credentials: CredentialProvider | None = None,
    clock: ManualClock | None = None,
    **timeouts: float,
) -> AsyncIterator[TencentBatch]:
    async with (
        served(server.handle) as url,
        gateway_at(
            url, cvm_endpoint=url, credentials=credentials, clock=clock, **timeouts
        ) as gateway,
    ):
        yield gateway


async def failure(gateway: TencentBatch) -> CloudError:
    """Return the error of a TerminateJob request."""
    with pytest.raises(CloudError) as caught:
        await gateway.terminate_job(region=REGION, job_id="job-1")
    assert caught.value.advice
    return caught.value
