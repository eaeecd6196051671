"""Blocking functions run in their own threads: they delay neither others nor the end."""

from __future__ import annotations

import asyncio
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from orchestrator.cloud.machine_role import from_machine_role
from orchestrator.cloud.threads import OwnThread, Resolver, StillBlocked
from orchestrator.cloud.transport import AiohttpTransport, HttpAnswer
from tests.support import HANG_S
from tests.unit.cloud.support import ScriptedServer, said, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable


STUCK = 40
"""More than the threads of the event loop's executor."""


@dataclass(slots=True)
class NameServers:
    """Name servers: names in ``.hangs`` block, other names resolve to this host."""

    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    daemons: bool = True

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(HANG_S):
            while len(self.asked) < times:  # noqa: ASYNC110 - it is asked in threads
                await asyncio.sleep(0.01)


@pytest.fixture
async def servers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NameServers]:
    """The blocked lookups return before the event loop ends, which might wait for them."""
    made, real = NameServers(), socket.getaddrinfo

    def look_up(host: str, *rest: Any, **more: Any) -> Any:
        made.asked.append(host)
        made.daemons &= threading.current_thread().daemon
        if host.endswith(".hangs"):
            made.released.wait()
        if host.endswith(".unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield made
    made.released.set()


async def test_lookups_that_hang_delay_no_other(servers: NameServers) -> None:
    """Many blocked lookups of a transport delay no other lookup, nor the end of the process."""
    server = ScriptedServer(lambda _: said())
    transport = AiohttpTransport(connect_timeout_s=30, total_timeout_s=30)

    def call(host: str) -> Awaitable[HttpAnswer]:
        return transport.post(
            f"http://{host}/", headers={"X-TC-Action": "A"}, body=b"", before_send=lambda: None
        )

    async with served(server.handle) as url:
        stuck = [asyncio.ensure_future(call(f"{number}.hangs")) for number in range(STUCK)]
        await servers.until_asked(STUCK)
        async with asyncio.timeout(HANG_S):
            await call(urlsplit(url).netloc.replace("127.0.0.1", "fine.test"))
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()
        await asyncio.wait(stuck)
        await transport.close()
    assert server.actions == ["A"]
    assert servers.daemons


async def test_lookups_of_the_metadata_that_hang_delay_no_other(servers: NameServers) -> None:
    stuck = [
        asyncio.ensure_future(from_machine_role(role="r", endpoint=f"http://{number}.hangs"))
        for number in range(STUCK)
    ]
    await servers.until_asked(STUCK)
    assert servers.daemons
    for task in stuck:
        task.cancel()
    await asyncio.wait(stuck)


async def test_a_name_is_resolved(servers: NameServers) -> None:
    (found,) = await Resolver().resolve("fine.test", 443)
    assert (found["host"], found["port"], found["hostname"]) == ("127.0.0.1", 443, "fine.test")


async def test_a_name_that_there_is_not_is_an_error(servers: NameServers) -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("name.unknown")


async def test_one_call_at_a_time() -> None:
    """The next function may run once the thread has returned, even if its caller was cancelled."""
    thread, release = OwnThread("test"), threading.Event()
    waiting = asyncio.create_task(thread.run(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(StillBlocked):
        await thread.run(lambda: 1)
    release.set()
    async with asyncio.timeout(HANG_S):
        while True:
            try:
                assert await thread.run(lambda: 1) == 1
                break
            except StillBlocked:
                await asyncio.sleep(0.01)


async def test_calls_may_follow_each_other_at_once() -> None:
    """The thread of the previous function may still be ending."""
    thread = OwnThread("test")
    assert [await thread.run(lambda: 1) for _ in range(1000)] == [1] * 1000


async def test_an_exception_is_passed_on() -> None:
    with pytest.raises(ZeroDivisionError):
        await OwnThread("test").run(lambda: 1 // 0)
