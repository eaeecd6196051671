"""The types and shapes that the columns of a termination's row must have to be decoded."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import JSON, Boolean, Float, Integer

from orchestrator.domain.bounds import SECONDS_MAX, possible
from orchestrator.domain.model.unconfirmed import Verdict
from orchestrator.domain.regions import REGION, zone_refused
from orchestrator.store.schema import UtcDateTime, terminations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy import Column


class _Document(BaseModel):
    """A JSON document: members with a default may be missing, and there are no others."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Problem(_Document):
    code: str
    message: str
    advice: str | None


class _Counters(_Document):
    submitted: int
    pending: int
    runnable: int
    starting: int
    running: int
    succeed: int
    failed: int
    failed_interrupted: int


class _Task(_Document):
    name: str
    state: str | None
    instances: _Counters | None


class _TaskSubmitted(_Document):
    name: str
    instances: int
    env_id: str | None = None


class _Scan(_Document):
    """A scan stored by an earlier version lacks the fields that were added since."""

    run: int
    tasks: list[_TaskSubmitted] = []
    task: int = 0
    offset: int = 0
    occupying: int = 0
    waiting: int = 0
    captured: int = 0
    nodes: int = 0
    counted_at: str | None = None
    failures: int = 0
    problem: _Problem | None = None
    began_at: str | None = None
    ended_at: str | None = None


class _Revival(_Document):
    at: str
    job_state: str
    job_end_time: str | None = None
    instances_live: int | None = None
    reterminated_by: str | None = None
    limit_reached: bool = False


class _Unconfirmed(_Document):
    verdict: Annotated[Verdict, Field(strict=False)]
    since: str
    last_at: str
    until: str
    answers: int
    sources: list[str]


class _History(_Document):
    samples: list[list[float]]
    seen_at: float
    pause_s: float = 0.0


_DOCUMENTS: Final[Mapping[str, TypeAdapter[Any]]] = {
    "instances": TypeAdapter(_Counters),
    "tasks": TypeAdapter(list[_Task]),
    "problem": TypeAdapter(_Problem),
    "machines_problem": TypeAdapter(_Problem),
    "unconfirmed": TypeAdapter(_Unconfirmed),
    "capture": TypeAdapter(_Scan),
    "rescan": TypeAdapter(_Scan),
    "history": TypeAdapter(_History),
    "revival": TypeAdapter(_Revival),
}
_ANY: Final = frozenset({bool, int, str})
"""Types of which every value is valid."""


def faults(
    row: Mapping[str, Any], columns: Iterable[Column[Any]] = tuple(terminations.columns)
) -> Iterator[tuple[str, str]]:
    """Yield each of these columns of a termination's row that is wrong, with what is wrong."""
    for name, nullable, kind in map(_SHAPES.__getitem__, columns):
        value = row[name]
        if value is None:
            if not nullable:
                yield name, "it is missing"
        elif type(value) is not kind or kind not in _ANY:
            wrong = _fault(name, value, kind)
            if wrong is not None:
                yield name, wrong
        elif name == "region" and not _is_region(value):
            yield name, f"{value!r} is not a region"


def _is_region(value: object) -> bool:
    return isinstance(value, str) and bool(REGION.fullmatch(value)) and zone_refused(value) is None


def _fault(name: str, value: object, kind: type) -> str | None:
    if name in _DOCUMENTS:
        return _document_fault(_DOCUMENTS[name], value)
    if kind is float and type(value) is int:
        return None
    if type(value) is not kind:
        return f"it is not of type {kind.__name__}"
    if isinstance(value, datetime) and not possible(value):
        return f"{value} is not a possible time"
    if isinstance(value, float) and not abs(value) <= SECONDS_MAX:
        return f"{value} is not a possible number"
    return None


def _document_fault(kind: TypeAdapter[Any], value: object) -> str | None:
    """Return what is wrong with a JSON document at its first faulty place; it names no value."""
    try:
        kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place or 'it'}: {first['msg']}"
    return None


def _kind(column: Column[Any]) -> type:
    match column.type:
        case UtcDateTime():
            return datetime
        case Boolean():
            return bool
        case Float():
            return float
        case Integer():
            return int
        case JSON():
            return object
        case _:
            return str


_SHAPES: Final = {
    column: (column.name, column.nullable, _kind(column)) for column in terminations.columns
}
