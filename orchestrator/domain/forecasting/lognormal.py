"""A duration that is not known for sure, as a log-normal: its logarithm is spread like a bell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

BELL: Final = NormalDist()
P50: Final = 0.5
P90: Final = 0.9
SHORTEST_S: Final = 1e-3
LONGEST_S: Final = 1e8
"""Three years: nothing is said to take longer."""
_FAR_OUT: Final = 5.0
"""From so many spreads above the median on, the bell falls as an exponential does, nearly."""
_HALVINGS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormal:
    """``median_s`` seconds; ``spread`` is the standard deviation of their logarithm."""

    median_s: float
    spread: float

    @classmethod
    def of(cls, p50_s: float, p90_s: float) -> LogNormal:
        """The span that is no longer than ``p50_s`` in half and than ``p90_s`` in 90 % of cases."""
        p50_s = min(max(p50_s, SHORTEST_S), LONGEST_S)
        spread = math.log(max(p90_s / p50_s, 1.001)) / BELL.inv_cdf(P90)
        return cls(median_s=p50_s, spread=spread)

    def quantile_s(self, share: float) -> float:
        """What it does not exceed in this share of all cases."""
        return self._at(BELL.inv_cdf(share))

    def below(self, seconds: float) -> float:
        """How probable it is that it takes no longer than ``seconds``."""
        return BELL.cdf(self._place(seconds)) if seconds >= SHORTEST_S else 0.0

    def above(self, seconds: float, *, passed_s: float) -> float:
        """How probable it is that it takes longer than ``seconds``, if longer than ``passed_s``."""
        place, passed = self._place(seconds), self._place(passed_s)
        if passed > _FAR_OUT:
            return math.exp(passed * (passed - place))
        return _survival(place) / _survival(passed)

    def rest(self, passed_s: float) -> LogNormal:
        """What is left of it once ``passed_s`` have passed and it has not ended."""
        if passed_s <= 0:
            return self
        passed = self._place(passed_s)
        return LogNormal.of(*(self._at(_beyond(passed, share)) - passed_s for share in (P50, P90)))

    def blended(self, other: LogNormal) -> LogNormal:
        """What both tell of one duration; the surer one counts for more."""
        ours, theirs = self.spread**-2, other.spread**-2
        log_s = ours * math.log(self.median_s) + theirs * math.log(other.median_s)
        return LogNormal(
            median_s=math.exp(log_s / (ours + theirs)), spread=1 / math.sqrt(ours + theirs)
        )

    def _place(self, seconds: float) -> float:
        """How many spreads above the median."""
        return math.log(max(seconds, SHORTEST_S) / self.median_s) / self.spread

    def _at(self, place: float) -> float:
        return math.exp(min(math.log(self.median_s) + self.spread * place, math.log(LONGEST_S)))


def first_s(reached: Callable[[float], bool]) -> float:
    """The least number of seconds at which this holds, which holds from there on; by bisection."""
    low, high = math.log(SHORTEST_S), math.log(LONGEST_S)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(math.exp(middle)) else (middle, high)
    return math.exp(high)


def _survival(place: float) -> float:
    """How much of the bell lies above."""
    return math.erfc(place / math.sqrt(2)) / 2


def _beyond(passed: float, share: float) -> float:
    """What this share of the bell above ``passed`` does not exceed."""
    if passed > _FAR_OUT:
        return passed - math.log(1 - share) / passed
    return -BELL.inv_cdf((1 - share) * _survival(passed))
