"""The `watch` command: follow an operation until it is finished."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.client.errors import RequestFailed, Unreachable
from orchestrator.cli.exit_codes import FAILED, Interrupted
from orchestrator.cli.output import printing, tables
from orchestrator.cli.output.progress_display import display

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.client.models import Operation
    from orchestrator.cli.output.progress_display import Display

POLL_S: Final = 1.0
FIRST_SERVER_ERROR: Final = 500


async def watch(api: Api, operation: Operation, console: Console) -> Operation:
    """Show progress until the operation is finished; wait while the daemon does not answer."""
    with display(console) as shown:
        while True:
            shown.show(operation)
            if operation.finished:
                return operation
            await asyncio.sleep(POLL_S)
            operation = await _poll(api, operation.id, shown)


async def _poll(api: Api, operation_id: str, shown: Display) -> Operation:
    unavailable = False
    while True:
        try:
            operation = await api.operation(operation_id)
        except (Unreachable, RequestFailed) as error:
            if isinstance(error, RequestFailed) and error.status < FIRST_SERVER_ERROR:
                raise
            if not unavailable:
                shown.print_message(f"the daemon does not answer, waiting for it: {error}")
            unavailable = True
            await asyncio.sleep(POLL_S)
        else:
            if unavailable:
                shown.print_message("the daemon answers again")
            return operation


async def _watch_and_report(
    url: str, token: str | None, operation_id: str, console: Console
) -> int:
    async with Api(url, token) as api:
        operation = await watch(api, await api.operation(operation_id), console)
    tables.print_outcomes(operation, console)
    return 0 if operation.stays_stopped else FAILED


def run(url: str, token: str | None, operation_id: str, console: Console) -> int:
    """Watch the operation to its end and print the outcome; return the exit code."""
    try:
        with printing.naming(operation_id):
            return asyncio.run(_watch_and_report(url, token, operation_id, console))
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer watching; operation {operation_id} continues: "
            f"orchestrator watch {operation_id}"
        ) from None
