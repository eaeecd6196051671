"""SQL that SQLite and PostgreSQL write differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, ReturnTypeFromArgs

from orchestrator.store.schema import UtcDateTime

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.compiler import SQLCompiler


class greatest(ReturnTypeFromArgs[Any]):  # noqa: N801 - named as the SQL function
    """The largest of its arguments."""

    inherit_cache = True


@compiles(greatest, "sqlite")
def _greatest_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    return f"max({compiler.process(element.clauses, **kw)})"


class whole_seconds(FunctionElement[int]):  # noqa: N801 - named as a SQL function
    """From the second of its arguments to the first, rounded down; both are times."""

    type = Integer()
    inherit_cache = True


@compiles(whole_seconds)
def _whole_seconds(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    until, since = (compiler.process(each, **kw) for each in element.clauses)
    return f"CAST(floor(extract(epoch FROM {until} - {since})) AS INTEGER)"


@compiles(whole_seconds, "sqlite")
def _whole_seconds_in_sqlite(
    element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any
) -> str:
    until, since = (compiler.process(each, **kw) for each in element.clauses)
    # A day is told to some 50 microseconds only.
    return f"CAST(round((julianday({until}) - julianday({since})) * 86400, 3) AS INTEGER)"


class moved_by(FunctionElement[Any]):  # noqa: N801 - as SQL functions are called
    """A time moved by whole seconds; None stays None."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, column: ColumnElement[datetime], by_s: int) -> None:
        super().__init__(column, literal(by_s, Integer()))


@compiles(moved_by)
def _moved_by(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    time, by_s = (compiler.process(each, **kw) for each in element.clauses)
    return f"({time} + make_interval(secs => {by_s}))"


@compiles(moved_by, "sqlite")
def _moved_by_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    time, by_s = (compiler.process(each, **kw) for each in element.clauses)
    # What SQLite computes has milliseconds at most: the fraction is kept as it is.
    whole = f"strftime('%Y-%m-%d %H:%M:%S', substr({time}, 1, 19), {by_s} || ' seconds')"
    return f"({whole} || substr({time}, 20))"
