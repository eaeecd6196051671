"""The `health` command: readiness as an exit code, for probes without an HTTP client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.client.errors import RequestFailed, Unreachable
from orchestrator.cli.exit_codes import FAILED
from orchestrator.cli.output.printing import clean, print_line

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.client.models import Readiness


async def _readiness(url: str) -> Readiness:
    async with Api(url, token=None) as api:
        return await api.ready()


def run(url: str, console: Console) -> int:
    """Print one line with the status and the reasons if degraded; return the exit code."""
    try:
        readiness = asyncio.run(_readiness(url))
    except (Unreachable, RequestFailed) as error:
        print_line(console, f"not ready: {clean(error)}")
        return FAILED
    troubles = [f"{clean(place)}: {clean(why)}" for place, why in readiness.troubles.items()]
    print_line(console, "; ".join([clean(readiness.status), *troubles]))
    return 0
