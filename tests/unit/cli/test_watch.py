"""``orchestrator watch``, and what it shows."""

from __future__ import annotations

import io
import os
import signal

import pytest
from rich.console import Console

from orchestrator.cli.answers import Operation
from orchestrator.cli.displays import display, duration
from orchestrator.cli.watching import WINDOW_S, Pace
from tests.unit.cli.fake import RESET, operation, problem

GET = "GET /v1/operations/op_1"


def of(**jobs: int) -> Operation:
    return Operation.model_validate(operation(**jobs))  # type: ignore[arg-type]


def with_instances(live: int, down: int) -> Operation:
    document = operation(draining=4, verified=2)
    document["progress"]["instances"] |= {"live": live, "down": down, "total": live + down}
    return Operation.model_validate(document)


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
    """With the table of outcomes, and where to learn more."""
    daemon.answer(GET, operation("finished", "partial", verified=1, not_found=2))
    result = run("watch", "op_1")
    assert result.exit_code == 1
    assert "the cloud does not know the job" in result.stdout
    assert "orchestrator status op_1" in result.stdout


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
    console = Console(file=io.StringIO(), force_terminal=True, width=120, markup=False)
    with display(console) as shown:
        shown.show(of(draining=3, verified=1), 75.0)
        shown.say("a note\x1b[2J")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for told in ("1 of 4", "20 of 30 (1 jobs not counted)", "TerminateJob 9.5 of 10 a second"):
        assert told in text
    assert "ETA 1 min 15 s" in text
    assert "draining 3, verified 1" in text
    assert "a note\n" in text.replace("\x1b[2K", "")


def test_bars_before_anything_is_counted():
    """Unknown totals are shown as unknown."""
    document = operation(queued=2)
    document["progress"]["instances"] |= {"live": 0, "down": 0, "total": 0, "jobs_not_counted": 2}
    document["progress"]["quota"]["allowed_per_s"] = None
    console = Console(file=io.StringIO(), force_terminal=True, width=120, markup=False)
    with display(console) as shown:
        shown.show(Operation.model_validate(document), None)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0 of 0 (2 jobs not counted)" in text
    assert "9.5 of ? a second" in text
    assert "ETA not known yet" in text


def test_the_eta_follows_the_instances_while_any_is_live():
    """Ten a second go down, fifty are live: five seconds."""
    pace = Pace()
    assert pace.eta_s(with_instances(live=60, down=40), at_s=100.0) is None
    assert pace.eta_s(with_instances(live=50, down=50), at_s=101.0) == 5.0


def test_the_eta_forgets_what_is_long_past():
    """Nothing went down over the whole window: nobody knows."""
    pace = Pace()
    pace.eta_s(with_instances(live=60, down=40), at_s=0.0)
    pace.eta_s(with_instances(live=50, down=50), at_s=1.0)
    assert pace.eta_s(with_instances(live=50, down=50), at_s=1.0 + WINDOW_S) is None


def test_the_eta_starts_anew_with_the_jobs():
    """Four jobs are left when the last instance is down; two a second get done."""
    pace = Pace()
    pace.eta_s(with_instances(live=1, down=99), at_s=0.0)
    assert pace.eta_s(with_instances(live=0, down=100), at_s=1.0) is None
    document = operation(settling=2, verified=4)
    document["progress"]["instances"]["live"] = 0
    assert pace.eta_s(Operation.model_validate(document), at_s=2.0) == 1.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    """At most two units."""
    assert duration(seconds) == text
