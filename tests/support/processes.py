"""Processes of the installed program, waited for and killed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestrator.cli.demo.subprocesses import Child

WAIT_MAX_S: Final = 60.0
POLL_S: Final = 0.01


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "ORCHESTRATOR_" not in name}


async def until(condition: Callable[[], Awaitable[bool]], process: Child) -> None:
    async with asyncio.timeout(WAIT_MAX_S):
        while not await condition():
            process.check()
            await asyncio.sleep(POLL_S)


async def killed(process: Child) -> None:
    process.check()
    process.process.kill()
    assert await process.process.wait() == -signal.SIGKILL
