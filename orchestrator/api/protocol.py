"""HTTP connections: the errors that aiohttp answers by itself become problems as well."""

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
"""Replaces aiohttp's header, which has the versions of Python and aiohttp."""
SEND_TIMEOUT_S: Final = 120.0
"""Seconds a client may take to read a response; a certificate can have tens of megabytes."""

BUSY: Final = Problem(
    503,
    "too-many-connections",
    "Too many connections",
    "close connections that are not needed, or try again; the descriptor limit (LimitNOFILE, "
    "ulimit -n) bounds their number",
)


def protocols(
    runner: web.AppRunner, connections: Connections, **options: Any
) -> Callable[[], Protocol]:
    """Return the factory of connections to a runner's application; set the runner up first."""
    server = runner.server
    assert server is not None
    return lambda: Protocol(server, connections, loop=asyncio.get_running_loop(), **options)


class Protocol(web.RequestHandler):
    """A connection that counts towards the limit."""

    def __init__(self, server: web.Server, connections: Connections, **options: Any) -> None:
        super().__init__(server, **options)
        self._connections = connections

    @property
    def idle(self) -> bool:
        """True if no request of this connection is being answered."""
        return not self._request_in_progress

    def abort(self) -> None:
        """Close the connection at once and drop unsent data."""
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._connections.admit(self):
            super().connection_made(transport)
            return
        writable = cast("asyncio.WriteTransport", transport)
        writable.write(_raw_response(BUSY.response()))
        writable.close()

    def data_received(self, data: bytes) -> None:
        self._connections.used(self)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that the parser refused: the caller's fault, so it is not logged."""
        if status >= web.HTTPInternalServerError.status_code:
            return super().handle_error(request, status, exc, message)
        why = " ".join((message or "").split())[:ECHO_MAX]
        return Problem(
            status, "malformed-http", "Malformed HTTP request", f"send HTTP/1.1: {why}"
        ).response()

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; a client that does not read it in time is disconnected."""
        if isinstance(resp, web.HTTPException):
            resp = problems.of_http(resp).response()
        resp.headers["Server"] = SERVER
        try:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            self.abort()
            raise ConnectionResetError("the client did not read the response in time") from None


def _raw_response(response: web.Response) -> bytes:
    """Return the bytes of a response to a connection whose request is not read."""
    body = response.body
    assert isinstance(body, bytes)
    head = (
        f"HTTP/1.1 {response.status} {response.reason}\r\nServer: {SERVER}\r\n"
        f"Content-Type: {response.content_type}\r\nContent-Length: {len(body)}\r\n"
        f"Retry-After: {problems.RETRY_AFTER_S}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
