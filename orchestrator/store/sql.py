"""SQL functions that SQLite and PostgreSQL express differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Integer, Text, bindparam, literal, literal_column
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, ReturnTypeFromArgs

from orchestrator.store.schema import UtcDateTime

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.sql.compiler import SQLCompiler


NOW: BindParameter[datetime] = bindparam("now", type_=UtcDateTime())
"""The time of the statement, a parameter."""


class greatest(ReturnTypeFromArgs[Any]):  # noqa: N801 - named as the SQL function
    """The largest of its arguments."""

    inherit_cache = True


@compiles(greatest, "sqlite")
def _greatest_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    return f"max({compiler.process(element.clauses, **kw)})"


class whole_seconds(FunctionElement[int]):  # noqa: N801 - named as a SQL function
    """The whole seconds from its second argument to its first; both are times."""

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
    # julianday() is exact to some 50 microseconds only, hence round().
    return f"CAST(round((julianday({until}) - julianday({since})) * 86400, 3) AS INTEGER)"


class moved_by(FunctionElement[Any]):  # noqa: N801 - named as a SQL function
    """A time moved by whole seconds; NULL stays NULL."""

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
    # strftime() computes milliseconds at most, so the fraction is copied as text.
    whole = f"strftime('%Y-%m-%d %H:%M:%S', substr({time}, 1, 19), {by_s} || ' seconds')"
    # A value that is not a time stays as it is.
    return f"coalesce({whole} || substr({time}, 20), {time})"


class _JsonMember(FunctionElement[Any]):
    inherit_cache = True

    def __init__(self, document: ColumnElement[Any], name: str) -> None:
        super().__init__(document, literal_column(f"'{name}'"))


class json_text(_JsonMember):  # noqa: N801 - named as a SQL function
    """A member of a JSON document as text; NULL if the document cannot be read."""

    type = Text()
    inherit_cache = True


@compiles(json_text)
def _json_text(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    document, name = (compiler.process(each, **kw) for each in element.clauses)
    return f"({document} ->> {name})"


@compiles(json_text, "sqlite")
def _json_text_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    document, name = (compiler.process(each, **kw) for each in element.clauses)
    return f"CASE WHEN json_valid({document}) THEN json_extract({document}, '$.' || {name}) END"


class json_count(_JsonMember):  # noqa: N801 - named as a SQL function
    """A member of a JSON document as a count; NULL if it is not one."""

    type = Integer()
    inherit_cache = True


@compiles(json_count)
def _json_count(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    member = _json_text(element, compiler, **kw)
    return f"CASE WHEN {member} ~ '^[0-9]{{1,9}}$' THEN CAST({member} AS INTEGER) END"


@compiles(json_count, "sqlite")
def _json_count_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    return f"CAST({_json_text_in_sqlite(element, compiler, **kw)} AS INTEGER)"
