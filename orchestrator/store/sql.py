"""SQL that SQLite and PostgreSQL write differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, ReturnTypeFromArgs

if TYPE_CHECKING:
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
