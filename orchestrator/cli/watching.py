"""Follow an operation until it is finished."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from orchestrator.cli import tables
from orchestrator.cli.client import Api
from orchestrator.cli.displays import display
from orchestrator.cli.failures import (
    NOT_WELL,
    Interrupted,
    RequestFailed,
    Unreachable,
)

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.answers import Operation
    from orchestrator.cli.displays import Display

POLL_S: Final = 1.0
WINDOW_S: Final = 30.0
FIRST_STATUS_OF_THE_SERVER: Final = 500


class Pace:
    """How fast instances went down over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def down_in_s(self, operation: Operation, *, at_s: float) -> float | None:
        """How long the live instances take to go down at this pace; None: nobody can know."""
        live = operation.live_going_down
        if not live:
            self._seen.clear()
            return None
        self._seen.append((at_s, live))
        while at_s - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        since_s, live_then = self._seen[0]
        if live >= live_then:
            return None
        return live * (at_s - since_s) / (live_then - live)


async def watch(api: Api, operation: Operation, console: Console) -> Operation:
    """Show progress until the operation is finished, through absences of the daemon."""
    pace = Pace()
    with display(console) as shown:
        while True:
            shown.show(operation, pace.down_in_s(operation, at_s=time.monotonic()))
            if operation.finished:
                return operation
            await asyncio.sleep(POLL_S)
            operation = await _look(api, operation.id, shown)


async def _look(api: Api, operation_id: str, shown: Display) -> Operation:
    away = False
    while True:
        try:
            operation = await api.operation(operation_id)
        except (Unreachable, RequestFailed) as error:
            if isinstance(error, RequestFailed) and error.status < FIRST_STATUS_OF_THE_SERVER:
                raise
            if not away:
                shown.say(f"the daemon is away, waiting for it: {error}")
            away = True
            await asyncio.sleep(POLL_S)
        else:
            if away:
                shown.say("the daemon is back")
            return operation


async def _watch_and_tell(url: str, token: str | None, operation_id: str, console: Console) -> int:
    async with Api(url, token) as api:
        operation = await watch(api, await api.operation(operation_id), console)
    tables.print_outcomes(operation, console)
    return 0 if operation.verified else NOT_WELL


def run(url: str, token: str | None, operation_id: str, console: Console) -> int:
    """``watch`` for a command: the exit code."""
    try:
        return asyncio.run(_watch_and_tell(url, token, operation_id, console))
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer watching; operation {operation_id} goes on: "
            f"orchestrator watch {operation_id}"
        ) from None
