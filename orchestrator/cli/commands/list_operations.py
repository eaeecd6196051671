"""Operations, the newest first: a table on a terminal, one line each elsewhere."""

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
"""How wide a terminal has to be for each column: in a narrower one, words would be broken."""
OF_WORDS: Final = ("state", "reason", "requested by")
"""Columns that may be broken, between words."""
WORD_WIDTH: Final = 9
"""Of a state or an outcome."""
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
    wanted = {"state": state, "account": account}
    narrowed = {name: value for name, value in wanted.items() if value is not None}
    table = _empty_table(console.width)
    found = False
    async with Api(url, token) as api:
        async for operation in api.operations(limit, **narrowed):
            found = True
            if console.is_terminal:
                cells = _cells(operation)
                table.add_row(*(cells[str(column.header)] for column in table.columns))
            else:
                printing.line(console, _line(operation))
    if table.row_count:
        console.print(table)
    if not found:
        asked = " ".join(f"--{name} {value}" for name, value in narrowed.items())
        message = f"no operation matches {asked}" if asked else "there is no operation yet"
        printing.line(printing.err(), printing.clean(message))


def _empty_table(width: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, needed in WIDTHS.items():
        if needed <= width:
            breaks = name in OF_WORDS
            least = WORD_WIDTH if breaks else None
            table.add_column(name, no_wrap=not breaks, min_width=least, overflow="fold")
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
    """No cell holds a tab, and none is empty."""
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
