"""Log handler that writes in its own thread, so that the daemon never waits for the log's reader.

The process that reads standard error may stall. A write then blocks, and a write in the event loop
would block the API, the requests to the cloud and the handling of signals.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import select
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.observability.repeats import Repeats

WAITING_BYTES_MAX: Final = 4 * 1024 * 1024
FLUSH_TIMEOUT_S: Final = 1.5
TICK_S: Final = 1.0
"""Longest delay until the summary of a repeated message is logged."""


class LogWriter(logging.Handler):
    """Formats each record at once, and writes it to a file descriptor in a thread.

    A line is dropped if too many bytes are queued, or if it cannot be written.
    """

    def __init__(
        self,
        descriptor: int,
        repeats: Repeats,
        *,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._repeats = repeats
        self._waiting_bytes_max = waiting_bytes_max
        self._monotonic = monotonic
        self._lines: queue.SimpleQueue[bytes | threading.Event | None] = queue.SimpleQueue()
        # The thread changes the first two; callers change the others, under the handler's lock.
        self._done_bytes = 0
        self._not_written = 0
        self._queued_bytes = 0
        self._not_queued = 0
        self._dropped_logged = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of dropped lines."""
        return self._not_queued + self._not_written

    def emit(self, record: logging.LogRecord) -> None:
        try:
            now_s = self._monotonic()
            self._queue_repeats(now_s)
            if self._repeats.is_new(record, now_s):
                self._queue(record)
        except Exception:  # noqa: BLE001 - a log message must never fail its caller
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Log the error; the default of ``logging`` would write to standard error, and block."""
        place = f"{record.pathname}:{record.lineno}"
        message = f"a log message of {place} cannot be formatted: {record.msg!r}"
        self._queue(_record(logging.ERROR, message))

    def flush(self) -> None:
        """Wait until all lines are written, at most 1.5 s: the reader may have stalled."""
        written = threading.Event()
        self.acquire()
        self._queue_repeats(math.inf)
        self._queue_dropped()
        self._lines.put(written)
        self.release()
        written.wait(FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """Stop the thread after it has written the queued lines."""
        self._lines.put(None)
        super().close()

    def _queue(self, record: logging.LogRecord) -> None:
        line = self._line(record)
        if self._queued_bytes - self._done_bytes + len(line) > self._waiting_bytes_max:
            self._not_queued += 1
            return
        self._queue_dropped()
        self._put(line)

    def _queue_dropped(self) -> None:
        """Log the number of lines that were dropped since the last such message."""
        dropped = self.dropped - self._dropped_logged
        if dropped:
            self._dropped_logged += dropped
            message = f"{dropped:,} log lines were dropped: standard error is read too slowly"
            self._put(self._line(_record(logging.WARNING, message)))

    def _queue_repeats(self, now_s: float) -> None:
        for summary in self._repeats.ended(now_s):
            self._queue(summary)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _put(self, line: bytes) -> None:
        self._queued_bytes += len(line)
        self._lines.put(line)

    def _write_all(self) -> None:
        while True:
            try:
                item = self._lines.get(timeout=TICK_S)
            except queue.Empty:
                self._tick()
                continue
            match item:
                case None:
                    return
                case threading.Event():
                    item.set()
                case bytes():
                    self._write(item)
                    self._done_bytes += len(item)

    def _tick(self) -> None:
        """Log summaries that no later message triggers.

        It does not wait for the lock: its holder queues the summaries itself, and may wait for this
        thread.
        """
        if self.lock is not None and self.lock.acquire(blocking=False):
            try:
                self._queue_repeats(self._monotonic())
                self._queue_dropped()
            finally:
                self.lock.release()

    def _write(self, line: bytes) -> None:
        try:
            while line:
                try:
                    line = line[os.write(self._descriptor, line) :]
                except BlockingIOError:  # a process that shares the descriptor made it non-blocking
                    select.select((), (self._descriptor,), ())
        except OSError:
            self._not_written += 1


def _record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, message, None, None)
