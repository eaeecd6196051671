"""A fake daemon with the responses of a test, in its own thread."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

RESET = object()
"""No response: the connection is closed."""


def operation(state: str = "running", outcome: str | None = None, **jobs: int) -> dict[str, Any]:
    total = sum(jobs.values())
    return {
        "id": "op_1",
        "account": "prod",
        "region": "ap-guangzhou",
        "state": state,
        "outcome": outcome,
        "reason": "budget",
        "requested_by": "local",
        "created_at": "2026-01-01T00:00:00.000Z",
        "finished_at": "2026-01-01T00:00:10.000Z" if outcome else None,
        "news_of_a_later_version": 1,
        "progress": {
            "jobs": {"total": total, **jobs},
            "instances": {"total": 30, "live": 10, "stopped": 20, "jobs_not_counted": 1},
            "quota": {
                "action": "TerminateJob",
                "allowed_per_s": 10,
                "configured_per_s": 10,
                "used_per_s": 9.5,
            },
            "observed_at": "2026-01-01T00:00:05.000Z",
        },
    }


def termination(job_id: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"trm_{job_id}",
        "job_id": job_id,
        "job_name": None,
        "state": state,
        "evidence": 1,
        "waiting_for": None,
        "next_action": None,
        "next_action_at": None,
        "error": None,
        **more,
    }


def problem(title: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": "urn:x", "title": title, "detail": detail, **more}


@dataclass
class ReceivedRequest:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeDaemon:
    """A fake daemon.

    ``answers`` maps "METHOD path" to its successive responses; the last one is repeated.
    """

    url: str = ""
    answers: dict[str, list[Any]] = field(default_factory=dict)
    calls: list[ReceivedRequest] = field(default_factory=list)

    def answer(self, what: str, *answers: Any) -> None:
        """Set the successive responses of "METHOD path".

        A response is a body (status 200), ``(status, body[, headers])``, RESET, or a function that
        returns one of them.
        """
        self.answers[what] = list(answers)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.calls.append(
            ReceivedRequest(
                request.path,
                dict(request.query),
                dict(request.headers),
                json.loads(body) if body else None,
            )
        )
        queue = self.answers[f"{request.method} {request.path}"]
        answer = queue.pop(0) if len(queue) > 1 else queue[0]
        if callable(answer):
            answer = answer()
        if answer is RESET:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        status, document, *more = answer if isinstance(answer, tuple) else (200, answer)
        headers = more[0] if more else {}
        if isinstance(document, bytes):
            return web.Response(status=status, body=document, headers=headers)
        return web.json_response(document, status=status, headers=headers)


@contextmanager
def running():
    daemon = FakeDaemon()
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", daemon.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        daemon.url = f"http://{host}:{port}"

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield daemon
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
