"""What blocks, in threads of its own: it delays nobody else, and nobody waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from orchestrator.cloud.threads import OwnThread, Resolver, StillBlocked


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch):
    """Name servers that never answer for ``.hangs``; set at the end."""
    released, real = threading.Event(), socket.getaddrinfo

    def look_up(host, *rest, **more):
        if str(host).endswith(".hangs"):
            assert threading.current_thread().daemon
            released.wait()
        if str(host).endswith(".unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield
    released.set()


async def test_lookups_that_hang_delay_no_other(hanging) -> None:
    """However many there are; the event loop's executor would have room for a few."""
    resolver = Resolver()
    stuck = [asyncio.create_task(resolver.resolve(f"{number}.hangs")) for number in range(64)]
    async with asyncio.timeout(5):
        (found,) = await resolver.resolve("fine.test", 443)
    assert (found["host"], found["port"], found["hostname"]) == ("127.0.0.1", 443, "fine.test")
    assert not any(task.done() for task in stuck)
    for task in stuck:
        task.cancel()
    await asyncio.wait(stuck)


async def test_a_name_that_there_is_not_is_an_error(hanging) -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("name.unknown")


async def test_one_call_at_a_time() -> None:
    """The next one goes once the thread has come back, whether or not anybody waited for it."""
    thread, release = OwnThread("test"), threading.Event()
    waiting = asyncio.create_task(thread.run(release.wait))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(StillBlocked):
        await thread.run(lambda: 1)
    release.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await thread.run(lambda: 1) == 1
                break
            except StillBlocked:
                await asyncio.sleep(0.01)


async def test_calls_may_follow_each_other_at_once() -> None:
    """A thread that has its result may still be about to end."""
    thread = OwnThread("test")
    assert [await thread.run(lambda: 1) for _ in range(1000)] == [1] * 1000


async def test_what_it_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        await OwnThread("test").run(lambda: 1 // 0)
