"""Child processes that never outlive this process."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from orchestrator.cli.exit_codes import RunFailed

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

GRACE_S: Final = 3.0
LOG_LINES_SHOWN: Final = 15


@dataclass(frozen=True, slots=True)
class Child:
    """A running ``orchestrator`` command and its log file."""

    name: str
    process: Process
    log: Path

    def check(self) -> None:
        """Raise RunFailed with the end of the log if the process has ended by itself."""
        if self.process.returncode is not None:
            last_lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
            log_end = " | ".join(last_lines) or "it logged nothing"
            code = self.process.returncode
            raise RunFailed(f"the {self.name} ended with exit code {code}: {log_end}")


@asynccontextmanager
async def child(
    name: str, *arguments: str, directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[Child]:
    """Run ``orchestrator ARGUMENTS`` until the block is left.

    The child has its own session, so that Ctrl-C reaches only the parent. Its standard input is a
    pipe: its end makes the child exit when the parent is gone, even if the parent was killed.
    """
    path = directory / f"{name}.log"
    with _log(path) as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator", *arguments, "--exit-with-stdin"),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Child(name, process, path)
    finally:
        await _stop(process)


def _log(path: Path) -> IO[bytes]:
    return path.open("wb")


async def _stop(process: Process) -> None:
    """End the process; kill it after ``GRACE_S``, or at once if this task is cancelled."""
    try:
        with suppress(ProcessLookupError, TimeoutError):
            process.terminate()
            async with asyncio.timeout(GRACE_S):
                await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 on which nothing listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
