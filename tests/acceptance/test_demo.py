"""``orchestrator demo``: it ends well within a minute, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "orchestrator", "demo")
DEMO_MAX_S = 120.0
DURATION = r"(?:(\d+) min)? ?(?:(\d+) s)?"
FORECAST = re.compile(
    rf"{DURATION} elapsed, last instance stopped in about {DURATION} \(90 %[^:]*: [^:]*: (.*)"
)
STOPPED = re.compile(r"(?:settling|verified) (\d+)")
JOBS = 62


@pytest.fixture
def demo(tmp_path):
    """The demo as a process, with a directory for temporary files of its own."""
    environment = {
        **os.environ,
        "TMPDIR": str(tmp_path),
        "ORCHESTRATOR__SERVER__PORT": "1",
        "COLUMNS": "200",  # a row is a line then
    }
    process = subprocess.Popen(
        DEMO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def children_of(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_until_under_way(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if "draining" in line:
            return
    pytest.fail(f"the demo ended with {process.wait()} before it was under way")


def forecasts(output: str) -> list[tuple[int, int, int]]:
    """When each was printed, when the last instance stops by it (seconds), and how many jobs had.

    Jobs that had finished before are not counted.
    """
    found = []
    for *times, states in FORECAST.findall(output):
        minutes, seconds, left_minutes, left_seconds = (int(each or 0) for each in times)
        at_s = 60 * minutes + seconds
        stopped = sum(map(int, STOPPED.findall(states)))
        found.append((at_s, at_s + 60 * left_minutes + left_seconds, stopped))
    return found


@pytest.mark.timeout(150)
def test_everything_is_as_it_should_be(demo, tmp_path):
    """Exit code 0, every group as expected, no file left, and no forecast far off."""
    output, _ = demo.communicate(timeout=DEMO_MAX_S)
    assert demo.returncode == 0, output
    rows = [line for line in output.splitlines() if line.startswith("│")]
    assert len(rows) == 12
    assert all(row.rstrip(" │").endswith("yes") for row in rows)
    assert "TerminateJob:" in output
    assert "faults injected by the simulator, not counted above: " in output
    assert not list(tmp_path.iterdir())
    ends_s = forecasts(output)
    ended_s = ends_s[-1][1]
    # On a busy machine, a third of the time may pass before a tenth of the jobs have stopped.
    late = [
        end_s for at_s, end_s, stopped in ends_s if at_s >= ended_s / 3 and stopped >= JOBS / 10
    ]
    assert len(late) > 5
    assert all(ended_s / 2 <= end_s <= 2 * ended_s for end_s in late), ends_s


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(demo, tmp_path, number):
    """No process and no file, and the exit code of the signal."""
    wait_until_under_way(demo)
    children = children_of(demo.pid)
    assert len(children) == 2
    assert len(list(tmp_path.iterdir())) == 1
    demo.send_signal(number)
    output, _ = demo.communicate(timeout=20)
    assert demo.returncode == 128 + number, output
    assert not [pid for pid in children if alive(pid)]
    assert not list(tmp_path.iterdir())


def test_children_do_not_outlive_a_demo_that_is_killed(demo):
    """Its child processes see the end of their standard input."""
    wait_until_under_way(demo)
    children = children_of(demo.pid)
    demo.kill()
    end_s = time.monotonic() + 20
    while still := [pid for pid in children if alive(pid)]:
        assert time.monotonic() < end_s, f"still there: {still}"
        time.sleep(0.1)
