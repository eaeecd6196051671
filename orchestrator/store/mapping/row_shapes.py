"""The types and shapes that the columns of a termination's row must have to be decoded."""

from __future__ import annotations

from dataclasses import MISSING, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import JSON, Boolean, Float, Integer

from orchestrator.domain.audit.document_schema import NOTHING, validation_errors
from orchestrator.domain.bounds import SECONDS_MAX, possible
from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.model.machine_capture import Capture
from orchestrator.domain.model.unconfirmed import Verdict
from orchestrator.domain.regions import REGION, zone_refused
from orchestrator.store.schema import UtcDateTime, terminations

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Column

    from orchestrator.domain.audit.document_schema import Shape

_TEXT: Final[Shape] = (str, NOTHING)
_NUMBER: Final[Shape] = (int, float)
_PROBLEM: Final[Shape] = {"code": str, "message": str, "advice": _TEXT}
_COUNTERS: Final[Shape] = {field.name: int for field in fields(InstanceCounters)}
_TASK: Final[Shape] = {"name": str, "state": _TEXT, "instances": (_COUNTERS, NOTHING)}
_SUBMITTED: Final[Shape] = {"name": str, "instances": int, "env_id?": _TEXT}
_CAPTURE_KINDS: Final[dict[str, Shape]] = {
    "tasks": [_SUBMITTED],
    "problem": (_PROBLEM, NOTHING),
    **dict.fromkeys(("counted_at", "began_at", "ended_at"), _TEXT),
}
# A capture stored by an earlier version lacks the fields that were added since.
_CAPTURE: Final[Shape] = {
    field.name + ("" if field.default is MISSING else "?"): _CAPTURE_KINDS.get(field.name, int)
    for field in fields(Capture)
}
_REVIVAL: Final[Shape] = {
    "at": str,
    "job_state": str,
    "job_end_time?": _TEXT,
    "instances_live?": (int, NOTHING),
    "reterminated_by?": _TEXT,
    "limit_reached?": bool,
}
_UNCONFIRMED: Final[Shape] = {
    "verdict": frozenset(Verdict),
    **dict.fromkeys(("since", "last_at", "until"), str),
    "answers": int,
    "sources": [str],
}
_DOCUMENTS: Final[Mapping[str, Shape]] = {
    "instances": _COUNTERS,
    "tasks": [_TASK],
    "problem": _PROBLEM,
    "machines_problem": _PROBLEM,
    "unconfirmed": _UNCONFIRMED,
    "capture": _CAPTURE,
    "reading": _CAPTURE,
    "history": {"samples": [[_NUMBER]], "seen_at": _NUMBER, "pause_s?": _NUMBER},
    "revival": _REVIVAL,
}

_ANY: Final = frozenset({bool, int, str})
"""Types of which every value is valid."""


def faults(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each column of a termination's row that is wrong, with what is wrong with it."""
    for name, nullable, kind in _COLUMNS:
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
        return next(validation_errors(value, _DOCUMENTS[name], "it"), None)
    if kind is float and type(value) is int:
        return None
    if type(value) is not kind:
        return f"it is not of type {kind.__name__}"
    if isinstance(value, datetime) and not possible(value):
        return f"{value} is not a possible time"
    if isinstance(value, float) and not abs(value) <= SECONDS_MAX:
        return f"{value} is not a possible number"
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


_COLUMNS: Final = [(column.name, column.nullable, _kind(column)) for column in terminations.columns]
