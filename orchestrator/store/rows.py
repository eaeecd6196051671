"""A termination's row and its value, each from the other."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.captures import Capture
from orchestrator.domain.confirmations import Unconfirmed, Verdict
from orchestrator.domain.drains import History
from orchestrator.domain.forecast import Forecast
from orchestrator.domain.jobs import InstanceCounters, JobState, TaskSeen, TaskSubmitted
from orchestrator.domain.lifecycle import State
from orchestrator.domain.machines import Machines
from orchestrator.domain.problems import Problem
from orchestrator.domain.terminations import Look, OnSubmitted, Revival, Rung, Termination

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    "look",
    "look_at",
    "call_at",
    "first_in_line",
    "in_doubt",
    "failures",
    "run",
    "called_at",
    "acknowledged_at",
    "give_up_from",
    "settle_from",
    "confirm_from",
    "problem",
    "unconfirmed",
    "finished_at",
    "moved_at",
    "rung",
    "rung_at",
    "rung_round",
    "history",
    "forecast_made_at",
    "forecast_rate_per_s",
    "forecast_p50_at",
    "forecast_p90_at",
    "forecast_stalled_since",
)
"""The columns that a decision changes; the others belong to the request, or to the loops that read
instances and machines and call what is left of them.

A deadline is stored as what it counts from: its length belongs to the request, and another one may
make it longer at any time, also while a decision is under way that knows nothing of it.
"""
_CAPTURE_TIMES: Final = ("counted_at", "began_at", "ended_at")
_MACHINES: Final = ("total", "up", "gone", "listed", "observed_at", "all_observed_at")
_UNCONFIRMED_TIMES: Final = ("since", "last_at", "until")
_FORECAST: Final = ("made_at", "rate_per_s", "p50_at", "p90_at", "stalled_since")


def to_row(termination: Termination) -> dict[str, Any]:
    row = {name: getattr(termination, name) for name in Termination.__dataclass_fields__}
    instances = termination.instances
    row["instances"] = asdict(instances) if instances else None
    row["instances_total"] = instances.total if instances else None
    row["instances_live"] = instances.live if instances else None
    row["tasks"] = [asdict(task) for task in termination.tasks]
    row["problem"] = asdict(termination.problem) if termination.problem else None
    row["unconfirmed"] = _unconfirmed_to_row(row["unconfirmed"]) if row["unconfirmed"] else None
    row["give_up_from"] = _shifted(row.pop("give_up_at"), -termination.give_up_after_s)
    row["settle_from"] = _shifted(row.pop("settle_until"), -termination.settle_s)
    for name in ("capture", "reading"):
        row[name] = capture_to_row(row[name]) if row[name] else None
    machines = row.pop("machines")
    row |= {f"machines_{name}": getattr(machines, name) for name in _MACHINES}
    row["machines_problem"] = asdict(machines.problem) if machines.problem else None
    row["history"] = _history_to_row(termination.history) if termination.history else None
    forecast = row.pop("forecast")
    row |= {f"forecast_{name}": forecast and getattr(forecast, name) for name in _FORECAST}
    row["revival"] = revival_to_row(termination.revival) if termination.revival else None
    return row


def from_row(row: Mapping[str, Any]) -> Termination:
    values = {name: row[name] for name in Termination.__dataclass_fields__ if name in row}
    values["give_up_at"] = _shifted(row["give_up_from"], row["give_up_after_s"])
    values["settle_until"] = _shifted(row["settle_from"], row["settle_s"])
    values["on_submitted"] = OnSubmitted(row["on_submitted"])
    values["state"] = State(row["state"])
    values["look"] = Look(row["look"])
    values["job_state"] = JobState(row["job_state"]) if row["job_state"] else None
    values["instances"] = InstanceCounters(**row["instances"]) if row["instances"] else None
    values["tasks"] = tuple(_task(task) for task in row["tasks"])
    values["problem"] = Problem(**row["problem"]) if row["problem"] else None
    values["unconfirmed"] = _unconfirmed(row["unconfirmed"]) if row["unconfirmed"] else None
    values["rung"] = Rung(row["rung"])
    for name in ("capture", "reading"):
        values[name] = _capture(row[name]) if row[name] else None
    values["machines"] = Machines(
        **{name: row[f"machines_{name}"] for name in _MACHINES},
        problem=Problem(**row["machines_problem"]) if row["machines_problem"] else None,
    )
    values["history"] = _history(row["history"]) if row["history"] else None
    values["forecast"] = forecast_from_row(row) if row["forecast_made_at"] else None
    values["revival"] = _revival(row["revival"]) if row["revival"] else None
    return Termination(**values)


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


def capture_to_row(capture: Capture) -> dict[str, Any]:
    """As it comes back from the database, too: by it another one is told from this."""
    times = {name: _text(getattr(capture, name)) for name in _CAPTURE_TIMES}
    return asdict(capture) | times | {"tasks": [asdict(task) for task in capture.tasks]}


def _capture(row: dict[str, Any]) -> Capture:
    # What was stored by an earlier version lacks what this one has added.
    times = {name: _time(row.get(name)) for name in _CAPTURE_TIMES}
    tasks = tuple(TaskSubmitted(**task) for task in row["tasks"])
    problem = Problem(**row["problem"]) if row["problem"] else None
    return Capture(**row | times | {"tasks": tasks, "problem": problem})


def _history_to_row(history: History) -> dict[str, Any]:
    # Written with every decision, and asdict copies deeply.
    return {name: getattr(history, name) for name in History.__dataclass_fields__}


def _history(row: dict[str, Any]) -> History:
    return History(**row | {"samples": tuple((at, live) for at, live in row["samples"])})


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
