"""Tests of the connection limit."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import pytest
from aiohttp import web

from orchestrator.api import protocol
from orchestrator.api.connections import Connections
from orchestrator.api.protocol import protocols
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST: Final = 3
QUICK: Final = b"GET /quick HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE: Final = b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW: Final = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"


class RawHttpClient:
    """A client with one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes = QUICK) -> bytes:
        """Send a request and return the status line and headers of the response."""
        self.writer.write(request)
        return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self) -> bytes:
        """Return what arrives until the server closes the connection."""
        try:
            return await self.reader.read()
        except ConnectionResetError:
            return b""


class Served:
    """A server with a limit of three connections; /slow is answered once ``go_on`` is set."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.port = 0
        self.clients = AsyncExitStack()

    async def answer(self, request: web.Request) -> web.Response:
        if request.path == "/slow":
            self.asked.set()
            await self.go_on.wait()
        return web.Response(body=bytes(64 * 1024 * 1024) if request.path == "/large" else b"")

    async def client(self) -> RawHttpClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.callback(writer.close)
        return RawHttpClient(reader, writer)

    async def busy_client(self) -> RawHttpClient:
        """Return a client whose request is being answered."""
        client = await self.client()
        self.asked.clear()
        client.writer.write(SLOW)
        await self.asked.wait()
        return client


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    made = Served()
    app = web.Application()
    app.router.add_get("/{path}", made.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(protocols(runner, Connections(MOST)), "127.0.0.1", 0)
    made.port = listener.sockets[0].getsockname()[1]
    async with made.clients:
        try:
            async with asyncio.timeout(HANG_S):
                yield made
        finally:
            listener.close()
            made.go_on.set()
            await runner.cleanup()


async def test_the_connection_that_was_idle_for_longest_makes_room() -> None:
    """A connection is idle before its first request, during half a request, and after one."""
    async with serving() as served:
        first, half, third = [await served.client() for _ in range(MOST)]
        await first.ask()
        half.writer.write(b"GET /quick HTTP/1.1\r\n")
        await third.ask()
        await first.ask()

        order = [half, third, first]
        for oldest in order:
            new = await served.client()
            assert (await new.ask()).startswith(b"HTTP/1.1 200")
            assert await oldest.rest() == b""


async def test_no_connection_whose_request_is_being_answered_is_closed_for_another() -> None:
    async with serving() as served:
        busy = [await served.busy_client() for _ in range(MOST - 1)]
        idle = await served.client()
        for _ in range(5):
            assert (await (await served.client()).ask()).startswith(b"HTTP/1.1 200")
        assert await idle.rest() == b""
        served.go_on.set()
        for client in busy:
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


async def test_where_none_is_idle_a_new_one_gets_an_error_and_is_closed() -> None:
    """The refusal is a problem; a new connection is accepted once a request is answered."""
    async with serving() as served:
        busy = [await served.busy_client() for _ in range(MOST)]
        for _ in range(5):
            refused = await served.client()
            head, _, body = (await refused.rest()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"\r\nContent-Type: application/problem+json\r\n" in head
            assert b"\r\nRetry-After: " in head
            problem = json.loads(body)
            assert problem["type"] == "urn:orchestrator:problem:too-many-connections"

        served.go_on.set()
        for client in busy:
            await client.reader.readuntil(b"\r\n\r\n")
        assert (await (await served.client()).ask()).startswith(b"HTTP/1.1 200")


async def test_a_client_that_does_not_read_its_answer_is_disconnected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol, "SEND_TIMEOUT_S", 0.2)
    async with serving() as served:
        stalled = [await served.client() for _ in range(MOST)]
        for client in stalled:
            assert (await client.ask(LARGE)).startswith(b"HTTP/1.1 200")
        answer = b"HTTP/1.1 503"
        while answer.startswith(b"HTTP/1.1 503"):
            answer = await (await served.client()).ask()
        assert answer.startswith(b"HTTP/1.1 200")


async def test_a_connection_that_its_client_closed_takes_no_room() -> None:
    async with serving() as served:
        kept = await served.client()
        await kept.ask()
        for _ in range(5):
            gone = await served.client()
            await gone.ask(QUICK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            await gone.rest()
        assert (await kept.ask()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("junk", [b"\x00" * 10, b"GET / HTTP/9.9\r\n\r\n"])
async def test_invalid_http_occupies_no_connection(junk: bytes) -> None:
    async with serving() as served:
        for _ in range(2 * MOST):
            client = await served.client()
            assert b" 400 Bad Request\r\n" in await client.ask(junk)
        assert (await (await served.client()).ask()).startswith(b"HTTP/1.1 200")
