"""Log-normal distribution of an uncertain duration: its logarithm is normally distributed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

STANDARD_NORMAL: Final = NormalDist()
P50: Final = 0.5
P90: Final = 0.9
SHORTEST_S: Final = 1e-3
LONGEST_S: Final = 1e8
"""Three years: the upper limit of every duration."""
_TAIL_Z: Final = 5.0
"""Standard score above which the normal tail is approximated by an exponential."""
_HALVINGS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """Log-normal duration; ``spread`` is the standard deviation of the logarithm."""

    median_s: float
    spread: float

    @classmethod
    def of(cls, p50_s: float, p90_s: float) -> LogNormal:
        """Return the distribution with the quantiles ``p50_s`` (50 %) and ``p90_s`` (90 %)."""
        p50_s = min(max(p50_s, SHORTEST_S), LONGEST_S)
        spread = math.log(max(p90_s / p50_s, 1.001)) / STANDARD_NORMAL.inv_cdf(P90)
        return cls(median_s=p50_s, spread=spread)

    def quantile_s(self, share: float) -> float:
        """Return the seconds that are not exceeded with probability ``share``."""
        return self._seconds_at(STANDARD_NORMAL.inv_cdf(share))

    def below(self, seconds: float) -> float:
        """Return the probability of a duration of at most ``seconds``."""
        return STANDARD_NORMAL.cdf(self._z(seconds)) if seconds >= SHORTEST_S else 0.0

    def above(self, seconds: float, *, passed_s: float) -> float:
        """Return the probability of more than ``seconds``, given more than ``passed_s``."""
        z, passed_z = self._z(seconds), self._z(passed_s)
        if passed_z > _TAIL_Z:
            return math.exp(passed_z * (passed_z - z))
        return survival(z) / survival(passed_z)

    def rest(self, passed_s: float) -> LogNormal:
        """Return the remaining time, given that it has not ended after ``passed_s``."""
        if passed_s <= 0:
            return self
        passed_z = self._z(passed_s)
        p50_s, p90_s = (self._seconds_at(_conditional_z(passed_z, share)) for share in (P50, P90))
        return LogNormal.of(p50_s - passed_s, p90_s - passed_s)

    def blended(self, other: LogNormal) -> LogNormal:
        """Return the combination of two estimates of one duration, weighted by their precision."""
        ours, theirs = self.spread**-2, other.spread**-2
        log_s = ours * math.log(self.median_s) + theirs * math.log(other.median_s)
        return LogNormal(
            median_s=math.exp(log_s / (ours + theirs)), spread=1 / math.sqrt(ours + theirs)
        )

    def _z(self, seconds: float) -> float:
        """Return the standard score: the number of spreads above the median."""
        return math.log(max(seconds, SHORTEST_S) / self.median_s) / self.spread

    def _seconds_at(self, z: float) -> float:
        return math.exp(min(math.log(self.median_s) + self.spread * z, math.log(LONGEST_S)))


def first_s(reached: Callable[[float], bool]) -> float:
    """Return the least number of seconds at which ``reached`` holds, by bisection.

    ``reached`` must hold for all larger values, too.
    """
    low, high = math.log(SHORTEST_S), math.log(LONGEST_S)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(math.exp(middle)) else (middle, high)
    return math.exp(high)


def survival(z: float) -> float:
    """Return the probability that a standard normal value exceeds ``z``."""
    return math.erfc(z / math.sqrt(2)) / 2


def _conditional_z(passed_z: float, share: float) -> float:
    """Return the quantile ``share`` of the standard normal values above ``passed_z``."""
    if passed_z > _TAIL_Z:
        return passed_z - math.log(1 - share) / passed_z
    return -STANDARD_NORMAL.inv_cdf((1 - share) * survival(passed_z))
