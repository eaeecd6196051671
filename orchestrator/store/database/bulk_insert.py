"""Insertion of many rows with the driver's own executemany.

SQLAlchemy binds the values of each row by name, which takes longer than the insertion. Here, the
statement is compiled once, and a value that follows itself in a column is encoded once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import insert

from orchestrator.store.chunks import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Dialect, Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    Encode = Callable[[Any], Any] | None

ROWS_PER_STATEMENT: Final = 1000
"""A statement has a time limit."""


async def insert_rows(
    connection: AsyncConnection, table: Table, rows: Sequence[dict[str, Any]]
) -> None:
    """Insert rows, all with the same columns."""
    for part in chunks(rows, ROWS_PER_STATEMENT):
        statement, encoders = _compiled(table, tuple(part[0]), connection.dialect)
        columns = [
            _encoded([row[name] for row in part], encode) for name, encode in encoders.items()
        ]
        await connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))


@lru_cache(maxsize=64)
def _compiled(
    table: Table, names: tuple[str, ...], dialect: Dialect
) -> tuple[str, dict[str, Encode]]:
    """Return the statement, and the encoders of its columns in the order of its parameters."""
    compiled = insert(table).compile(dialect=dialect, column_keys=names)
    order = compiled.positiontup
    assert order is not None  # the parameters of both drivers have positions, not names
    return str(compiled), {
        name: table.c[name].type.dialect_impl(dialect).bind_processor(dialect) for name in order
    }


def _encoded(values: list[Any], encode: Encode) -> list[Any]:
    if encode is None:
        return values
    encoded = []
    last, last_encoded = None, encode(None)
    for value in values:
        if value is not last:
            last, last_encoded = value, encode(value)
        encoded.append(last_encoded)
    return encoded
