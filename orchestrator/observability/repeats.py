"""The same message over and over: logged once, and then how often it came again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 10.0
MESSAGES_MAX: Final = 1_000
"""How many messages are remembered; beyond them each is logged, repeated or not."""


@dataclass(slots=True)
class _Window:
    record: logging.LogRecord
    ends_at_s: float
    repeats: int = 0


class Repeats:
    """What was logged within the last ten seconds, and how often since."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], _Window] = {}

    def is_new(self, record: logging.LogRecord, now_s: float) -> bool:
        """Whether to log it; a message that came within the last ten seconds is counted instead."""
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
        """What to log of the messages whose ten seconds are over: how often they were repeated."""
        summaries = []
        while self._windows:
            # All are equally long: the first that began is the first to end.
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
