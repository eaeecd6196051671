"""The HTTP server of the simulator; it also executes connection faults."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web

from orchestrator.simulator.http.control_api import PREFIX, control
from orchestrator.simulator.protocol.replies import Delivery, Reply
from orchestrator.simulator.protocol.request_parser import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestrator.simulator.simulator import Simulator

BODY_MAX: Final = 10 * 2**20
"""Maximum body in bytes: the vendor's limit for a request signed with TC3."""
SHUTDOWN_S: Final = 0.1


def application(simulator: Simulator) -> web.Application:
    """Return the web application, for use in any server."""
    app = web.Application(client_max_size=BODY_MAX)

    async def answer_control(request: web.Request) -> web.Response:
        status, document = control(
            simulator,
            request.method,
            request.path,
            since=request.query.get("since", "0"),
            body=await request.read(),
        )
        return web.json_response(document, status=status)

    async def answer_call(request: web.Request) -> web.StreamResponse:
        return await _deliver(request, simulator.handle(await _read(request)))

    app.router.add_route("*", PREFIX + "{name}", answer_control)
    app.router.add_route("*", "/{path:.*}", answer_call)
    return app


@asynccontextmanager
async def serve(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve until the block is left, and yield the URL. Port 0 uses a free port."""
    runner = web.AppRunner(application(simulator), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        yield f"http://{bound_host}:{bound_port}"
    finally:
        await runner.cleanup()


async def _read(request: web.Request) -> Request:
    """Return the raw request; ``request.url`` would reject the Host header that tccli sends."""
    return Request(
        method=request.method,
        target=request.raw_path,
        headers=[(name.decode(), value.decode("latin-1")) for name, value in request.raw_headers],
        body=await request.read(),
    )


async def _deliver(request: web.Request, reply: Reply) -> web.StreamResponse:
    await asyncio.sleep(reply.delay_s)
    if reply.delivery is Delivery.CUT:
        _cut(request)
        return web.Response()
    response = web.StreamResponse(status=reply.status)
    response.headers["Content-Type"] = reply.content_type
    response.content_length = len(reply.body)
    await response.prepare(request)
    if reply.delivery is Delivery.TRUNCATED:
        await response.write(reply.body[: len(reply.body) // 2])
        _cut(request)
        return response
    await response.write(reply.body)
    return response


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.close()
