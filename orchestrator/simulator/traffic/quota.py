"""Calls counted as the cloud counts them: per action and sub-account, in seconds of its clock.

A call counts when it arrives; above the limit it is turned away before anything acts
(cloud.tencent.com/document/product/1278/109059).  One secret id stands for one sub-account, and
one simulator for one host called.
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
"""Calls per second, the lowest figure found for each action.

Those of Batch from tencentcloud.com/document/product/599/30458 and the action pages, those of CVM
from tencentcloud.com/document/product/213/568, where both of the vendor's sites agree.
"""


@dataclass(slots=True)
class Arrivals:
    """When calls of one action by one secret id arrived, in seconds since the epoch."""

    limit_per_s: int
    times: list[float] = field(default_factory=list)
    refused: int = 0
    window: int = 0
    in_window: int = 0

    def most_in_a_window(self) -> int:
        """The fullest second of the clock."""
        counts: dict[int, int] = {}
        for time in self.times:
            window = math.floor(time / WINDOW_S)
            counts[window] = counts.get(window, 0) + 1
        return max(counts.values(), default=0)

    def most_in_any_second(self) -> int:
        """The fullest second of all, wherever it starts: ``[t, t + 1)``."""
        most = oldest = 0
        for newest, time in enumerate(self.times):
            while time - self.times[oldest] >= WINDOW_S:
                oldest += 1
            most = max(most, newest - oldest + 1)
        return most


class QuotaCounter:
    """The counters of every action and secret id; ``limits_per_s`` overrides the documented."""

    def __init__(self, limits_per_s: Mapping[str, int]) -> None:
        self._limits_per_s = {**LOWEST_DOCUMENTED, **limits_per_s}
        self._arrivals: dict[tuple[str, str], Arrivals] = {}

    def count(self, action: str, secret_id: str, *, now: float) -> None:
        """Count an arrival; raises ``ApiError`` when it is one too many."""
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
        """One row per action and secret id that called."""
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
    """The answer to one call too many; the wording is the one seen in the wild."""
    return ApiError(
        "RequestLimitExceeded",
        f"Your current request times equals to `{count}` in a second, "
        f"which exceeds the frequency limit `{limit_per_s}` for a second.",
    )
