"""Operations, the newest first: a table on a terminal, one line each elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.table import Table

from orchestrator.cli import printing
from orchestrator.cli.client import Api
from orchestrator.cli.tables import utc

if TYPE_CHECKING:
    from rich.console import Console

    from orchestrator.cli.answers import Operation

COLUMNS: Final = (
    "operation",
    "state",
    "outcome",
    "jobs",
    "requested by",
    "reason",
    "created",
    "revived",
)
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
    table = Table()
    for name in COLUMNS:
        table.add_column(name, overflow="fold", no_wrap=name == COLUMNS[0])
    async with Api(url, token) as api:
        async for operation in api.operations(limit, **narrowed):
            row = _row(operation)
            if console.is_terminal:
                table.add_row(*row)
            else:
                printing.line(console, "\t".join(row))
    if table.row_count:
        console.print(table)


def _row(operation: Operation) -> tuple[str, ...]:
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
    return tuple(printing.clean(NONE if cell is None else cell) or NONE for cell in cells)
