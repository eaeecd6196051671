"""``orchestrator watch`` and its display."""

from __future__ import annotations

import io
import os
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.client.models import Operation
from orchestrator.cli.output.progress_display import as_line, bars, display, duration, roughly
from orchestrator.cli.output.tables import print_outcomes
from tests.unit.cli.fake import RESET, operation, problem

GET = "GET /v1/operations/op_1"


def of(**jobs: int) -> Operation:
    return Operation.model_validate(operation(**jobs))  # type: ignore[arg-type]


def on_a_terminal(shown: Operation, *, width: int = 120) -> str:
    """Return what the display wrote, including a message."""
    file = io.StringIO()
    with display(Console(file=file, force_terminal=True, width=width, markup=False)) as display_:
        display_.show(shown)
        display_.print_message("a note\x1b[2J")
    return file.getvalue()


def outcomes(shown: Operation, *, width: int = 80, terminal: bool = False) -> str:
    """Return the table of outcomes."""
    file = io.StringIO()
    print_outcomes(shown, Console(file=file, force_terminal=terminal, width=width, markup=False))
    return file.getvalue()


def test_prints_each_change_once(daemon, run):
    """A poll without changes prints nothing."""
    same = operation(draining=2)
    end = operation("finished", "verified", verified=2)
    daemon.answer(GET, same, same, same, operation(draining=1, verified=1), end)
    result = run("watch", "op_1")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "jobs ended" in line]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "draining 2",
        "draining 1, verified 1",
        "verified 2",
    ]
    assert "TerminateJob 9.5 of 10 per second" in lines[0]


@pytest.mark.parametrize("absence", [RESET, (503, problem("busy", "x")), (500, b"")])
def test_survives_a_daemon_that_is_away(daemon, run, absence):
    """The absence and its end are printed once each."""
    end = operation("finished", "verified", verified=1)
    daemon.answer(GET, operation(draining=1), absence, absence, absence, end)
    result = run("watch", "op_1")
    assert result.exit_code == 0
    assert result.stdout.count("the daemon does not answer") == 1
    assert result.stdout.count("the daemon answers again") == 1


def test_an_operation_that_vanished_ends_it(daemon, run):
    """An error response of the daemon is not an absence."""
    daemon.answer(GET, operation(draining=1), (404, problem("Not found", "gone")))
    result = run("watch", "op_1")
    assert (result.exit_code, result.stderr) == (2, "Not found: gone\n")


def test_a_finished_operation_is_printed_at_once(daemon, run):
    """The table of outcomes is printed, and a wider line with the command for details."""
    operation_id = "op_cvhn50m9r6yjcq1t8gwz"
    end = operation("finished", "partial", verified=1, refused=2)
    daemon.answer(GET, end | {"id": operation_id})
    result = run("watch", "op_1")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1] == f"{operation_id}: partial after 10 s"
    assert "the cloud permanently refuses to terminate it" in result.stdout
    assert lines[-1] == f"which jobs and why: orchestrator status {operation_id}"


@pytest.mark.parametrize("outcome", ["verified", "partial"])
def test_revived_jobs_are_no_success(daemon, run, outcome):
    """Revivals are shown beside any outcome, with the command for details."""
    end = operation("finished", outcome, verified=3)
    end["progress"]["revived"] = 2
    daemon.answer(GET, end)
    result = run("watch", "op_1")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].endswith(": verified 3, 2 REVIVED")
    assert lines[1] == f"op_1: {outcome} after 10 s, 2 REVIVED"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert rows == [
        ["verified", "3", "proven stopped when it ended"],
        ["REVIVED", "2", "of these, running again after they had stopped"],
    ]
    assert lines[-1] == "which jobs and why: orchestrator status op_1"


def test_a_job_that_revives_meanwhile_is_printed_at_once(daemon, run):
    """A line is printed although neither states nor counts change."""
    going, back = operation(draining=1, verified=1), operation(draining=1, verified=1)
    back["progress"]["revived"] = 1
    daemon.answer(GET, going, back, back, operation("finished", "failed", unverified=2))
    lines = [line for line in run("watch", "op_1").stdout.splitlines() if "draining" in line]
    assert [line.endswith("verified 1, 1 REVIVED") for line in lines] == [False, True]


def test_a_time_that_the_clock_makes_impossible_is_not_printed():
    """The clock was set back while the operation ran."""
    end = operation("finished", "verified", verified=1)
    shown = Operation.model_validate(end | {"finished_at": "2025-12-31T23:58:26.200Z"})
    assert outcomes(shown).startswith("op_1: verified\n")
    assert as_line(shown).endswith("9.5 of 10 per second: verified 1")


def test_the_outcomes_can_be_read_on_a_narrow_terminal():
    """Nothing is cut off: broken text continues on the next line."""
    text = outcomes(of(already_finished=12345, unverified=1), width=40, terminal=True)
    assert "already_finished" in text
    assert "12345" in text
    assert "which jobs and why: orchestrator status op_1\n" in text
    assert "…" not in text


def test_ctrl_c_ends_watching_only(daemon, run):
    """The message says that the operation continues, and how to watch it again."""

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return operation(draining=1)

    daemon.answer(GET, operation(draining=1), interrupt)
    result = run("watch", "op_1")
    assert result.exit_code == 130
    assert "operation op_1 continues: orchestrator watch op_1" in result.stderr


def test_no_answer_at_first_is_an_error(run, daemon):
    """The command does not wait for a daemon at a wrong URL."""
    daemon.answer(GET, RESET)
    assert run("watch", "op_1").exit_code == 3


def test_bars_on_a_terminal():
    """Bars show everything that lines show, and messages above the bars."""
    text = on_a_terminal(of(draining=3, verified=1))
    for expected in ("1 of 4", "20 of 30 (1 job not counted)", "TerminateJob 9.5 of 10 per second"):
        assert expected in text
    assert "draining 3, verified 1" in text
    assert "a note\n" in text.replace("\x1b[2K", "")


def test_bars_before_anything_is_counted():
    """Unknown totals are shown as unknown."""
    document = operation(queued=2)
    document["progress"]["instances"] |= {
        "live": 0,
        "stopped": 0,
        "total": 0,
        "jobs_not_counted": 2,
    }
    document["progress"]["quota"] |= {"allowed_per_s": None, "configured_per_s": None}
    text = on_a_terminal(Operation.model_validate(document))
    assert "0 of 0 (2 jobs not counted)" in text
    assert "9.5 of ? per second" in text
    assert "elapsed\x1b" in text or "elapsed\n" in text


def test_a_narrow_terminal_shows_the_texts_without_bars():
    """Text is broken between words, so that no figure and no state is cut."""
    text = on_a_terminal(of(draining=3, already_finished=1), width=40)
    words = " ".join(text.split())
    for expected in ("20 of 30 (1 job not counted)", "9.5 of 10 per second", "already_finished 1"):
        assert expected in words
    assert "━" not in text
    assert "…" not in text


def left_over(state: str, **left: int) -> dict[str, Any]:
    """Return the instances of an operation with jobs in this final state that have not stopped."""
    values = {"jobs_live": 0, "live": 0, "jobs_not_counted": 0} | left
    return {
        "total": 20435,
        "live": values["live"],
        "stopped": 20435 - values["live"],
        "jobs_not_counted": values["jobs_not_counted"],
        "left_by_final_state": {state: values},
    }


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (
            left_over("refused", jobs_live=2, live=100),
            "20335 of 20435 (100 live in 2 refused jobs)",
        ),
        (
            left_over("unverified", jobs_live=1, live=3),
            "20432 of 20435 (3 live in 1 unverified job)",
        ),
        (left_over("refused", jobs_not_counted=2), "20435 of 20435 (2 refused jobs not counted)"),
        (
            left_over("not_found", jobs_live=1, live=1, jobs_not_counted=1),
            "20434 of 20435 (1 live in 1 not_found job; 1 not_found job not counted)",
        ),
        (
            left_over("refused", jobs_not_counted=1) | {"jobs_not_counted": 3},
            "20435 of 20435 (1 refused job not counted; 2 jobs not counted)",
        ),
    ],
)
def test_no_bar_is_full_while_an_instance_is_live_or_not_counted(instances, expected):
    """The display and the final table show which jobs have such instances."""
    document = operation("finished", "partial", refused=3, verified=62)
    document["progress"]["instances"] = instances
    shown = Operation.model_validate(document)
    ended, stopped, _ = bars(shown).tasks
    assert not stopped.finished
    assert stopped.percentage < 100
    assert ended.percentage < 100
    assert expected in on_a_terminal(shown, width=200)
    for part in expected.partition("(")[2].removesuffix(")").split("; "):
        assert f"instances: {part}" in outcomes(shown, width=200)


def test_bars_are_full_once_all_has_stopped():
    document = operation("finished", "verified", verified=2)
    document["progress"]["instances"] = left_over("refused") | {"left_by_final_state": {}}
    ended, stopped, _ = bars(Operation.model_validate(document)).tasks
    assert (ended.percentage, stopped.percentage) == (100, 100)


def expecting(document: dict[str, Any], **seconds: Any) -> dict[str, Any]:
    """Return the operation with these times, in seconds from now (a pair: p50 and p90)."""

    def at(given: float) -> str:
        return (datetime.now(UTC) + timedelta(seconds=given)).isoformat()

    document["progress"] |= {
        name: dict(zip(("p50", "p90"), map(at, given), strict=True))
        if isinstance(given, tuple)
        else at(given)
        for name, given in seconds.items()
    }
    return document


STOPPED = {"total": 30, "live": 0, "stopped": 30, "jobs_not_counted": 0}


@pytest.mark.parametrize(
    ("jobs", "instances", "seconds", "expected"),
    [
        (
            {"draining": 1},
            {},
            {"eta": (210, 400), "verified_eta": (240.2, 430.2)},
            "last instance stopped in about 4 min (90 %: 7 min); verified about 30 s later: ",
        ),
        (
            {"draining": 1},
            {},
            {"eta": (0, 0), "verified_eta": (32.2, 32.2)},
            "last instance stopped in about 1 s (90 %: 1 s); verified about 32 s later",
        ),
        (
            {"draining": 1, "settling": 1},
            {},
            {"eta": (210, 400), "settle_until": 20},
            "elapsed, last instance stopped in about 4 min (90 %: 7 min): ",
        ),
        (
            {"settling": 2, "verified": 1},
            STOPPED,
            {"verified_eta": (23.4, 23.4), "settle_until": 23.4},
            "elapsed, all instances stopped; settle window ends in 23 s: ",
        ),
        (
            {"settling": 2, "refused": 1},
            STOPPED | {"jobs_not_counted": 1},
            {"settle_until": 23.4},
            "elapsed, settle window ends in 23 s: ",
        ),
        (
            {"settling": 2},
            STOPPED,
            {},
            "all instances stopped; waiting for the last polls of jobs and machines: ",
        ),
        ({"settling": 1, "held": 1}, {}, {"settle_until": 23.4}, "elapsed: "),
    ],
)
def test_the_cause_of_the_remaining_time_is_printed(jobs, instances, seconds, expected):
    """Longer times are shown in whole minutes."""
    document = operation(**jobs)
    document["progress"]["instances"] |= instances
    assert expected in as_line(Operation.model_validate(expecting(document, **seconds)))


def test_a_stalled_job_is_printed_once_and_with_the_time(daemon, run):
    """A stall is printed although no count changes."""
    going, stuck = operation(draining=1), operation(draining=1)
    stuck["progress"]["stalled_since"] = "2026-01-01T12:03:09.000Z"
    daemon.answer(GET, going, stuck, stuck, operation("finished", "verified", verified=1))
    lines = [line for line in run("watch", "op_1").stdout.splitlines() if "draining" in line]
    assert ["stalled" in line for line in lines] == [False, True]
    assert "elapsed, stalled since 12:03 UTC: draining 1" in lines[1]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (99, "1 min 39 s"), (100, "2 min"), (181, "4 min"), (7500, "2 h 5 min")],
)
def test_a_forecast_is_rounded_up(seconds, text):
    """Long times are rounded to minutes."""
    assert roughly(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    """A duration has at most two units."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("quota", "shown"),
    [
        ({"allowed_per_s": 20.0}, "TerminateJob 9.5 of 20 per second"),
        (
            {"allowed_per_s": 3.0},
            "TerminateJob 9.5 of 20 per second (the cloud currently accepts 3.0)",
        ),
        ({"allowed_per_s": None, "configured_per_s": None}, "TerminateJob 9.5 of ? per second"),
    ],
)
def test_the_used_quota_is_shown_beside_the_configured_one(quota, shown):
    """A rate that was learnt just now says nothing about earlier calls."""
    document = operation(draining=1)
    document["progress"]["quota"] |= {"configured_per_s": 20} | quota
    line = as_line(Operation.model_validate(document))
    assert shown in line
    assert ("currently" in line) == ("currently" in shown)
