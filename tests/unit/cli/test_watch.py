"""``orchestrator watch``, and what it shows."""

from __future__ import annotations

import io
import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from orchestrator.cli.answers import Operation
from orchestrator.cli.displays import as_line, display, duration, roughly
from orchestrator.cli.tables import print_outcomes
from tests.unit.cli.fake import RESET, operation, problem

GET = "GET /v1/operations/op_1"


def of(**jobs: int) -> Operation:
    return Operation.model_validate(operation(**jobs))  # type: ignore[arg-type]


def on_a_terminal(shown: Operation, *, width: int = 120) -> str:
    """What the display has written, a note included."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, markup=False)
    with display(console) as display_:
        display_.show(shown)
        display_.say("a note\x1b[2J")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tells_each_change_once(daemon, run):
    """Where nothing changed, nothing is printed."""
    same = operation(draining=2)
    end = operation("finished", "verified", verified=2)
    daemon.answer(GET, same, same, same, operation(draining=1, verified=1), end)
    result = run("watch", "op_1")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if "jobs done" in line]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "draining 2",
        "draining 1, verified 1",
        "verified 2",
    ]
    assert "TerminateJob 9.5 of 10 a second" in lines[0]


@pytest.mark.parametrize("absence", [RESET, (503, problem("busy", "x")), (500, b"")])
def test_survives_a_daemon_that_is_away(daemon, run, absence):
    """It says so once, and once that it is back."""
    end = operation("finished", "verified", verified=1)
    daemon.answer(GET, operation(draining=1), absence, absence, absence, end)
    result = run("watch", "op_1")
    assert result.exit_code == 0
    assert result.stdout.count("the daemon is away") == 1
    assert result.stdout.count("the daemon is back") == 1


def test_an_operation_that_vanished_ends_it(daemon, run):
    """An answer that says no is no absence."""
    daemon.answer(GET, operation(draining=1), (404, problem("There is nothing here", "gone")))
    result = run("watch", "op_1")
    assert (result.exit_code, result.stderr) == (2, "There is nothing here: gone\n")


def test_a_finished_operation_is_told_at_once(daemon, run):
    """With the table of outcomes, and where to learn more in a line that is wider than it."""
    operation_id = "op_cvhn50m9r6yjcq1t8gwz"
    end = operation("finished", "partial", verified=1, refused=2)
    daemon.answer(GET, end | {"id": operation_id})
    result = run("watch", "op_1")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[1] == f"{operation_id}: partial after 10 s"
    assert "the cloud refuses for good" in result.stdout
    assert lines[-1] == f"which jobs and why: orchestrator status {operation_id}"


def test_the_outcomes_can_be_read_on_a_narrow_terminal():
    """Nothing is cut off: what is broken goes on in the next line."""
    console = Console(file=io.StringIO(), force_terminal=True, width=40, markup=False)
    print_outcomes(of(already_finished=12345, unverified=1), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "already_finished" in text
    assert "12345" in text
    assert "which jobs and why: orchestrator status op_1\n" in text
    assert "…" not in text


def test_ctrl_c_ends_watching_only(daemon, run):
    """It says that the operation goes on, and how to see it again."""

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)
        return operation(draining=1)

    daemon.answer(GET, operation(draining=1), interrupt)
    result = run("watch", "op_1")
    assert result.exit_code == 130
    assert "operation op_1 goes on: orchestrator watch op_1" in result.stderr


def test_nobody_there_at_first_is_an_error(run, daemon):
    """A wrong URL is not waited for."""
    daemon.answer(GET, RESET)
    assert run("watch", "op_1").exit_code == 3


def test_bars_on_a_terminal():
    """All that the lines tell, and notes above the bars."""
    text = on_a_terminal(of(draining=3, verified=1))
    for told in ("1 of 4", "20 of 30 (1 jobs not counted)", "TerminateJob 9.5 of 10 a second"):
        assert told in text
    assert "draining 3, verified 1" in text
    assert "a note\n" in text.replace("\x1b[2K", "")


def test_bars_before_anything_is_counted():
    """Unknown totals are shown as unknown."""
    document = operation(queued=2)
    document["progress"]["instances"] |= {"live": 0, "down": 0, "total": 0, "jobs_not_counted": 2}
    document["progress"]["quota"] |= {"allowed_per_s": None, "configured_per_s": None}
    text = on_a_terminal(Operation.model_validate(document))
    assert "0 of 0 (2 jobs not counted)" in text
    assert "9.5 of ? a second" in text
    assert "elapsed\x1b" in text or "elapsed\n" in text


def test_a_narrow_terminal_shows_the_texts_without_bars():
    """Broken between words, so that no figure and no state is cut."""
    text = on_a_terminal(of(draining=3, already_finished=1), width=40)
    words = " ".join(text.split())
    for told in ("20 of 30 (1 jobs not counted)", "9.5 of 10 a second", "already_finished 1"):
        assert told in words
    assert "━" not in text
    assert "…" not in text


def test_when_it_is_over_is_told_beside_the_time_that_passed(daemon, run):
    """In whole minutes, once these are enough to know."""
    now = datetime.now(UTC)
    document = operation(draining=1)
    eta = {"p50": now + timedelta(seconds=210), "p90": now + timedelta(seconds=400)}
    document["progress"]["eta"] = {name: at.isoformat() for name, at in eta.items()}
    daemon.answer(GET, document, operation("finished", "verified", verified=1))
    assert "elapsed, over in 4 min (90 %: 7 min): draining 1" in run("watch", "op_1").stdout


def test_one_that_stalls_is_told_once_and_with_the_time(daemon, run):
    """Although no count changes then."""
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
def test_what_is_foretold_is_rounded_up(seconds, text):
    """To minutes, where seconds do not matter."""
    assert roughly(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    """At most two units."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("quota", "shown"),
    [
        ({"allowed_per_s": 20.0}, "TerminateJob 9.5 of 20 a second"),
        ({"allowed_per_s": 3.0}, "TerminateJob 9.5 of 20 a second (for now the cloud lets 3.0 thr"),
        ({"allowed_per_s": None, "configured_per_s": None}, "TerminateJob 9.5 of ? a second"),
    ],
)
def test_what_is_used_is_told_of_what_is_configured(quota, shown):
    """A rate that was learnt a moment ago says nothing of the calls before it."""
    document = operation(draining=1)
    document["progress"]["quota"] |= {"configured_per_s": 20} | quota
    line = as_line(Operation.model_validate(document))
    assert shown in line
    assert ("for now" in line) == ("for now" in shown)
