"""The HTTP connection: what aiohttp answers by itself becomes a problem as well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import web

from orchestrator.api import problems
from orchestrator.api.problems import ECHO_MAX, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.web_request import BaseRequest

    from orchestrator.api.connections import Connections

SERVER: Final = "orchestrator"
"""Instead of the versions of Python and aiohttp."""
SEND_TIMEOUT_S: Final = 120.0
"""How long a client may take to read an answer; a certificate has tens of megabytes."""

BUSY: Final = Problem(
    503,
    "too-many-connections",
    "Too many connections are open",
    "close those that are not needed, or try again; the limit of descriptors (LimitNOFILE, ulimit"
    " -n) bounds them",
)


def protocols(
    runner: web.AppRunner, connections: Connections, **options: Any
) -> Callable[[], Protocol]:
    """What makes the connections to a runner's application, once that is set up."""
    server = runner.server
    assert server is not None
    return lambda: Protocol(server, connections, loop=asyncio.get_running_loop(), **options)


class Protocol(web.RequestHandler):
    """One connection."""

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections

    @property
    def idle(self) -> bool:
        """No request of it is being answered."""
        return not self._request_in_progress

    def abort(self) -> None:
        """Close it at once, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._connections.admit(self):
            super().connection_made(transport)
            return
        writable = cast("asyncio.WriteTransport", transport)
        writable.write(_unasked(BUSY.response()))
        writable.close()

    def data_received(self, data: bytes) -> None:
        self._connections.used(self)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.left(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the parser did not take: the caller's fault, and so not logged."""
        if status >= web.HTTPInternalServerError.status_code:
            return super().handle_error(request, status, exc, message)
        why = " ".join((message or "").split())[:ECHO_MAX]
        return Problem(
            status, "malformed-http", "The request is not HTTP", f"send HTTP/1.1: {why}"
        ).response()

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):
            resp = problems.of_http(resp).response()
        resp.headers["Server"] = SERVER
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("the client did not read its answer in time") from None


def _unasked(answer: web.Response) -> bytes:
    """An answer as it is sent to a request that is not read."""
    body = answer.body
    assert isinstance(body, bytes)
    head = (
        f"HTTP/1.1 {answer.status} {answer.reason}\r\nServer: {SERVER}\r\n"
        f"Content-Type: {answer.content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: {problems.RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
