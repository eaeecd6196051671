"""What is counted, as Prometheus reads it (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from orchestrator.domain.invariants import Invariant
from orchestrator.observability import logs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Metrics:
    """Of one process."""

    def __init__(self, violations: Mapping[Invariant, int]) -> None:
        """``violations``: how often each invariant was violated, as it is at any time."""
        self._registry = CollectorRegistry()
        self._registry.register(_Violations(violations))
        self._registry.register(_DroppedLogLines())
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """All of it, in the text format."""
        return generate_latest(self._registry)


class _Violations(Collector):
    def __init__(self, violations: Mapping[Invariant, int]) -> None:
        self._violations = violations

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily(
            "invariant_violations",
            "Writes refused since they would have broken an invariant: more than 0 is a bug",
            labels=["invariant"],
        )
        for invariant in Invariant:
            family.add_metric([invariant], self._violations.get(invariant, 0))
        yield family


class _DroppedLogLines(Collector):
    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "log_lines_dropped",
            "Log lines that were not written, since standard error was not read or was closed",
            value=logs.dropped_lines(),
        )
