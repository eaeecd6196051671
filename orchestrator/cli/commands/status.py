"""The `status` command: an operation, and what each job that has not stopped waits for."""

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
        terminations = await _terminations_to_show(api, operation)
    if as_json:
        document = {
            "operation": operation.model_dump(mode="json"),
            "terminations": [each.model_dump(mode="json") for each in terminations],
        }
        printing.print_line(console, json.dumps(document, indent=2))
        return
    for text in tables.summary(operation):
        printing.print_wrapped(console, text)
    for termination in terminations:
        printing.print_wrapped(console, tables.job_line(termination))


async def _terminations_to_show(api: Api, operation: Operation) -> list[Termination]:
    """Return the terminations that are not proven stopped or were revived.

    Each is returned once, in its latest state, even if it changes state between two pages.
    """
    queries = [{"state": state} for state in operation.states_to_report()]
    if operation.progress.revived:
        queries.append({"revived": "true"})
    found = {
        termination.id: termination
        for filters in queries
        async for termination in api.terminations(operation.id, **filters)
    }
    return list(found.values())
