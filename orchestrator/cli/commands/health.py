"""Whether the daemon is ready, as an exit code: for probes where there is no HTTP client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.client.errors import RequestFailed, Unreachable
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output.printing import clean, line

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.client.models import Readiness


async def _ask(url: str) -> Readiness:
    async with Api(url, token=None) as api:
        return await api.ready()


def run(url: str, console: Console) -> int:
    """Print one line, with the reason where something is wrong; returns the exit code."""
    try:
        found = asyncio.run(_ask(url))
    except (Unreachable, RequestFailed) as error:
        line(console, f"not ready: {clean(error)}")
        return FAILED
    troubles = [f"{clean(where)}: {clean(what)}" for where, what in found.troubles.items()]
    line(console, "; ".join([clean(found.status), *troubles]))
    return 0
