"""How much longer a drain takes, by the paces that explain what was seen of it.

How instances go down is not documented, and differs: one after the other, in batches, or most of
them soon and the last ones late.  So several paces are tried, each from several samples on.  Each
counts for as much as it would have foretold, at every sample, when the next one came.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.drain_history import STARTS
from orchestrator.domain.forecasting.lognormal import P50, P90, LogNormal, first_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.forecasting.drain_history import DrainHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """A way to drain: of k instances live, the next to go takes a time of k ** -slowing.

    ``slowing`` is also how much chance there is in each one's time.  ``jerk``: how unevenly the
    whole goes, as one that goes down in about 1 / ``jerk`` batches would.  ``weight``: what it
    counts before anything is seen.
    """

    slowing: float
    jerk: float
    weight: int

    def work(self, live: int) -> float:
        """The time that so many take, without its unit."""
        return _power_sum(live, self.slowing)

    def chance(self, live: int) -> float:
        """The variance of that."""
        return self.slowing * _power_sum(live, 2 * self.slowing)


PACES: Final = (
    Pace(slowing=0.0, jerk=0.001, weight=3),
    Pace(slowing=0.0, jerk=0.04, weight=3),
    Pace(slowing=0.9, jerk=0.01, weight=1),
    Pace(slowing=1.4, jerk=0.02, weight=2),
)
"""Evenly, in batches, slowing down as what is left does, and with a few that take very long.

These, SPREAD_MIN and NOTHING_FORETOLD were fitted once, on drains of many kinds, to what p50 and
p90 missed; ``tests/simulation/forecast.py`` measures how well they do on others.
"""
SPREAD_MIN: Final = 0.22
"""No drain keeps its pace better than that."""
NOTHING_FORETOLD: Final = 0.3
"""The density given to what a pace does not foretell, for it begins later."""


def rest(history: DrainHistory) -> LogNormal | None:
    """Return the time from ``last_progress_at`` on; None before any progress, and at the end."""
    if not history.moved or not history.live:
        return None
    guesses = [
        _guess(history.samples, pace, start)
        for pace in PACES
        for start in range(min(STARTS, len(history.samples) - 1))
    ]
    surest = max(weight for weight, _ in guesses)
    counted = [(math.exp(weight - surest), span) for weight, span in guesses]
    whole = sum(weight for weight, _ in counted)

    def over(seconds: float) -> float:
        return sum(weight * span.below(seconds) for weight, span in counted) / whole

    return LogNormal.of(first_s(lambda s: over(s) >= P50), first_s(lambda s: over(s) >= P90))


def _guess(samples: Sequence[tuple[float, int]], pace: Pace, start: int) -> tuple[float, LogNormal]:
    """What this pace from this sample on says, and the logarithm of what that counts."""
    times = [at for at, _ in samples]
    work = [pace.work(live) for _, live in samples] + [0.0]
    chance = [pace.chance(live) for _, live in samples] + [0.0]
    weight = math.log(pace.weight) + start * math.log(NOTHING_FORETOLD)
    last = len(samples) - 1
    for now in range(start + 1, last + 1):
        # From the time that it took up to now: the time until the next sample, or until the end.
        past, ahead = work[start] - work[now], work[now] - work[now + 1]
        variance = math.log1p(
            SPREAD_MIN**2
            + pace.jerk * work[start] * (1 / past + 1 / ahead)
            + (chance[start] - chance[now]) / past**2
            + (chance[now] - chance[now + 1]) / ahead**2
        )
        median_s = (times[now] - times[start]) * ahead / past * math.exp(-variance / 2)
        if now < last:
            missed = math.log((times[now + 1] - times[now]) / median_s)
            weight -= (math.log(math.tau * variance) + missed**2 / variance) / 2
    return weight, LogNormal(median_s=median_s, spread=math.sqrt(variance))


def _power_sum(count: int, exponent: float) -> float:
    """1 ** -exponent + 2 ** -exponent + ... + count ** -exponent, nearly; exponent is not 1."""
    power = 1 - exponent
    whole: float = ((count + 0.5) ** power - 0.5**power) / power
    return whole
