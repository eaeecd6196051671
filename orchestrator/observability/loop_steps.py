"""Times and failures of the steps of this process's loops, for ``/metrics``."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from orchestrator.engine.runtime.loop import LoopKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

BUCKETS_S: Final = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, float("inf"))


class LoopSteps(Collector):
    """Histogram and counter by kind of loop: the partitions of a process are counted together."""

    def __init__(self) -> None:
        self._steps = {kind: [0] * len(BUCKETS_S) for kind in LoopKind}
        self._seconds = dict.fromkeys(LoopKind, 0.0)
        self._failures = Counter[LoopKind]()

    def record(self, kind: LoopKind, seconds: float, failed: bool) -> None:
        """Count a step that took so long."""
        self._steps[kind][bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[kind] += seconds
        self._failures[kind] += failed

    def collect(self) -> Iterator[Metric]:
        steps = HistogramMetricFamily(
            "loop_step_seconds", "Time that each step of a loop took", labels=["loop"]
        )
        failures = CounterMetricFamily(
            "loop_step_failures", "Steps of a loop that failed", labels=["loop"]
        )
        bounds = [*map(str, BUCKETS_S[:-1]), "+Inf"]
        for kind in LoopKind:
            buckets = list(zip(bounds, accumulate(self._steps[kind]), strict=True))
            steps.add_metric([kind], buckets, self._seconds[kind])
            failures.add_metric([kind], self._failures[kind])
        yield steps
        yield failures
