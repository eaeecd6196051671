"""Logs without a reader, or with a slow one: nothing waits, and dropped lines are counted."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import pytest

from orchestrator.observability import log_writer, repeats
from orchestrator.observability.log_writer import LogWriter
from orchestrator.observability.loop_steps import LoopSteps
from orchestrator.observability.metrics import Metrics
from orchestrator.observability.repeats import Repeats
from tests.support import HANG_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.services.ports import LiveTerminations

WAITING_LINES: Final = 50


@dataclass
class Piped:
    """Handler that writes into a pipe; ``now_s`` is its time."""

    handler: LogWriter
    reader: int
    writer: int
    now_s: float = 0.0

    def log(
        self,
        message: str,
        *arguments: object,
        level: int = logging.INFO,
        failure: Exception | None = None,
    ) -> None:
        raised = (type(failure), failure, None) if failure else None
        self.handler.handle(
            logging.LogRecord("test", level, __file__, 1, message, arguments, raised)
        )

    def fill(self) -> None:
        """Fill the pipe, so that the next write blocks."""
        blocking = os.get_blocking(self.writer)
        os.set_blocking(self.writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, b"\n")
        os.set_blocking(self.writer, blocking)

    def drain(self) -> None:
        """Read until all queued lines are written."""
        os.set_blocking(self.reader, False)
        while self.handler._done_bytes < self.handler._queued_bytes:
            with suppress(BlockingIOError):
                os.read(self.reader, 65_536)
        os.set_blocking(self.reader, True)

    def written(self) -> list[str]:
        """Return all non-empty lines, after the last one is written."""

        ending = threading.Thread(target=self.end_writer)
        ending.start()
        with os.fdopen(self.reader, encoding="utf-8") as pipe:
            self.reader = -1
            lines = [line for line in pipe.read().split("\n") if line]
        ending.join()
        return lines

    def end_writer(self) -> None:
        """Close the pipe once nothing writes to it: its number may soon be that of another file."""
        self.handler.close()
        self.handler._thread.join()
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1


@pytest.fixture
def piped() -> Iterator[Piped]:
    reader, writer = os.pipe()
    handler = LogWriter(
        writer,
        Repeats(),
        waiting_bytes_max=WAITING_LINES * 100,
        monotonic=lambda: made.now_s,
    )
    made = Piped(handler, reader, writer)
    yield made
    if made.reader >= 0:
        os.close(made.reader)  # A write that waits for the reader fails now.
    made.end_writer()


LINES: Final = [f"{number:099}" for number in range(1000)]


def test_logging_does_not_wait_and_drops_what_does_not_fit(piped: Piped) -> None:
    piped.fill()
    for line in LINES:
        piped.log(line)
    assert piped.handler.dropped == 1000 - WAITING_LINES
    assert piped.written() == LINES[:WAITING_LINES]


def test_once_they_are_read_again_the_number_of_dropped_lines_is_logged(piped: Piped) -> None:
    piped.fill()
    for line in LINES:
        piped.log(line)
    piped.drain()
    piped.log("read again")
    *_, summary, last = piped.written()
    assert summary == "950 log lines were dropped: standard error is read too slowly"
    assert last == "read again"
    assert piped.handler.dropped == 950


def test_flush_waits_for_lines_only_while_they_are_read(piped: Piped) -> None:
    piped.log("short")
    piped.handler.flush()
    assert os.read(piped.reader, 100) == b"short\n"
    piped.fill()
    piped.log("long")
    piped.handler.flush()
    assert piped.written() == ["long"]


def test_lines_that_cannot_be_written_are_counted(piped: Piped) -> None:
    os.close(piped.reader)
    piped.reader = -1
    piped.log("nobody")
    piped.handler.flush()
    assert piped.handler.dropped == 1


def test_a_pipe_that_was_made_non_blocking_gets_whole_lines(piped: Piped) -> None:
    os.set_blocking(piped.writer, False)
    piped.fill()
    piped.log("x" * 3000)
    piped.log("y" * 1500)
    assert piped.written() == ["x" * 3000, "y" * 1500]


def test_a_message_that_cannot_be_formatted_is_named_in_the_log(piped: Piped) -> None:
    piped.log("%d jobs", "three")
    piped.log("next")
    first, second = piped.written()
    assert "cannot be formatted: '%d jobs'" in first
    assert "test_log_writer.py:1 " in first
    assert second == "next"


def test_a_repeated_message_is_logged_once_and_then_how_often_it_was_repeated(
    piped: Piped,
) -> None:
    """Another level, text or exception is another message; after ten seconds it is logged again."""
    for _ in range(1001):
        piped.log("none left")
        piped.log("none left", level=logging.ERROR)
        piped.log("none left", failure=OSError("x"))
        piped.log("none left for %s", "job-1")
        piped.log("none left for %s", "job-2")
    piped.now_s = repeats.WINDOW_S
    piped.log("none left")

    written = [each for each in piped.written() if each.startswith("none")]
    once = ["none left"] * 3 + ["none left for job-1", "none left for job-2"]
    summaries = [f"{each} (repeated 1,000 times within 10 s)" for each in once]
    assert written == [*once, *summaries, "none left"]


async def test_the_number_of_repeats_is_logged_without_another_message(
    piped: Piped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "TICK_S", 0.01)
    for _ in range(3):
        piped.log("none left")
    piped.now_s = repeats.WINDOW_S
    os.set_blocking(piped.reader, False)
    written = b""
    async with asyncio.timeout(HANG_S):
        while written.count(b"\n") < 2:
            await asyncio.sleep(0.01)
            with suppress(BlockingIOError):
                written += os.read(piped.reader, 1000)
    assert written.splitlines()[1] == b"none left (repeated 2 times within 10 s)"


def test_the_number_of_repeats_is_logged_at_the_end(piped: Piped) -> None:
    for _ in range(3):
        piped.log("none left")
    piped.handler.flush()
    assert piped.written() == ["none left", "none left (repeated 2 times within 10 s)"]


def test_messages_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "MESSAGES_MAX", 3)
    remembered = Repeats()
    for number in range(10):
        record = logging.makeLogRecord({"msg": f"message {number}"})
        assert remembered.is_new(record, 0.0)
        assert remembered.is_new(record, 0.0) is (number >= 3)
    assert len(remembered._windows) == 3


async def no_live() -> dict[str, LiveTerminations]:
    return {}


async def test_metrics_count_dropped_lines(piped: Piped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [piped.handler])
    piped.fill()
    for line in LINES:
        piped.log(line)
    metrics = Metrics(
        violations={},
        calls={},
        ended={},
        steps=LoopSteps(),
        live=no_live,
        now=lambda: datetime.now(UTC),
    )
    assert "log_lines_dropped_total 950.0" in (await metrics.exposition()).decode()


CONFIGURED: Final = """
import logging
from orchestrator.observability import logs
logs.configure(level="info", json=True)
"""


def test_the_last_line_is_written_before_a_crash() -> None:
    code = (
        f"{CONFIGURED}\nlogging.getLogger().info('last')\nlogs.flush()\nraise SystemError('crash')"
    )
    lines = run(code)
    assert '"event": "last"' in lines[0]
    assert lines[-1] == "SystemError: crash"


def test_the_last_line_is_written_at_the_end_of_the_interpreter() -> None:
    lines = run(f"{CONFIGURED}\nfor n in range(1000): logging.getLogger().info('line %d', n)")
    assert len(lines) == 1000
    assert '"event": "line 999"' in lines[-1]


def run(code: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True
    )
    return ended.stderr.splitlines()


def test_without_standard_error_nothing_is_logged_anywhere(tmp_path) -> None:
    """Its descriptor is used by the next file that is opened, such as the database."""
    path = tmp_path / "database"
    code = f"opened = open({str(path)!r}, 'w')\n{CONFIGURED}\nlogging.getLogger().error('x')"
    closed = "import os, sys; os.close(2); os.execv(sys.executable, sys.argv[1:])"
    subprocess.run([sys.executable, "-c", closed, sys.executable, "-c", code], check=True)
    assert path.read_text(encoding="utf-8") == ""
