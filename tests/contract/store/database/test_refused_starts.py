"""Errors with which a PostgreSQL server refuses sessions: waited for, or configuration errors."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.store.database.migrations import upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SSL_REQUEST = 80877103
PASSING = {
    "57P03": "the database system is starting up",
    "57P01": "terminating connection due to administrator command",
    "53300": "sorry, too many clients already",
    "08006": "the connection to the server behind was lost",
}
FOR_GOOD = {
    "28P01": 'password authentication failed for user "u"',
    "28000": "no pg_hba.conf entry for host",
    "3D000": 'database "n" does not exist',
}


@asynccontextmanager
async def refusing(code: str, message: str) -> AsyncIterator[str]:
    """The URL of a server that refuses each session with this error (PostgreSQL's manual, 54.7)."""
    fields = {"S": "FATAL", "V": "FATAL", "C": code, "M": message}
    reply = b"".join(f"{key}{text}\0".encode() for key, text in fields.items()) + b"\0"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            length, kind = struct.unpack("!II", await reader.readexactly(8))
            await reader.readexactly(length - 8)
            if kind != SSL_REQUEST:
                break
            writer.write(b"N")
        writer.write(b"E" + struct.pack("!I", len(reply) + 4) + reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"postgresql+asyncpg://u:p@127.0.0.1:{port}/n"


@pytest.mark.parametrize("code", PASSING)
async def test_a_temporary_error_is_waited_for(code: str) -> None:
    async with refusing(code, PASSING[code]) as url:
        with pytest.raises(StoreUnavailable, match=PASSING[code]):
            await upgrade(url)


@pytest.mark.parametrize("code", FOR_GOOD)
async def test_an_error_that_needs_manual_action_is_not_waited_for(code: str) -> None:
    async with refusing(code, FOR_GOOD[code]) as url:
        with pytest.raises(ConfigurationError, match=FOR_GOOD[code]):
            await upgrade(url)
