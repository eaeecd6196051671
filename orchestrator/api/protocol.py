"""The HTTP connection: what aiohttp answers by itself becomes a problem as well."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from orchestrator.api import problems
from orchestrator.api.problems import ECHO_MAX, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.web_request import BaseRequest

SERVER: Final = "orchestrator"
"""Instead of the versions of Python and aiohttp."""


def protocols(runner: web.AppRunner, **options: Any) -> Callable[[], Protocol]:
    """What makes the connections to a runner's application, once that is set up."""
    server = runner.server
    assert server is not None
    return lambda: Protocol(server, loop=asyncio.get_running_loop(), **options)


class Protocol(web.RequestHandler):
    """One connection."""

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
        return await super().finish_response(request, resp, start_time)
