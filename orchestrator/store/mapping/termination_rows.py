"""Conversion between a termination's row and its value."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import MISSING, asdict, fields
from datetime import datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.forecasting.drain_history import DrainHistory
from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.batch_job import InstanceCounters, JobState, TaskSeen, TaskSubmitted
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineCounts
from orchestrator.domain.model.termination import (
    Captures,
    Drain,
    Escalation,
    EscalationLevel,
    JobStatus,
    OnSubmitted,
    PlannedPoll,
    PollKind,
    Revival,
    RevivalWatch,
    Schedule,
    TerminateCalls,
    Termination,
    TerminationRequest,
)
from orchestrator.domain.model.unconfirmed import Unconfirmed, Verdict
from orchestrator.store.mapping.decoding import UNREADABLE, Unreadable, decoded
from orchestrator.store.mapping.row_shapes import faults
from orchestrator.store.schema import terminations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncConnection

SET_BY_ENGINE: Final = (
    "state",
    "revision",
    "evidence",
    "job_name",
    "job_state",
    "job_end_time",
    "job_next_action",
    "observed_at",
    "instances",
    "instances_total",
    "instances_live",
    "instances_observed_at",
    "instances_submitted",
    "tasks",
    "poll_kind",
    "next_poll_at",
    "terminate_after",
    "priority",
    "outcome_unknown",
    "failures",
    "run",
    "calls_begun_at",
    "first_sent_at",
    "acknowledged_at",
    "give_up_from",
    "settle_from",
    "confirm_from",
    "problem",
    "unconfirmed",
    "finished_at",
    "last_progress_at",
    "escalation_level",
    "escalation_started_at",
    "escalation_round",
    "history",
    "forecast_made_at",
    "forecast_rate_per_s",
    "forecast_p50_at",
    "forecast_p90_at",
    "forecast_stalled_since",
)
"""The columns that a decision changes. The others belong to the request, or to the loops that read
instances and machines and terminate the remaining ones.

A deadline is stored as the time it counts from. Its length belongs to the request, and another
request may extend it at any time, also while a decision is being made without knowing that.
"""
PLANNED_POLL: Final = (
    terminations.c.id,
    terminations.c.region,
    terminations.c.state,
    terminations.c.next_poll_at,
)
"""The columns of a planned poll."""
SET_BY_COUNT: Final = (
    "instances",
    "instances_total",
    "instances_live",
    "instances_observed_at",
    "tasks",
    "last_progress_at",
    "history",
    "forecast_made_at",
    "forecast_rate_per_s",
    "forecast_p50_at",
    "forecast_p90_at",
    "forecast_stalled_since",
)
"""Those of these columns that only a read with instance counters changes while a job drains."""
_SCAN_TIMES: Final = ("counted_at", "began_at", "ended_at")
_MACHINES: Final = ("total", "up", "gone", "listed", "observed_at", "all_observed_at")
_UNCONFIRMED_TIMES: Final = ("since", "last_at", "until")
_FORECAST: Final = ("made_at", "rate_per_s", "p50_at", "p90_at", "stalled_since")


def to_row(termination: Termination) -> dict[str, Any]:
    row = {name: getattr(termination, name) for name in _OWN_FIELDS}
    for part, columns in _COLUMNS.items():
        value = getattr(termination, part)
        row |= {column: getattr(value, name) for name, column in columns.items()}
    instances = termination.drain.counters
    row["instances"] = asdict(instances) if instances else None
    row["instances_total"] = instances.total if instances else None
    row["instances_live"] = instances.live if instances else None
    row["tasks"] = [asdict(task) for task in termination.drain.tasks]
    row["problem"] = asdict(termination.problem) if termination.problem else None
    row["unconfirmed"] = _unconfirmed_to_row(row["unconfirmed"]) if row["unconfirmed"] else None
    row["give_up_from"] = _shifted(row.pop("give_up_at"), -termination.request.give_up_after_s)
    row["settle_from"] = _shifted(row.pop("settle_until"), -termination.request.settle_s)
    for name in ("capture", "rescan"):
        row[name] = scan_to_row(row[name]) if row[name] else None
    machines = row.pop("machines")
    row |= {f"machines_{name}": getattr(machines, name) for name in _MACHINES}
    row["machines_problem"] = asdict(machines.problem) if machines.problem else None
    row["history"] = _history_to_row(row["history"]) if row["history"] else None
    forecast = row.pop("forecast")
    row |= {f"forecast_{name}": forecast and getattr(forecast, name) for name in _FORECAST}
    row["revival"] = revival_to_row(row["revival"]) if row["revival"] else None
    return row


def from_row(row: Mapping[str, Any]) -> Termination:
    """Decode a row; raises ValueError, with the faulty columns, if it cannot be decoded."""
    _raise_faults(faults(row))
    return _termination({name: read(row) for name, read in _READERS.items()})


def planned_poll_from_row(row: Mapping[str, Any]) -> PlannedPoll:
    """Decode a row of PLANNED_POLL; raises ValueError as :func:`from_row` does."""
    _raise_faults(faults(row, PLANNED_POLL))
    return PlannedPoll(
        termination_id=row["id"],
        region=row["region"],
        state=State(row["state"]),
        next_poll_at=row["next_poll_at"],
    )


def _raise_faults(found: Iterable[tuple[str, str]]) -> None:
    if wrong := [f"{name}: {why}" for name, why in found]:
        raise ValueError("; ".join(wrong))


def _termination(values: Mapping[str, Any]) -> Termination:
    """Build a termination of decoded values; a part takes those of its fields that are present."""
    parts = {
        part: _PARTS[part](
            **{name: values[column] for name, column in columns.items() if column in values}
        )
        for part, columns in _COLUMNS.items()
    }
    return Termination(**{name: values[name] for name in _OWN_FIELDS if name in values}, **parts)


async def all_shown(
    connection: AsyncConnection, statement: Select[Any]
) -> list[tuple[Mapping[str, Any], Termination]]:
    """Read the rows of an ordered statement with their terminations, to be shown."""
    rows = await decoded(connection, statement, lambda row: (row, from_row(row)))
    return [(row.row, _decode_partly(row)) if isinstance(row, Unreadable) else row for row in rows]


def _decode_partly(unreadable: Unreadable) -> Termination:
    """Decode the readable part of a row, to be shown; no decision may be made on it.

    A field that cannot be decoded is None, or has the value of a new termination.
    """
    wrong = dict(faults(unreadable.row))
    row = {name: None if name in wrong else value for name, value in unreadable.row.items()}
    values: dict[str, Any] = dict.fromkeys(_REQUIRED)
    for name, read in _READERS.items():
        with suppress(*UNREADABLE):
            value = read(row)
            if value is not None:
                values[name] = value
    values["set_aside"] = f"its row in the database cannot be read: {unreadable.why}"
    return _termination(values)


def _forecast(row: Mapping[str, Any]) -> Forecast | None:
    return forecast_from_row(row) if row["forecast_made_at"] else None


def _machines(row: Mapping[str, Any]) -> MachineCounts:
    problem = _problem(row["machines_problem"])
    return MachineCounts(**{name: row[f"machines_{name}"] for name in _MACHINES}, problem=problem)


def _unconfirmed_to_row(unconfirmed: Unconfirmed) -> dict[str, Any]:
    times = {name: _text(getattr(unconfirmed, name)) for name in _UNCONFIRMED_TIMES}
    return asdict(unconfirmed) | times


def _unconfirmed(row: dict[str, Any]) -> Unconfirmed:
    times = {name: datetime.fromisoformat(row[name]) for name in _UNCONFIRMED_TIMES}
    verdict, sources = Verdict(row["verdict"]), tuple(row["sources"])
    return Unconfirmed(verdict=verdict, sources=sources, answers=row["answers"], **times)


def revival_to_row(revival: Revival) -> dict[str, Any]:
    return asdict(revival) | {"at": revival.at.isoformat()}


def _revival(row: dict[str, Any]) -> Revival:
    seen = {"at": datetime.fromisoformat(row["at"]), "job_state": JobState(row["job_state"])}
    return Revival(**row | seen)


def scan_to_row(scan: InstanceScan) -> dict[str, Any]:
    """Return the JSON document of a scan.

    It equals the stored document of the same scan, so that writers can compare the two.
    """
    times = {name: _text(getattr(scan, name)) for name in _SCAN_TIMES}
    return asdict(scan) | times | {"tasks": [asdict(task) for task in scan.tasks]}


def _scan(row: dict[str, Any]) -> InstanceScan:
    # A document stored by an earlier version lacks the fields that were added since.
    times = {name: _time(row.get(name)) for name in _SCAN_TIMES}
    tasks = tuple(TaskSubmitted(**task) for task in row.get("tasks", ()))
    return InstanceScan(**row | times | {"tasks": tasks, "problem": _problem(row.get("problem"))})


def _problem(row: dict[str, Any] | None) -> ErrorDetail | None:
    return ErrorDetail(**row) if row else None


def _history_to_row(history: DrainHistory) -> dict[str, Any]:
    # Not asdict(), which copies deeply: this is written with every decision.
    return {name: getattr(history, name) for name in DrainHistory.__dataclass_fields__}


def _history(row: dict[str, Any]) -> DrainHistory:
    return DrainHistory(**row | {"samples": tuple((at, live) for at, live in row["samples"])})


def forecast_from_row(row: Mapping[str, Any]) -> Forecast:
    return Forecast(**{name: row[f"forecast_{name}"] for name in _FORECAST})


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _shifted(time: datetime | None, seconds: float) -> datetime | None:
    return time and time + timedelta(seconds=seconds)


def _task(task: dict[str, Any]) -> TaskSeen:
    return TaskSeen(
        name=task["name"],
        state=JobState(task["state"]) if task["state"] else None,
        instances=InstanceCounters(**task["instances"]) if task["instances"] else None,
    )


def _unless_null(name: str, read: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return a reader of a column that may be NULL."""
    return lambda row: None if row[name] is None else read(row[name])


_PARTS: Final[Mapping[str, Any]] = {
    "request": TerminationRequest,
    "job": JobStatus,
    "drain": Drain,
    "schedule": Schedule,
    "calls": TerminateCalls,
    "escalation": Escalation,
    "captures": Captures,
    "watch": RevivalWatch,
}
"""The parts of a termination whose fields have columns of their own."""
_RENAMED: Final = {
    "job": {
        "name": "job_name",
        "state": "job_state",
        "end_time": "job_end_time",
        "next_action": "job_next_action",
    },
    "drain": {
        "counters": "instances",
        "counted_at": "instances_observed_at",
    },
    "calls": {"begun_at": "calls_begun_at"},
    "escalation": {
        "level": "escalation_level",
        "started_at": "escalation_started_at",
        "round": "escalation_round",
        "finished_at": "escalation_finished_at",
    },
    "captures": {
        "machines": "capture",
        "awaited": "awaits_capture",
    },
    "watch": {"began_at": "revival_watch_from", "checked_at": "revival_checked_at"},
}
_COLUMNS: Final = {
    part: {field.name: _RENAMED.get(part, {}).get(field.name, field.name) for field in fields(kind)}
    for part, kind in _PARTS.items()
}
"""The column, or the name in a decoded row, of each field of each part."""
_OWN_FIELDS: Final = [field.name for field in fields(Termination) if field.name not in _PARTS]
_NAMES: Final = (*_OWN_FIELDS, *chain.from_iterable(each.values() for each in _COLUMNS.values()))

_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Any]]] = {
    **{name: itemgetter(name) for name in _NAMES if name in terminations.columns},
    "give_up_at": lambda row: _shifted(row["give_up_from"], row["give_up_after_s"]),
    "settle_until": lambda row: _shifted(row["settle_from"], row["settle_s"]),
    "tasks": lambda row: tuple(_task(task) for task in row["tasks"]),
    "machines": _machines,
    "forecast": _forecast,
    **{
        name: _unless_null(name, read)
        for name, read in (
            ("on_submitted", OnSubmitted),
            ("state", State),
            ("poll_kind", PollKind),
            ("job_state", JobState),
            ("instances", lambda counters: InstanceCounters(**counters)),
            ("problem", _problem),
            ("unconfirmed", _unconfirmed),
            ("escalation_level", EscalationLevel),
            ("capture", _scan),
            ("rescan", _scan),
            ("history", _history),
            ("revival", _revival),
        )
    },
}
"""Reader of each value of a row."""
_REQUIRED: Final = [
    field.name
    for kind in (Termination, TerminationRequest)
    for field in fields(kind)
    if field.default is MISSING and field.name not in _PARTS
]
