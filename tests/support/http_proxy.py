"""A small HTTP proxy on loopback: it tunnels CONNECT, forwards plain requests, and can say no."""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter, Task

PIECE_BYTES: Final = 2**16


class HttpProxy:
    """A proxy that connects to ``server_port`` on loopback for any host that is asked for."""

    def __init__(self, server_port: int, *, user: str = "", password: str = "") -> None:
        self.asked: list[str] = []
        """The request lines that arrived, each with its method and target."""
        self.answer: bytes | None = None
        """Sent before the proxy disconnects, in place of a connection; empty: nothing is sent."""
        self.hangs = False
        self._server_port = server_port
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._wanted = f"Basic {token}" if user else None
        self._tasks: set[Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._listener.wait_closed()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._carry(reader, writer)
        finally:
            writer.close()

    async def _carry(self, reader: StreamReader, writer: StreamWriter) -> None:
        answers, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            while True:
                first, headers, body = await _message(reader)
                method, target, _ = first.split(" ")
                self.asked.append(f"{method} {target}")
                if not await self._lets_through(headers, writer):
                    return
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    async with asyncio.TaskGroup() as directions:
                        directions.create_task(_pump(reader, to_server))
                        directions.create_task(_pump(answers, writer))
                    return
                path = urlsplit(target).path or "/"
                _write(to_server, f"{method} {path} HTTP/1.1", headers, body)
                _write(writer, *await _message(answers))
        finally:
            to_server.close()

    async def _lets_through(self, headers: dict[str, str], writer: StreamWriter) -> bool:
        if self.hangs:
            await asyncio.Event().wait()
        if self._wanted and headers.pop("proxy-authorization", None) != self._wanted:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return False
        if self.answer is not None:
            writer.write(self.answer)
            return False
        return True


async def _message(reader: StreamReader) -> tuple[str, dict[str, str], bytes]:
    """Read one request or answer: its first line, its headers by small names, and its body."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return first, headers, await reader.readexactly(int(headers.get("content-length", "0")))


def _write(writer: StreamWriter, first: str, headers: dict[str, str], body: bytes) -> None:
    lines = (first, *(f"{name}: {value}" for name, value in headers.items()), "", "")
    writer.write("\r\n".join(lines).encode() + body)


async def _pump(reader: StreamReader, writer: StreamWriter) -> None:
    while piece := await reader.read(PIECE_BYTES):
        writer.write(piece)
        await writer.drain()
    writer.close()
