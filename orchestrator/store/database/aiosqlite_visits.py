"""Fewer visits to the thread of an aiosqlite connection.

Each call of aiosqlite visits that thread and waits for its answer. That costs two changes of
thread, which is more than most statements take. SQLAlchemy makes four such calls for a query (open
a cursor, execute, fetch, close), and two to end a transaction (commit, and rollback to be sure).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from typing import Self

    import aiosqlite


def visit_less(connection: aiosqlite.Connection) -> None:
    """Visit the thread once for a statement, and not to end a transaction that has not begun."""

    def if_in_transaction(end: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def ends() -> None:
            if connection.in_transaction:
                await end()

        return ends

    methods: dict[str, object] = {
        "cursor": partial(OneVisitCursor, connection),
        "commit": if_in_transaction(connection.commit),
        "rollback": if_in_transaction(connection.rollback),
    }
    for name, method in methods.items():
        setattr(connection, name, method)


class OneVisitCursor:
    """The methods of aiosqlite.Cursor that SQLAlchemy uses; rows are fetched with the statement."""

    arraysize = 1

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.description: Any = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._connection = connection
        self._rows: list[Any] = []

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        return await self._visit(execute, statement, parameters)

    async def executemany(self, statement: str, parameters: Iterable[Sequence[Any]]) -> Self:
        return await self._visit(executemany, statement, parameters)

    async def _visit(self, function: Callable[..., tuple[Any, ...]], *args: object) -> Self:
        connection = self._connection
        visit: Callable[..., Awaitable[tuple[Any, ...]]] = connection._execute  # noqa: SLF001
        result = await visit(function, connection._conn, *args)  # noqa: SLF001
        self.description, self.rowcount, self.lastrowid, self._rows = result
        return self

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        self._rows = []


def execute(raw: sqlite3.Connection, statement: str, parameters: Sequence[Any]) -> tuple[Any, ...]:
    """Execute a statement and fetch its rows, in the thread of the connection."""
    return _result(raw.execute(statement, parameters))


def executemany(
    raw: sqlite3.Connection, statement: str, parameters: Iterable[Sequence[Any]]
) -> tuple[Any, ...]:
    """Execute a statement once for each of ``parameters``, in the thread of the connection."""
    return _result(raw.executemany(statement, parameters))


def _result(cursor: sqlite3.Cursor) -> tuple[Any, ...]:
    """Return what SQLAlchemy reads from a cursor, and close it."""
    try:
        rows = cursor.fetchall() if cursor.description else []
        return cursor.description, cursor.rowcount, cursor.lastrowid, rows
    finally:
        cursor.close()
