"""``orchestrator watch``, and what it shows."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from orchestrator.cli.answers import Operation
from orchestrator.cli.displays import display, duration
from orchestrator.cli.tables import print_outcomes
from orchestrator.cli.watching import WINDOW_S, Pace
from tests.unit.cli.fake import RESET, operation, problem

GET = "GET /v1/operations/op_1"


def of(**jobs: int) -> Operation:
    return Operation.model_validate(operation(**jobs))  # type: ignore[arg-type]


def with_live(live: int, *, not_counted: int = 0, **jobs: int) -> Operation:
    document = operation(**(jobs or {"draining": 4, "verified": 2}))  # type: ignore[arg-type]
    document["progress"]["instances"] |= {"live": live, "jobs_not_counted": not_counted}
    return Operation.model_validate(document)


def on_a_terminal(shown: Operation, down_in_s: float | None, *, width: int = 120) -> str:
    """What the display has written, a note included."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, markup=False)
    with display(console) as display_:
        display_.show(shown, down_in_s)
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
    text = on_a_terminal(of(draining=3, verified=1), 75.0)
    for told in ("1 of 4", "20 of 30 (1 jobs not counted)", "TerminateJob 9.5 of 10 a second"):
        assert told in text
    assert "elapsed, instances down in ~1 min 15 s" in text
    assert "draining 3, verified 1" in text
    assert "a note\n" in text.replace("\x1b[2K", "")


def test_bars_before_anything_is_counted():
    """Unknown totals are shown as unknown."""
    document = operation(queued=2)
    document["progress"]["instances"] |= {"live": 0, "down": 0, "total": 0, "jobs_not_counted": 2}
    document["progress"]["quota"]["allowed_per_s"] = None
    text = on_a_terminal(Operation.model_validate(document), None)
    assert "0 of 0 (2 jobs not counted)" in text
    assert "9.5 of ? a second" in text
    assert "elapsed\x1b" in text or "elapsed\n" in text


def test_a_narrow_terminal_shows_the_texts_without_bars():
    """Broken between words, so that no figure and no state is cut."""
    text = on_a_terminal(of(draining=3, already_finished=1), 75.0, width=40)
    words = " ".join(text.split())
    for told in ("20 of 30 (1 jobs not counted)", "9.5 of 10 a second", "already_finished 1"):
        assert told in words
    assert "━" not in text
    assert "…" not in text


def test_how_long_instances_take_follows_their_pace():
    """Ten a second go down, fifty are live: five seconds."""
    pace = Pace()
    assert pace.down_in_s(with_live(60), at_s=100.0) is None
    assert pace.down_in_s(with_live(50), at_s=101.0) == 5.0


def test_the_pace_forgets_what_is_long_past():
    """Nothing went down over the whole window: nobody knows."""
    pace = Pace()
    pace.down_in_s(with_live(60), at_s=0.0)
    pace.down_in_s(with_live(50), at_s=1.0)
    assert pace.down_in_s(with_live(50), at_s=1.0 + WINDOW_S) is None


@pytest.mark.parametrize(
    "unclear",
    [
        with_live(50, draining=5, queued=1),
        with_live(50, draining=5, held=1),
        with_live(50, draining=5, sending=1),
        with_live(50, draining=5, unverified=1),
        with_live(50, draining=5, refused=1),
        with_live(50, not_counted=1),
        with_live(0, settling=6),
    ],
)
def test_nobody_knows_how_long_what_is_not_going_down_takes(unclear):
    """What is not called, given up or not counted is in no pace, and the pace starts anew."""
    pace = Pace()
    pace.down_in_s(with_live(60), at_s=0.0)
    assert pace.down_in_s(unclear, at_s=1.0) is None
    assert pace.down_in_s(with_live(40), at_s=2.0) is None
    assert (
        pace.down_in_s(with_live(20, settling=2, already_finished=2, not_found=1), at_s=3.0) == 1.0
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    """At most two units."""
    assert duration(seconds) == text


def test_less_than_the_quota_configured_is_told_as_such():
    document = operation(draining=1)
    document["progress"]["quota"] |= {"allowed_per_s": 3, "configured_per_s": 20}
    shown = on_a_terminal(Operation.model_validate(document), None)
    assert "TerminateJob 9.5 of 3 a second (20 configured)" in shown
