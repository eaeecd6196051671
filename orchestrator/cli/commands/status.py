"""Where an operation stands, and what every job that is not down waits for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.output import printing, tables

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.client.models import Operation, Termination


async def show(
    url: str, token: str | None, operation_id: str, console: Console, *, as_json: bool
) -> None:
    async with Api(url, token) as api:
        operation = await api.operation(operation_id)
        terminations = await _to_tell(api, operation)
    if as_json:
        document = {
            "operation": operation.model_dump(mode="json"),
            "terminations": [each.model_dump(mode="json") for each in terminations],
        }
        printing.line(console, json.dumps(document, indent=2))
        return
    for text in tables.summary(operation):
        printing.words(console, text)
    for termination in terminations:
        printing.words(console, tables.job_line(termination))


async def _to_tell(api: Api, operation: Operation) -> list[Termination]:
    """Each once, in its latest state, although jobs move on between two pages."""
    asked = [{"state": state} for state in operation.states_to_tell()]
    if operation.progress.revived:
        asked.append({"revived": "true"})
    found = {
        termination.id: termination
        for narrowed in asked
        async for termination in api.terminations(operation.id, **narrowed)
    }
    return list(found.values())
