"""Reads rows one of which may not be readable: that one is told apart, the others are read.

A value may be corrupt, of the wrong type, or written by another version.  Where the driver or
SQLAlchemy fails at a row, the whole result is lost: its rows are then read in halves, until the
one at fault is alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import JSON, Boolean, Float, Integer, Text, cast, func, select

from orchestrator.domain.bounds import storable
from orchestrator.store.schema import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import CompoundSelect, Select, Subquery
    from sqlalchemy.ext.asyncio import AsyncConnection

    Row = Mapping[str, Any]

T = TypeVar("T")

UNREADABLE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What decoding a value raises: here, in SQLAlchemy and in the drivers."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be decoded: ``row`` has what can be of it, and None for what cannot."""

    row: Row
    why: str


async def decoded(
    connection: AsyncConnection,
    statement: Select[Any] | CompoundSelect[Any],
    decode: Callable[[Row], T],
    parameters: Row | None = None,
) -> list[T | Unreadable]:
    """Each row of a statement that has an order, as ``decode`` makes of it."""
    rows: Sequence[Row | Unreadable]
    try:
        rows = (await connection.execute(statement, parameters)).mappings().all()
    except UNREADABLE:
        whole = statement.subquery()
        count = await connection.scalar(select(func.count()).select_from(whole), parameters)
        rows = await _in_halves(connection, whole, parameters, 0, count or 0)
    return [_decoded(row, decode) for row in rows]


async def legible(
    connection: AsyncConnection, statement: Select[Any], parameters: Row | None = None
) -> list[Row]:
    """Each row of a statement that has an order: as it is, or as much of it as can be decoded."""
    rows = await decoded(connection, statement, lambda row: row, parameters)
    return [row.row if isinstance(row, Unreadable) else row for row in rows]


async def _in_halves(
    connection: AsyncConnection, whole: Subquery, parameters: Row | None, start: int, count: int
) -> list[Row | Unreadable]:
    """So many rows from ``start`` on."""
    try:
        some = select(whole).limit(count).offset(start)
        return [*(await connection.execute(some, parameters)).mappings()]
    except UNREADABLE as error:
        if count == 1:
            row = await _piecemeal(connection, whole, parameters, start)
            return [Unreadable(row, error_text(error))]
    half = count // 2
    return [
        *await _in_halves(connection, whole, parameters, start, half),
        *await _in_halves(connection, whole, parameters, start + half, count - half),
    ]


async def _piecemeal(
    connection: AsyncConnection, whole: Subquery, parameters: Row | None, start: int
) -> Row:
    """One row, read as text and decoded value by value."""
    texts = select(*(cast(column, Text).label(column.name) for column in whole.c))
    found = await connection.execute(texts.limit(1).offset(start), parameters)
    row = found.mappings().one()
    return {column.name: _value(column.type, row[column.name]) for column in whole.c}


def _value(kind: object, text: str | None) -> Any:
    """What a text stands for; None where it stands for nothing."""
    if text is None:
        return None
    read = next((read for types, read in _READ_TEXT if isinstance(kind, types)), str)
    try:
        return read(text)
    except UNREADABLE:
        return None


def _time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


_READ_TEXT: Final[tuple[tuple[type, Callable[[str], Any]], ...]] = (
    (UtcDateTime, _time),
    (JSON, json.loads),
    (Boolean, lambda text: text in {"true", "1"}),
    (Integer, int),
    (Float, float),
)


def _decoded(row: Row | Unreadable, decode: Callable[[Row], T]) -> T | Unreadable:
    if isinstance(row, Unreadable):
        return row
    try:
        return decode(row)
    except UNREADABLE as error:
        return Unreadable(row, error_text(error))


def error_text(error: Exception) -> str:
    """The error in one line, as it can be stored; of the database's, without the statement."""
    what = getattr(error, "orig", None) or error
    return storable(" ".join(f"{type(error).__name__}: {what}".split()))
