"""Distribution of drain durations: a log-normal, estimated from other drains.

How long the drains of one workload take is not known to be log-normal, but it is close enough as
long as the estimate says how uncertain it is. Therefore the result is not the best fit but all
fits that explain the drains about as well, each with its probability. What is common to all drains,
such as a median that is still uncertain, then moves all of them together.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.lognormal import LogNormal, survival

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PER_DOUBLING: Final = 4
BUCKETS_S: Final = tuple(2 ** (step / PER_DOUBLING) for step in range(17 * PER_DOUBLING + 1))
"""Bounds of the buckets in which durations are counted: 1 s, 1.19 s, 1.41 s ... 36 h."""
SPREADS: Final = (0.1, 0.16, 0.25, 0.4, 0.63, 1.0, 1.6)
"""Spreads that are fitted, each with a median in the middle of each bucket."""
SPREAD: Final = 0.3
"""Prior median of the spread."""
SPREAD_UNCERTAINTY: Final = 0.6
"""Prior standard deviation of the logarithm of the spread."""
REACH: Final = 4 * PER_DOUBLING
"""Number of buckets by which a median may lie outside of the durations: a factor of 16."""
EVIDENCE_MAX: Final = 30
"""Weight of all drains together, in drains.

More of them do not make the estimate surer: drains of one workload resemble each other, and the
next ones need not, nor are they exactly log-normal.
"""
LEAST: Final = math.exp(-3)
"""Fits that are less probable than this, relative to the best one, are left out."""


def bucket(duration_s: float) -> int:
    """Return the bucket of a duration: the number of bounds in BUCKETS_S that it has reached.

    Durations above the last bound are counted in the bucket below it.
    """
    return min(bisect(BUCKETS_S, duration_s), len(BUCKETS_S) - 1)


def middle_s(index: int) -> float:
    """Return a duration in the middle of this bucket."""
    return 2 ** ((index - 0.5) / PER_DOUBLING)


@dataclass(frozen=True, slots=True)
class Durations:
    """Distribution of drain durations.

    ``fits``: log-normals, with probabilities that sum up to 1. ``one``: the duration of a single
    drain, as one log-normal with the mean and the variance of all fits.
    """

    fits: tuple[tuple[float, LogNormal], ...]
    one: LogNormal

    def rest(self, passed_s: float) -> LogNormal:
        """Return the remaining time of a drain that has lasted ``passed_s`` and has not ended."""
        return self.one.rest(passed_s)

    def all_ended(self, drains: Sequence[tuple[int, float, float]]) -> float:
        """Return the probability that all of these drains have ended.

        ``drains``: their number, how long they will have lasted, and how long they have lasted now.
        """
        return sum(
            share
            * math.prod(
                (1 - fit.above(seconds, passed_s=passed_s)) ** jobs
                for jobs, seconds, passed_s in drains
            )
            for share, fit in self.fits
        )


def estimate(stopped: Mapping[int, int], draining: Mapping[int, int]) -> Durations | None:
    """Return the distribution of drain durations; None if no job has stopped yet.

    ``stopped``: jobs by the bucket of the time from the acknowledgement until they were observed as
    stopped. ``draining``: jobs by the bucket of their age. They take longer than their age; without
    them, only the quick drains would count.
    """
    ended = [(index, jobs) for index, jobs in stopped.items() if jobs]
    lasting = [(index, jobs) for index, jobs in draining.items() if jobs]
    if not ended:
        return None
    weight = min(1.0, EVIDENCE_MAX / sum(jobs for _, jobs in ended + lasting))
    medians = range(min(ended)[0] - REACH, max(ended + lasting)[0] + REACH + 1)
    scores = {}
    for spread in SPREADS:
        ends, lasts = _log_likelihoods(spread)
        prior = -((math.log(spread / SPREAD) / SPREAD_UNCERTAINTY) ** 2) / 2
        for median in medians:
            score = sum(jobs * ends[index - median] for index, jobs in ended)
            score += sum(jobs * lasts[index - median] for index, jobs in lasting)
            scores[median, spread] = prior + weight * score
    best = max(scores.values())
    shares = {fit: math.exp(score - best) for fit, score in scores.items()}
    return _distribution({fit: share for fit, share in shares.items() if share > LEAST})


def _distribution(shares: Mapping[tuple[int, float], float]) -> Durations:
    total = sum(shares.values())
    fits = tuple(
        (share / total, LogNormal(median_s=middle_s(median), spread=spread))
        for (median, spread), share in shares.items()
    )
    mean = sum(share * math.log(fit.median_s) for share, fit in fits)
    variance = sum(
        share * (fit.spread**2 + (math.log(fit.median_s) - mean) ** 2) for share, fit in fits
    )
    return Durations(fits, LogNormal(median_s=math.exp(mean), spread=math.sqrt(variance)))


@cache
def _log_likelihoods(spread: float) -> tuple[dict[int, float], dict[int, float]]:
    """Return the log-likelihoods that a drain ends in a bucket, and that it lasts longer.

    The keys are the distances of that bucket from the bucket of the median.
    """
    width = math.log(2) / PER_DOUBLING / spread
    most = len(BUCKETS_S) + REACH
    distances = range(-most, most + 1)
    ends = {
        each: _log(survival((abs(each) - 0.5) * width) - survival((abs(each) + 0.5) * width))
        for each in distances
    }
    return ends, {each: _log(survival(each * width)) for each in distances}


def _log(share: float) -> float:
    return math.log(max(share, 1e-300))
