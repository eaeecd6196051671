"""Insertion of many rows with one statement, or with the driver's own executemany.

SQLAlchemy binds the values of each row by name, which takes longer than the insertion. Here, the
statement is compiled once, and a value that follows itself in a column is encoded once. PostgreSQL
gets each column as an array: it plans the statement of an executemany for every row, which takes
most of the time of the insertion.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ARRAY, bindparam, func, insert, select

from orchestrator.store.chunks import chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Dialect, Insert, Table
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
        as_arrays = connection.dialect.name == "postgresql"
        parameters = tuple(columns) if as_arrays else list(zip(*columns, strict=True))
        await connection.exec_driver_sql(statement, parameters)


@lru_cache(maxsize=64)
def _compiled(
    table: Table, names: tuple[str, ...], dialect: Dialect
) -> tuple[str, dict[str, Encode]]:
    """Return the statement, and the encoders of its columns in the order of its parameters."""
    statement: Insert = insert(table)
    if dialect.name == "postgresql":
        arrays = [bindparam(name, type_=ARRAY(table.c[name].type)) for name in names]
        statement = statement.from_select(
            names, select(func.unnest(*arrays).table_valued(*names, name="new").render_derived())
        )
    compiled = statement.compile(dialect=dialect, column_keys=names)
    order = compiled.positiontup
    assert order is not None  # the driver's parameters have positions, not names
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
