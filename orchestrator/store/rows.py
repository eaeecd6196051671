"""A termination's row and its value, each from the other."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from orchestrator.domain.jobs import InstanceCounters, JobState, TaskSeen
from orchestrator.domain.lifecycle import State
from orchestrator.domain.terminations import Look, OnSubmitted, Problem, Termination

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
    "tasks",
    "look",
    "look_at",
    "call_at",
    "first_in_line",
    "in_doubt",
    "failures",
    "acknowledged_at",
    "give_up_at",
    "settle_until",
    "problem",
    "finished_at",
)
"""The columns that a decision changes; the others belong to the request."""


def to_row(termination: Termination) -> dict[str, Any]:
    row = {name: getattr(termination, name) for name in Termination.__dataclass_fields__}
    instances = termination.instances
    row["instances"] = asdict(instances) if instances else None
    row["instances_total"] = instances.total if instances else None
    row["instances_live"] = instances.live if instances else None
    row["tasks"] = [asdict(task) for task in termination.tasks]
    row["problem"] = asdict(termination.problem) if termination.problem else None
    return row


def from_row(row: Mapping[str, Any]) -> Termination:
    values = {name: row[name] for name in Termination.__dataclass_fields__}
    values["on_submitted"] = OnSubmitted(row["on_submitted"])
    values["state"] = State(row["state"])
    values["look"] = Look(row["look"])
    values["job_state"] = JobState(row["job_state"]) if row["job_state"] else None
    values["instances"] = InstanceCounters(**row["instances"]) if row["instances"] else None
    values["tasks"] = tuple(_task(task) for task in row["tasks"])
    values["problem"] = Problem(**row["problem"]) if row["problem"] else None
    return Termination(**values)


def _task(task: dict[str, Any]) -> TaskSeen:
    return TaskSeen(
        name=task["name"],
        state=JobState(task["state"]) if task["state"] else None,
        instances=InstanceCounters(**task["instances"]) if task["instances"] else None,
    )
