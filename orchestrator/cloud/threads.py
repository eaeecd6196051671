"""Calls that may block for long, each in a daemon thread that nobody waits for at the end.

The event loop's default executor has few threads, all users of it share them, and the end of the
program waits for each: one name server or file system that hangs would stop everybody.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from aiohttp.abc import AbstractResolver, ResolveResult

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class StillBlocked(Exception):
    """The call before this one has not come back."""


class OwnThread:
    """Runs one call at a time; what hangs for ever takes one thread, however often it is tried."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = False

    async def run(self, function: Callable[[], T]) -> T:
        """The result of ``function``; raises what it raises, and StillBlocked."""
        if self._busy:
            raise StillBlocked
        self._busy = True
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        target = functools.partial(self._run, function, loop, future)
        threading.Thread(target=target, name=self._name, daemon=True).start()
        return await future

    def _run(
        self,
        function: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[T],
    ) -> None:
        try:
            result = function()
        except Exception as error:  # noqa: BLE001 - it is raised to whoever waits
            deliver = functools.partial(future.set_exception, error)
        else:
            deliver = functools.partial(future.set_result, result)
        self._busy = False
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: future.done() or deliver())


class Resolver(AbstractResolver):
    """Looks a host name up in a thread of its own; aiohttp asks once at a time for each host."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        lookup = functools.partial(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        found = await OwnThread(f"look up {host}").run(lookup)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=family,
                proto=protocol,
                flags=_NUMERIC,
            )
            for family, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        pass
