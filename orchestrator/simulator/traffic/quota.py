"""Quotas as the cloud counts them: per action and sub-account, in seconds of its clock.

A call counts when it arrives. A call above the limit is refused before it has any effect
(cloud.tencent.com/document/product/1278/109059). One secret id represents one sub-account, and one
simulator represents one host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW_S: Final = 1.0
LOWEST_DOCUMENTED: Final[Mapping[str, int]] = {
    "TerminateJob": 2,
    "TerminateTaskInstance": 2,
    "DescribeJob": 2,
    "DescribeJobSubmitInfo": 2,
    "DescribeJobs": 2,
    "DescribeTask": 3,
    "DescribeInstances": 40,
    "TerminateInstances": 10,
}
"""Calls per second: the lowest documented limit of each action.

The limits of Batch are from tencentcloud.com/document/product/599/30458 and the action pages, those
of CVM from tencentcloud.com/document/product/213/568, where both of the vendor's sites agree.
"""


@dataclass(slots=True)
class Arrivals:
    """Arrival times of one action's calls by one secret id, in seconds since the epoch."""

    limit_per_s: int
    times: list[float] = field(default_factory=list)
    refused: int = 0
    window: int = 0
    in_window: int = 0

    def most_in_a_window(self) -> int:
        """Return the maximum number of calls in one second of the clock."""
        counts: dict[int, int] = {}
        for time in self.times:
            window = math.floor(time / WINDOW_S)
            counts[window] = counts.get(window, 0) + 1
        return max(counts.values(), default=0)

    def most_in_any_second(self) -> int:
        """Return the maximum number of calls in any interval ``[t, t + 1)``."""
        most = oldest = 0
        for newest, time in enumerate(self.times):
            while time - self.times[oldest] >= WINDOW_S:
                oldest += 1
            most = max(most, newest - oldest + 1)
        return most


class QuotaCounter:
    """Counters of every action and secret id; ``limits_per_s`` overrides documented limits."""

    def __init__(self, limits_per_s: Mapping[str, int]) -> None:
        self._limits_per_s = {**LOWEST_DOCUMENTED, **limits_per_s}
        self._arrivals: dict[tuple[str, str], Arrivals] = {}

    def count(self, action: str, secret_id: str, *, now: float) -> None:
        """Count an arrival; raise ``ApiError`` if it is above the limit."""
        arrivals = self._arrivals.setdefault(
            (action, secret_id), Arrivals(self._limits_per_s[action])
        )
        arrivals.times.append(now)
        window = math.floor(now / WINDOW_S)
        arrivals.in_window = arrivals.in_window + 1 if window == arrivals.window else 1
        arrivals.window = window
        if arrivals.in_window > arrivals.limit_per_s:
            arrivals.refused += 1
            raise limit_exceeded(arrivals.in_window, arrivals.limit_per_s)

    def limit_per_s(self, action: str) -> int:
        return self._limits_per_s[action]

    def report(self) -> list[dict[str, object]]:
        """Return one row per action and secret id that has calls."""
        return [
            {
                "action": action,
                "secret_id": secret_id,
                "limit_per_s": arrivals.limit_per_s,
                "calls": len(arrivals.times),
                "refused": arrivals.refused,
                "most_in_a_window": arrivals.most_in_a_window(),
                "most_in_any_second": arrivals.most_in_any_second(),
            }
            for (action, secret_id), arrivals in self._arrivals.items()
        ]


def limit_exceeded(count: int, limit_per_s: int) -> ApiError:
    """Return the error of a call above the limit, with the wording observed in the real API."""
    return ApiError(
        "RequestLimitExceeded",
        f"Your current request times equals to `{count}` in a second, "
        f"which exceeds the frequency limit `{limit_per_s}` for a second.",
    )
