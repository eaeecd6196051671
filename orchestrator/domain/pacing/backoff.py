"""Exponential backoff with jitter."""

from __future__ import annotations


def backoff_s(failures: int, *, base_s: float, max_s: float, jitter: float) -> float:
    """Return the seconds to wait after ``failures`` consecutive failures.

    The wait doubles from ``base_s`` up to ``max_s``. ``jitter`` in [0, 1) subtracts up to half of
    it, so that callers that failed at the same time do not retry at the same time.
    """
    exponent = min(max(failures - 1, 0), 32)
    ceiling_s: float = min(max_s, base_s * 2**exponent)
    return ceiling_s * (1 - jitter / 2)
