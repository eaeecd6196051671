"""How long drains take, from how long those took that are down."""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from orchestrator.domain.forecasting.lognormal import BELL, P50, P90, LogNormal, first_s

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PER_DOUBLING: Final = 4
BUCKETS_S: Final = tuple(2 ** (step / PER_DOUBLING) for step in range(17 * PER_DOUBLING + 1))
"""Bounds of the buckets in which durations are counted: 1 s, 1.19 s, 1.41 s and so on to 36 h."""
SPREAD: Final = 0.5
"""How far durations lie apart before any is known: the standard deviation of their logarithm."""
SPREAD_WEIGHT: Final = 2.0
"""For how many known ones that counts."""


def bucket(duration_s: float) -> int:
    """The bucket in which a duration is counted: how many of BUCKETS_S it has reached.

    What has reached the last bound is counted with what is nearly that long.
    """
    return min(bisect(BUCKETS_S, duration_s), len(BUCKETS_S) - 1)


def middle_s(index: int) -> float:
    """A duration in the middle of this bucket."""
    return 2 ** ((index - 0.5) / PER_DOUBLING)


@dataclass(frozen=True, slots=True)
class Durations:
    """``longer[i]``: the share of drains that take longer than BUCKETS_S[i].

    The last one is that of the longest known; ``all_drains`` tells how they go on beyond it.
    """

    longer: tuple[float, ...]
    all_drains: LogNormal

    def longer_than(self, seconds: float, *, passed_s: float = 0.0) -> float:
        """The share that takes longer than this, of those longer than ``passed_s``."""
        longest_s = BUCKETS_S[len(self.longer) - 1]
        if passed_s >= longest_s:
            return self.all_drains.above(seconds, passed_s=passed_s)
        if seconds <= longest_s:
            return self._known(seconds) / self._known(passed_s)
        beyond = self.all_drains.above(seconds, passed_s=longest_s)
        return self.longer[-1] * beyond / self._known(passed_s)

    def rest(self, passed_s: float) -> LogNormal:
        """What is left of a drain that has taken this long and has not ended."""

        def over(seconds: float) -> float:
            return 1 - self.longer_than(passed_s + seconds, passed_s=passed_s)

        return LogNormal.of(first_s(lambda s: over(s) >= P50), first_s(lambda s: over(s) >= P90))

    def _known(self, seconds: float) -> float:
        """The share that takes longer than this, up to the longest known."""
        index = bucket(seconds)
        if index == 0:
            return 1.0
        if index == len(self.longer):
            return self.longer[-1]
        more, fewer = self.longer[index - 1], self.longer[index]
        return more - (more - fewer) * math.log2(seconds / BUCKETS_S[index - 1]) * PER_DOUBLING


def learnt(stopped: Mapping[int, int], draining: Mapping[int, int]) -> Durations | None:
    """How long drains take; None where no job is down yet.

    ``stopped``: jobs by the bucket of the time from their acknowledgement until seen down.
    ``draining``: jobs by the bucket of their age: they take longer than that, or only the quick
    ones would count (the estimator of Kaplan and Meier).  One more is taken to outlast them all.
    """
    ended_in = [index for index, jobs in sorted(stopped.items()) if jobs]
    if not ended_in:
        return None
    share, longer, known = 1.0, [], []
    going = 1 + sum(stopped.values()) + sum(draining.values())
    for index in range(ended_in[-1] + 1):
        ended, younger = stopped.get(index, 0), draining.get(index, 0)
        fewer = share * (1 - ended / (going - younger / 2))
        if ended:
            known.append((ended, BELL.inv_cdf(1 - (share + fewer) / 2), math.log(middle_s(index))))
        longer.append(fewer)
        share, going = fewer, going - ended - younger
    return Durations(tuple(longer), _fitted(known))


def _fitted(known: Sequence[tuple[int, float, float]]) -> LogNormal:
    """The log-normal nearest to (jobs, place on the bell, logarithm of the duration)."""
    jobs = sum(count for count, _, _ in known)
    place = sum(count * z for count, z, _ in known) / jobs
    log_s = sum(count * each for count, _, each in known) / jobs
    together = sum(count * (z - place) * (each - log_s) for count, z, each in known)
    apart = sum(count * (z - place) ** 2 for count, z, _ in known)
    spread = (together + SPREAD_WEIGHT * SPREAD) / (apart + SPREAD_WEIGHT)
    return LogNormal(median_s=math.exp(log_s - spread * place), spread=spread)
