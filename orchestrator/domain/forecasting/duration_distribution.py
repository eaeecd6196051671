"""Distribution of drain durations, estimated from the drains that have ended."""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.lognormal import P50, P90, STANDARD_NORMAL, LogNormal, first_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PER_DOUBLING: Final = 4
BUCKETS_S: Final = tuple(2 ** (step / PER_DOUBLING) for step in range(17 * PER_DOUBLING + 1))
"""Bounds of the buckets in which durations are counted: 1 s, 1.19 s, 1.41 s ... 36 h."""
SPREAD: Final = 0.5
"""Prior spread of the durations: the standard deviation of their logarithm."""
SPREAD_WEIGHT: Final = 2.0
"""Weight of the prior spread, in number of known durations."""


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
    """Survival function of drain durations.

    ``longer[i]``: the share of drains that take longer than BUCKETS_S[i], up to the longest known
    duration. ``all_drains``: a log-normal fitted to all drains, used beyond that duration.
    """

    longer: tuple[float, ...]
    all_drains: LogNormal

    def longer_than(self, seconds: float, *, passed_s: float = 0.0) -> float:
        """Return the share longer than ``seconds``, of the drains longer than ``passed_s``."""
        longest_s = BUCKETS_S[len(self.longer) - 1]
        if passed_s >= longest_s:
            return self.all_drains.above(seconds, passed_s=passed_s)
        if seconds <= longest_s:
            return self._share_longer(seconds) / self._share_longer(passed_s)
        beyond = self.all_drains.above(seconds, passed_s=longest_s)
        return self.longer[-1] * beyond / self._share_longer(passed_s)

    def rest(self, passed_s: float) -> LogNormal:
        """Return the remaining time of a drain that has lasted ``passed_s`` and has not ended."""

        def ended(seconds: float) -> float:
            return 1 - self.longer_than(passed_s + seconds, passed_s=passed_s)

        return LogNormal.of(first_s(lambda s: ended(s) >= P50), first_s(lambda s: ended(s) >= P90))

    def _share_longer(self, seconds: float) -> float:
        """Return the share that takes longer than this; valid up to the longest known duration."""
        index = bucket(seconds)
        if index == 0:
            return 1.0
        if index == len(self.longer):
            return self.longer[-1]
        more, fewer = self.longer[index - 1], self.longer[index]
        return more - (more - fewer) * math.log2(seconds / BUCKETS_S[index - 1]) * PER_DOUBLING


def kaplan_meier(stopped: Mapping[int, int], draining: Mapping[int, int]) -> Durations | None:
    """Return the Kaplan-Meier estimate of drain durations; None if no job has stopped yet.

    ``stopped``: jobs by the bucket of the time from the acknowledgement until they were observed as
    stopped. ``draining``: jobs by the bucket of their age. They take longer than their age; without
    them, only the quick drains would count. One additional job is assumed to outlast all others.
    """
    ended_in = [index for index, jobs in sorted(stopped.items()) if jobs]
    if not ended_in:
        return None
    share, longer, points = 1.0, [], []
    at_risk = 1 + sum(stopped.values()) + sum(draining.values())
    for index in range(ended_in[-1] + 1):
        ended, censored = stopped.get(index, 0), draining.get(index, 0)
        fewer = share * (1 - ended / (at_risk - censored / 2))
        if ended:
            z = STANDARD_NORMAL.inv_cdf(1 - (share + fewer) / 2)
            points.append((ended, z, math.log(middle_s(index))))
        longer.append(fewer)
        share, at_risk = fewer, at_risk - ended - censored
    return Durations(tuple(longer), _fitted(points))


def _fitted(points: Sequence[tuple[int, float, float]]) -> LogNormal:
    """Return the log-normal nearest to the points (jobs, standard score, log of the duration)."""
    jobs = sum(count for count, _, _ in points)
    mean_z = sum(count * z for count, z, _ in points) / jobs
    mean_log_s = sum(count * log_s for count, _, log_s in points) / jobs
    covariance = sum(count * (z - mean_z) * (log_s - mean_log_s) for count, z, log_s in points)
    variance = sum(count * (z - mean_z) ** 2 for count, z, _ in points)
    spread = (covariance + SPREAD_WEIGHT * SPREAD) / (variance + SPREAD_WEIGHT)
    return LogNormal(median_s=math.exp(mean_log_s - spread * mean_z), spread=spread)
