"""Blocking functions, each in a daemon thread that does not delay the end of the process.

The event loop's default executor has few threads, which all its users share, and the process
waits for them when it ends: one name server or file system that hangs would block everything.
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
    """The previous function has not returned yet."""


class OwnThread:
    """Runs one blocking function at a time, so that a hanging one occupies a single thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._busy = False

    async def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` and return its result; raise what it raises, or StillBlocked."""
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
        except Exception as error:  # noqa: BLE001 - raised in the task that awaits the result
            deliver = functools.partial(future.set_exception, error)
        else:
            deliver = functools.partial(future.set_result, result)
        self._busy = False
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: future.done() or deliver())


class Resolver(AbstractResolver):
    """Resolves each host name in its own thread; aiohttp has one lookup per host at a time."""

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
