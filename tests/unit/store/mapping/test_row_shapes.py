"""Shapes of a row's JSON documents: what is read, and what is wrong with any other."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

import pytest

from orchestrator.domain.model.batch_job import InstanceCounters
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.store.mapping.row_shapes import faults
from orchestrator.store.mapping.termination_rows import scan_to_row
from orchestrator.store.schema import terminations

COUNTERS: Final = asdict(InstanceCounters(running=3))
PROBLEM: Final = {"code": "InternalError", "message": "", "advice": None}
UNCONFIRMED: Final = {
    "verdict": "missing",
    **dict.fromkeys(("since", "last_at", "until"), "2026-01-01T12:00:00+00:00"),
    "answers": 1,
    "sources": ["DescribeJob"],
}
REVIVAL: Final = {"at": "2026-01-01T12:00:00+00:00", "job_state": "RUNNING"}
WHOLE: Final[list[tuple[str, Any]]] = [
    ("instances", COUNTERS),
    ("tasks", [{"name": "a", "state": None, "instances": COUNTERS}]),
    ("problem", PROBLEM),
    ("unconfirmed", UNCONFIRMED),
    ("capture", scan_to_row(InstanceScan(run=1))),
    ("history", {"samples": [[1, 2.5]], "seen_at": 1, "pause_s": 0.5}),
    ("revival", REVIVAL | {"limit_reached": True, "instances_live": None}),
]
OF_AN_EARLIER_VERSION: Final[list[tuple[str, Any]]] = [
    ("capture", {"run": 1, "tasks": [{"name": "a", "instances": 1}]}),
    ("history", {"samples": [], "seen_at": 1.0}),
    ("revival", REVIVAL),
]


def found(column: str, document: Any) -> list[str]:
    row = dict.fromkeys(terminations.columns.keys()) | {column: document}
    return [fault for name, fault in faults(row) if name == column]


@pytest.mark.parametrize(("column", "document"), [*WHOLE, *OF_AN_EARLIER_VERSION])
def test_a_document_of_this_or_an_earlier_version_is_read(column: str, document: Any) -> None:
    assert found(column, document) == []


@pytest.mark.parametrize(
    ("column", "document", "fault"),
    [
        ("instances", COUNTERS | {"failed": True}, "failed: Input should be a valid integer"),
        ("instances", COUNTERS | {"failed": 1.0}, "failed: Input should be a valid integer"),
        ("instances", COUNTERS | {"lost": 1}, "lost: Extra inputs are not permitted"),
        ("instances", {}, "submitted: Field required"),
        ("tasks", {}, "it: Input should be a valid list"),
        (
            "tasks",
            [{"name": "a", "state": None, "instances": COUNTERS | {"running": "1"}}],
            "0.instances.running: Input should be a valid integer",
        ),
        ("problem", PROBLEM | {"advice": 1}, "advice: Input should be a valid string"),
        (
            "unconfirmed",
            UNCONFIRMED | {"verdict": "x"},
            "verdict: Input should be 'missing', 'forbidden' or 'unreadable'",
        ),
        ("capture", {}, "run: Field required"),
        (
            "history",
            {"samples": [[1, "2"]], "seen_at": 1},
            "samples.0.1: Input should be a valid number",
        ),
        (
            "revival",
            REVIVAL | {"limit_reached": 1},
            "limit_reached: Input should be a valid boolean",
        ),
    ],
)
def test_the_first_fault_of_any_other_is_named_with_its_place(
    column: str, document: Any, fault: str
) -> None:
    assert found(column, document) == [fault]
