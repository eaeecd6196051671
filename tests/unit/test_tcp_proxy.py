from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import AsyncIterator

# A reply arrives much sooner than SOON_S; its absence can only be detected by waiting.
SOON_S = 5.0
NOTHING_S = 0.1


class Echo:
    """Echo server that records how its connections ended."""

    def __init__(self) -> None:
        self.accepted = 0
        self.received: list[bytes] = []
        self.ends: asyncio.Queue[str] = asyncio.Queue()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        try:
            while piece := await reader.read(1000):
                self.received.append(piece)
                writer.write(piece)
            self.ends.put_nowait("closed")
        except ConnectionResetError:
            self.ends.put_nowait("reset")
        finally:
            writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[TcpProxy]:
    async with (
        await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server,
        TcpProxy(server.sockets[0].getsockname()[1]) as opened,
    ):
        yield opened


class TcpClient:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self, within_s: float = SOON_S) -> bytes:
        return await asyncio.wait_for(self._reader.read(1000), within_s)

    async def close(self) -> None:
        self._writer.close()
        await asyncio.gather(self._writer.wait_closed(), return_exceptions=True)


async def connect(proxy: TcpProxy) -> TcpClient:
    return TcpClient(*await asyncio.open_connection("127.0.0.1", proxy.port))


@pytest.fixture
async def client(proxy: TcpProxy) -> AsyncIterator[TcpClient]:
    opened = await connect(proxy)
    yield opened
    await opened.close()


async def test_passes_both_directions_and_the_end(client: TcpClient, echo: Echo) -> None:
    client.send(b"one")
    assert await client.receive() == b"one"

    await client.close()

    assert await asyncio.wait_for(echo.ends.get(), SOON_S) == "closed"


async def test_passes_more_than_a_piece(client: TcpClient) -> None:
    sent = bytes(range(256)) * 4000
    client.send(sent)

    received = b""
    while len(received) < len(sent):
        received += await client.receive()

    assert received == sent


async def test_blackhole_holds_back_and_delivers_afterwards(
    proxy: TcpProxy, client: TcpClient, echo: Echo
) -> None:
    client.send(b"before")
    assert await client.receive() == b"before"

    proxy.blackhole(True)
    client.send(b"during")
    with pytest.raises(TimeoutError):
        await client.receive(NOTHING_S)
    assert echo.received == [b"before"]

    proxy.blackhole(False)
    assert await client.receive() == b"during"


async def test_blackhole_hides_that_an_end_has_closed(
    proxy: TcpProxy, client: TcpClient, echo: Echo
) -> None:
    client.send(b"before")
    await client.receive()

    proxy.blackhole(True)
    await client.close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(echo.ends.get(), NOTHING_S)

    proxy.blackhole(False)
    assert await asyncio.wait_for(echo.ends.get(), SOON_S) == "closed"


async def test_blackhole_swallows_new_connections_too(proxy: TcpProxy, echo: Echo) -> None:
    proxy.blackhole(True)
    client = await connect(proxy)
    client.send(b"hello")

    with pytest.raises(TimeoutError):
        await client.receive(NOTHING_S)
    assert echo.accepted == 0

    proxy.blackhole(False)
    assert await client.receive() == b"hello"
    await client.close()


async def test_cut_resets_both_ends(proxy: TcpProxy, client: TcpClient, echo: Echo) -> None:
    client.send(b"before")
    await client.receive()

    proxy.cut()

    with pytest.raises(ConnectionResetError):
        await client.receive()
    assert await asyncio.wait_for(echo.ends.get(), SOON_S) == "reset"


async def test_cut_loses_what_a_blackhole_held_back(
    proxy: TcpProxy, client: TcpClient, echo: Echo
) -> None:
    client.send(b"before")
    await client.receive()
    proxy.blackhole(True)
    client.send(b"during")
    with pytest.raises(TimeoutError):
        await client.receive(NOTHING_S)

    proxy.cut()
    proxy.blackhole(False)

    assert await asyncio.wait_for(echo.ends.get(), SOON_S) == "reset"
    assert echo.received == [b"before"]


async def test_cut_is_possible_at_any_moment_of_an_ending(proxy: TcpProxy) -> None:
    for steps in range(30):
        client = await connect(proxy)
        client.send(b"before")
        await client.receive()
        closing = asyncio.create_task(client.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        proxy.cut()
        await closing


async def test_connections_are_possible_again_after_a_cut(proxy: TcpProxy) -> None:
    proxy.cut()
    client = await connect(proxy)
    client.send(b"again")
    assert await client.receive() == b"again"
    await client.close()


async def test_refuse_resets_new_connections_only(proxy: TcpProxy, client: TcpClient) -> None:
    client.send(b"before")
    await client.receive()

    proxy.refuse(True)
    refused = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await refused.receive()
    client.send(b"still open")
    assert await client.receive() == b"still open"
    await refused.close()

    proxy.refuse(False)
    accepted = await connect(proxy)
    accepted.send(b"again")
    assert await accepted.receive() == b"again"
    await accepted.close()


async def test_delay_holds_for_each_direction(proxy: TcpProxy, client: TcpClient) -> None:
    proxy.delay_s = 0.05
    started = asyncio.get_running_loop().time()

    client.send(b"slow")
    await client.receive()

    assert asyncio.get_running_loop().time() - started >= 0.1


async def test_a_stopped_server_resets_the_client() -> None:
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()

    async with TcpProxy(port) as proxy:
        client = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await client.receive()
        await client.close()


async def test_the_end_of_the_proxy_resets_connections_and_ends_all_tasks(echo: Echo) -> None:
    before = asyncio.all_tasks()
    async with await asyncio.start_server(echo.serve, "127.0.0.1", 0) as server:
        async with TcpProxy(server.sockets[0].getsockname()[1]) as proxy:
            client = await connect(proxy)
            client.send(b"before")
            await client.receive()
            proxy.blackhole(True)
            unanswered = await connect(proxy)
        assert not proxy._open
        with pytest.raises(ConnectionResetError):
            await client.receive()
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        await asyncio.wait_for(echo.ends.get(), SOON_S)
        await client.close()
        await unanswered.close()
    assert asyncio.all_tasks() == before
