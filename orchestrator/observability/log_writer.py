"""Log lines written by a thread of their own, so that nothing waits for whoever reads them.

Whoever reads standard error may stall.  Then a write blocks, and in the event loop it would block
the API, the calls to the cloud and the handling of signals.
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
"""How long it may take until the end of a row of repeated messages is told."""


class LogWriter(logging.Handler):
    """Formats each record at once, and has a thread write it to a file descriptor.

    A line is dropped where too many bytes wait, or where it cannot be written.
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
        # The thread changes the first two; whoever logs the others, under the handler's lock.
        self._done_bytes = 0
        self._not_written = 0
        self._queued_bytes = 0
        self._not_queued = 0
        self._dropped_logged = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """How many lines were dropped."""
        return self._not_queued + self._not_written

    def emit(self, record: logging.LogRecord) -> None:
        try:
            now_s = self._monotonic()
            self._queue_repeats(now_s)
            if self._repeats.is_new(record, now_s):
                self._queue(record)
        except Exception:  # noqa: BLE001 - like logging itself: a message never fails its caller
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Tell it in the log; logging itself would write to standard error, and wait for that."""
        message = f"{record.pathname}:{record.lineno} logs what cannot be formatted: {record.msg!r}"
        self._queue(_record(logging.ERROR, message))

    def flush(self) -> None:
        """Wait until all is written, but not longer than 1.5 s: nobody may read it."""
        written = threading.Event()
        self.acquire()
        self._queue_repeats(math.inf)
        self._queue_dropped()
        self._lines.put(written)
        self.release()
        written.wait(FLUSH_TIMEOUT_S)

    def close(self) -> None:
        """End the thread once it has written what waits."""
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
        """Where lines are missing, tell how many."""
        dropped = self.dropped - self._dropped_logged
        if dropped:
            self._dropped_logged += dropped
            message = f"{dropped:,} log lines were dropped: standard error was not read fast enough"
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
        """Tell what nobody logs after; who holds the lock does it, and may wait for this thread."""
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
                except BlockingIOError:  # whoever shares the descriptor made it non-blocking
                    select.select((), (self._descriptor,), ())
        except OSError:
            self._not_written += 1


def _record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord(__name__, level, __file__, 0, message, None, None)
