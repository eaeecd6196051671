"""Exponential backoff with jitter."""

from __future__ import annotations


def backoff_s(failures: int, *, base_s: float, max_s: float, jitter: float) -> float:
    """Seconds to wait after ``failures`` failures in a row.

    Doubles from ``base_s`` to ``max_s``; ``jitter`` in [0, 1) takes up to half of it away, so that
    many callers that failed together do not come back together.
    """
    exponent = min(max(failures - 1, 0), 32)
    ceiling_s: float = min(max_s, base_s * 2**exponent)
    return ceiling_s * (1 - jitter / 2)
