"""Models of one drain, and the remaining time that they predict from its history.

How instances stop is not documented, and it differs: one after the other, in batches, or most of
them early and a few very late. Therefore several models are fitted, each from several first samples
on. The weight of a model is the likelihood with which it would have predicted, at each sample, the
time of the next one.
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
class DrainModel:
    """Model of a drain: with k live instances, the next one stops after k ** -tail_exponent.

    ``tail_exponent`` also scales the variance of each instance's time. ``batchiness``: the relative
    variance of the whole drain; about 1 / number of batches. ``weight``: the prior weight.
    """

    tail_exponent: float
    batchiness: float
    weight: int

    def expected_work(self, live: int) -> float:
        """Return the expected time until so many instances have stopped, without a unit."""
        return _power_sum(live, self.tail_exponent)

    def variance(self, live: int) -> float:
        """Return the variance of the work."""
        return self.tail_exponent * _power_sum(live, 2 * self.tail_exponent)


MODELS: Final = (
    DrainModel(tail_exponent=0.0, batchiness=0.001, weight=3),
    DrainModel(tail_exponent=0.0, batchiness=0.04, weight=3),
    DrainModel(tail_exponent=0.9, batchiness=0.01, weight=1),
    DrainModel(tail_exponent=1.4, batchiness=0.02, weight=2),
)
"""At an even rate; in batches; at a rate that falls with the remainder; with a few very late ones.

These, SPREAD_MIN and SKIPPED_DENSITY were fitted once, on drains of many kinds, to minimize the
misses of p50 and p90; ``tests/simulation/forecast.py`` measures the quality on other drains.
"""
SPREAD_MIN: Final = 0.22
"""Minimum relative deviation of a drain from any model."""
SKIPPED_DENSITY: Final = 0.3
"""Likelihood of a sample that a model does not predict, since the model starts later."""


def rest(history: DrainHistory) -> LogNormal | None:
    """Return the time from ``last_progress_at`` on; None before any progress, and at the end."""
    if not history.moved or not history.live:
        return None
    fits = [
        _fit(history.samples, model, start)
        for model in MODELS
        for start in range(min(STARTS, len(history.samples) - 1))
    ]
    best = max(log_weight for log_weight, _ in fits)
    weighted = [(math.exp(log_weight - best), remaining) for log_weight, remaining in fits]
    total = sum(weight for weight, _ in weighted)

    def ended(seconds: float) -> float:
        return sum(weight * remaining.below(seconds) for weight, remaining in weighted) / total

    return LogNormal.of(first_s(lambda s: ended(s) >= P50), first_s(lambda s: ended(s) >= P90))


def _fit(
    samples: Sequence[tuple[float, int]], model: DrainModel, start: int
) -> tuple[float, LogNormal]:
    """Return the log-likelihood weight and the remaining time of a model fitted from ``start``."""
    times = [at for at, _ in samples]
    work = [model.expected_work(live) for _, live in samples] + [0.0]
    variances = [model.variance(live) for _, live in samples] + [0.0]
    log_weight = math.log(model.weight) + start * math.log(SKIPPED_DENSITY)
    last = len(samples) - 1
    for now in range(start + 1, last + 1):
        # From the time that it took up to now: the time until the next sample, or until the end.
        past, ahead = work[start] - work[now], work[now] - work[now + 1]
        variance = math.log1p(
            SPREAD_MIN**2
            + model.batchiness * work[start] * (1 / past + 1 / ahead)
            + (variances[start] - variances[now]) / past**2
            + (variances[now] - variances[now + 1]) / ahead**2
        )
        median_s = (times[now] - times[start]) * ahead / past * math.exp(-variance / 2)
        if now < last:
            miss = math.log((times[now + 1] - times[now]) / median_s)
            log_weight -= (math.log(math.tau * variance) + miss**2 / variance) / 2
    return log_weight, LogNormal(median_s=median_s, spread=math.sqrt(variance))


def _power_sum(count: int, exponent: float) -> float:
    """Return approximately 1 ** -exponent + ... + count ** -exponent; exponent is not 1."""
    power = 1 - exponent
    total: float = ((count + 0.5) ** power - 0.5**power) / power
    return total
