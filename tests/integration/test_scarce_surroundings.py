"""The daemon as a process with few descriptors, or with a standard error that is not read."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack, asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from tests.support import HANG_S
from tests.support.daemon_process import ACCOUNTS, JOBS, POLL_S, STOP_MAX_S

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.support.daemon_process import Daemon, DelayableCloud

DESCRIPTORS: Final = 256
IDLE_CLIENTS: Final = 330
LOG_BYTES_MAX: Final = 20_000
ANSWER_MAX_S: Final = 5.0


@asynccontextmanager
async def serving(
    daemon: Daemon, *, stderr: int, wrapper: Sequence[str] = ()
) -> AsyncIterator[Process]:
    """Start a daemon by ``wrapper`` and wait until it is ready; kill it if it runs at the end."""
    process = await asyncio.create_subprocess_exec(
        *(*wrapper, sys.executable, "-m", "orchestrator", "serve"),
        *("--config", str(daemon.directory / "orchestrator.toml")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=stderr,
        env={k: v for k, v in os.environ.items() if not k.startswith("ORCHESTRATOR_")},
    )
    try:
        async with asyncio.timeout(HANG_S):
            while not await daemon._ready():
                assert process.returncode is None
                await asyncio.sleep(POLL_S)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def alive(daemon: Daemon) -> bool:
    """Return whether /livez answers on a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_MAX_S)
    async with (
        aiohttp.ClientSession(daemon.client._base_url, timeout=timeout) as client,
        client.get("/livez") as answer,
    ):
        return answer.status == 200


async def stopped(process: Process) -> None:
    """Stop it by SIGTERM, which must take less than ten seconds and end with exit code 0."""
    signalled_s = monotonic()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(HANG_S):
        assert await process.wait() == 0
    assert monotonic() - signalled_s < STOP_MAX_S


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"])
async def test_more_idle_connections_than_descriptors_stop_nothing(
    cloud: DelayableCloud, daemon: Daemon, tmp_path: Path, sent: bytes
) -> None:
    log = tmp_path / "limited.log"
    limited = ("sh", "-c", f'ulimit -n {DESCRIPTORS}; exec "$@"', "sh")
    with log.open("wb") as file, ExitStack() as clients:
        async with serving(daemon, stderr=file.fileno(), wrapper=limited) as process:
            for _ in range(IDLE_CLIENTS):
                client = socket.create_connection(("127.0.0.1", daemon.port), timeout=ANSWER_MAX_S)
                clients.enter_context(client)
                with suppress(ConnectionError):
                    client.sendall(sent)
            assert await alive(daemon)
            operation_id = await daemon.submit(*JOBS, account=ACCOUNTS[0])
            ended = await daemon.finished(operation_id)
            assert {each["state"] for each in ended.values()} == {"verified"}
            assert await alive(daemon)
            await stopped(process)
    assert cloud.called(*JOBS)
    logged = log.read_text()
    assert "the API accepts up to 128 connections; 128 of 256 file descriptors are kept" in logged
    assert "the limit of 128 connections to the API is reached" in logged
    assert len(logged) < LOG_BYTES_MAX


async def test_the_soft_limit_of_descriptors_is_raised(daemon: Daemon, tmp_path: Path) -> None:
    log = tmp_path / "raised.log"
    limited = ("sh", "-c", 'ulimit -Sn 64; ulimit -Hn 512; exec "$@"', "sh")
    with log.open("wb") as file:
        async with serving(daemon, stderr=file.fileno(), wrapper=limited) as process:
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            await stopped(process)
    assert (soft, hard) == (512, 512)
    assert "the API accepts up to 256 connections" in log.read_text()


async def test_nothing_waits_for_the_reader_of_standard_error(
    cloud: DelayableCloud, daemon: Daemon
) -> None:
    """A pipe that is full from the start."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"\n")
        os.set_blocking(writer, True)
        async with serving(daemon, stderr=writer) as process:
            assert await alive(daemon)
            operation_id = await daemon.submit(*JOBS, account=ACCOUNTS[0])
            ended = await daemon.finished(operation_id)
            assert {each["state"] for each in ended.values()} == {"verified"}
            assert await alive(daemon)
            await stopped(process)
    finally:
        os.close(reader)
        os.close(writer)
    assert cloud.called(*JOBS)
