"""Reading of rows some of which cannot be decoded: those are marked, all others are returned.

A value may be corrupt, of the wrong type, or written by another version. If the driver or
SQLAlchemy fails to decode one row, the whole result is lost. The rows are then read again in
halves, until the faulty row is alone.
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
    from collections.abc import Callable, Mapping

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
"""Errors of decoding a value: here, in SQLAlchemy and in the drivers."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that cannot be decoded: ``row`` has None for each value that cannot."""

    row: Row
    why: str


async def decoded(
    connection: AsyncConnection,
    statement: Select[Any] | CompoundSelect[Any],
    decode: Callable[[Row], T],
    parameters: Row | None = None,
) -> list[T | Unreadable]:
    """Decode each row of an ordered statement by ``decode``, or mark it as Unreadable."""
    try:
        return await decoded_together(connection, statement, decode, parameters)
    except UNREADABLE:
        whole = statement.subquery()
        count = await connection.scalar(select(func.count()).select_from(whole), parameters)
        rows = await _in_halves(connection, whole, parameters, 0, count or 0)
    return [_decoded(row, decode) for row in rows]


async def decoded_together(
    connection: AsyncConnection,
    statement: Select[Any] | CompoundSelect[Any],
    decode: Callable[[Row], T],
    parameters: Row | None = None,
) -> list[T | Unreadable]:
    """Do the same with one execution; raises UNREADABLE if the driver cannot decode a row."""
    result = await connection.execute(statement, parameters)
    names = tuple(result.keys())
    rows = [dict(zip(names, row, strict=True)) for row in result]
    return [_decoded(row, decode) for row in rows]


async def legible(
    connection: AsyncConnection, statement: Select[Any], parameters: Row | None = None
) -> list[Row]:
    """Read each row of an ordered statement, with None for each value that cannot be decoded."""
    rows = await decoded(connection, statement, lambda row: row, parameters)
    return [row.row if isinstance(row, Unreadable) else row for row in rows]


async def _in_halves(
    connection: AsyncConnection, whole: Subquery, parameters: Row | None, start: int, count: int
) -> list[Row | Unreadable]:
    """Read ``count`` rows from ``start`` on, in halves where they cannot be decoded together."""
    try:
        part = select(whole).limit(count).offset(start)
        return [*(await connection.execute(part, parameters)).mappings()]
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
    """Read one row as text, and decode it value by value."""
    texts = select(*(cast(column, Text).label(column.name) for column in whole.c))
    found = await connection.execute(texts.limit(1).offset(start), parameters)
    row = found.mappings().one()
    return {column.name: _value(column.type, row[column.name]) for column in whole.c}


def _value(kind: object, text: str | None) -> Any:
    """Decode a text as a value of this column type; None if it is not one."""
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
    """Return the error as one line that can be stored; without the SQL statement."""
    what = getattr(error, "orig", None) or error
    return storable(" ".join(f"{type(error).__name__}: {what}".split()))
