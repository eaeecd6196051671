"""Load of HTTP requests, light enough that the server is what limits it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Iterator


async def requests_per_s(
    url: str, bodies: Iterator[bytes], *, clients: int, seconds: float
) -> float:
    """POST ``bodies`` over so many connections, one request at a time on each; return the rate.

    Raises RuntimeError for a reply of 400 and above.
    """
    loop, target = asyncio.get_running_loop(), URL(url)
    assert target.host is not None
    assert target.port is not None
    until = loop.time() + seconds
    head = (
        f"POST {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n"
        "Content-Type: application/json\r\n"
    )
    began_at = time.monotonic()
    made = [
        (
            await loop.create_connection(
                lambda: _Client(head, bodies, until), target.host, target.port
            )
        )[1]
        for _ in range(clients)
    ]
    replies = await asyncio.gather(*(client.done for client in made))
    return sum(replies) / (time.monotonic() - began_at)


class _Client(asyncio.Protocol):
    """One connection; ``done`` is its number of replies once the time is over."""

    def __init__(self, head: str, bodies: Iterator[bytes], until: float) -> None:
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._head = head
        self._bodies = bodies
        self._until = until
        self._received = b""
        self._replies = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        if len(body) < length:
            return
        if not lines[0].startswith(b"http/1.1 2"):
            self.done.set_exception(RuntimeError(self._received.decode()))
            self._transport.close()
            return
        self._received = b""
        self._replies += 1
        if asyncio.get_running_loop().time() < self._until:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(self._replies)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        body = next(self._bodies)
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
