"""A proxy on loopback that stands in front of a server and breaks what passes through it."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter, Task

PIECE_BYTES = 2**16


class TcpProxy:
    def __init__(self, server_port: int) -> None:
        self.port = 0
        # Every piece waits this long, in either direction.
        self.delay_s = 0.0
        self._server_port = server_port
        self._passing = asyncio.Event()
        self._passing.set()
        self.refused = 0
        """Connections that were reset as they came."""
        self._refusing = False
        self._open: dict[Task[None], list[StreamWriter]] = {}

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._listener.wait_closed()

    def blackhole(self, on: bool) -> None:
        """Let nothing through, not even that an end has closed; new connections are accepted.

        As with a broken network, what was sent meanwhile arrives when it ends. To lose it, call
        `cut` first.
        """
        if on:
            self._passing.clear()
        else:
            self._passing.set()

    def refuse(self, on: bool) -> None:
        """Reset new connections; open ones continue."""
        self._refusing = on

    def lead_to(self, server_port: int) -> None:
        """Have new connections go to another server; open ones stay as they are."""
        self._server_port = server_port

    def cut(self) -> None:
        """Reset all open connections, at both ends."""
        for task, writers in self._open.items():
            for writer in writers:
                _reset(writer)
            task.cancel()

    def _accept(self, reader: StreamReader, writer: StreamWriter) -> None:
        if self._refusing:
            self.refused += 1
            _reset(writer)
            return
        writers = [writer]
        task = asyncio.create_task(self._carry(reader, writers))
        self._open[task] = writers
        task.add_done_callback(self._open.pop)

    async def _carry(self, reader: StreamReader, writers: list[StreamWriter]) -> None:
        """Carry both directions until both have ended; `writers` lists the ends to reset."""
        try:
            await self._passing.wait()
            answers, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            writers.append(to_server)
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._pump(reader, to_server))
                directions.create_task(self._pump(answers, writers[0]))
        except* OSError:
            # One end was reset, or there is no server: the other end learns it the same way.
            for writer in writers:
                _reset(writer)
        finally:
            for writer in writers:
                writer.close()
            await asyncio.gather(*(each.wait_closed() for each in writers), return_exceptions=True)

    async def _pump(self, reader: StreamReader, writer: StreamWriter) -> None:
        while piece := await reader.read(PIECE_BYTES):
            await asyncio.sleep(self.delay_s)
            await self._passing.wait()
            writer.write(piece)
            await writer.drain()
        await self._passing.wait()
        writer.write_eof()


def _reset(writer: StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    # Once it is closed, uvloop has no socket any more, and asyncio one without a number.
    if end is not None and end.fileno() != -1:
        # Closing with a linger time of zero sends a reset and not an orderly end.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
