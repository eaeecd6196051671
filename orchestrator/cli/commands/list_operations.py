"""The `list` command: operations newest first, a table on a terminal, else one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table

from orchestrator.cli.client.api_client import Api
from orchestrator.cli.output import printing, progress_display
from orchestrator.cli.output.tables import utc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from orchestrator.cli.client.models import Operation

WIDTHS: Final[Mapping[str, int]] = {
    "operation": 0,
    "state": 0,
    "jobs": 42,
    "reason": 60,
    "created": 80,
    "requested by": 110,
}
"""Minimum terminal width for each column: in a narrower terminal, words would be broken."""
WRAPPED_COLUMNS: Final = ("state", "reason", "requested by")
"""Columns that may be broken between words."""
WORD_WIDTH: Final = 9
"""Width of the longest outcome or operation state."""
NONE: Final = "-"


async def show(
    url: str,
    token: str | None,
    console: Console,
    *,
    state: str | None,
    account: str | None,
    limit: int,
) -> None:
    options = {"state": state, "account": account}
    filters = {name: value for name, value in options.items() if value is not None}
    table = _empty_table(console.width)
    found = False
    async with Api(url, token) as api:
        async for operation in api.operations(limit, **filters):
            found = True
            if console.is_terminal:
                cells = _cells(operation)
                table.add_row(*(cells[str(column.header)] for column in table.columns))
            else:
                printing.print_line(console, _line(operation))
    if table.row_count:
        console.print(table)
    if not found:
        given = " ".join(f"--{name} {value}" for name, value in filters.items())
        message = f"no operation matches {given}" if given else "there is no operation yet"
        printing.print_line(printing.err(), printing.clean(message))


def _empty_table(width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, needed in WIDTHS.items():
        if needed <= width:
            wrapped = name in WRAPPED_COLUMNS
            min_width = WORD_WIDTH if wrapped else None
            table.add_column(name, no_wrap=not wrapped, min_width=min_width, overflow="fold")
    return table


def _cells(operation: Operation) -> dict[str, str]:
    cells = {
        "operation": operation.id,
        "state": (operation.outcome or operation.state) + progress_display.revived(operation),
        "jobs": operation.total,
        "reason": operation.reason,
        "created": utc(operation.created_at),
        "requested by": operation.requested_by,
    }
    return {name: printing.clean(cell) for name, cell in cells.items()}


def _line(operation: Operation) -> str:
    """Return the cells separated by tabs; no cell contains a tab, and none is empty."""
    cells = (
        operation.id,
        operation.state,
        operation.outcome,
        operation.total,
        operation.requested_by,
        operation.reason,
        utc(operation.created_at),
        operation.progress.revived,
    )
    return "\t".join(printing.clean(NONE if cell is None else cell) or NONE for cell in cells)
