"""Suppression of repeated log messages: logged once, then a summary with the number of repeats."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10.0
MESSAGES_MAX: Final = 1_000
"""Most messages that are tracked; other messages are logged every time."""


@dataclass(slots=True)
class _Window:
    record: logging.LogRecord
    ends_at_s: float
    repeats: int = 0


class Repeats:
    """The messages that were logged within the last ten seconds, and their repeats since."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], _Window] = {}

    def is_new(self, record: logging.LogRecord, now_s: float) -> bool:
        """Return whether to log ``record``; count it instead if it repeats one of the window."""
        failure = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, record.getMessage(), failure)
        window = self._windows.get(key)
        if window is not None:
            window.repeats += 1
            return False
        if len(self._windows) < MESSAGES_MAX:
            self._windows[key] = _Window(record, now_s + WINDOW_S)
        return True

    def ended(self, now_s: float) -> list[logging.LogRecord]:
        """Return the summaries of the repeated messages whose windows are over."""
        summaries = []
        while self._windows:
            # All windows have the same length, so the oldest ends first.
            key, window = next(iter(self._windows.items()))
            if window.ends_at_s > now_s:
                break
            del self._windows[key]
            if window.repeats:
                summaries.append(_summary(window))
        return summaries


def _summary(window: _Window) -> logging.LogRecord:
    message = (
        f"{window.record.getMessage()} (repeated {window.repeats:,} times within {WINDOW_S:g} s)"
    )
    changes = {"msg": message, "args": (), "exc_info": None, "exc_text": None, "stack_info": None}
    return logging.makeLogRecord(window.record.__dict__ | changes)
