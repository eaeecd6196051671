"""Metrics in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from orchestrator.domain.decisions.invariants import Invariant
from orchestrator.domain.errors import CloudErrorKind, StoreUnavailable
from orchestrator.domain.model.attempt import ACCEPTED
from orchestrator.domain.model.lifecycle import FINAL_STATES, LIVE_STATES, PENDING_STATES, State
from orchestrator.engine.partition import ACTIONS
from orchestrator.observability import logs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping
    from datetime import datetime

    from prometheus_client import Metric

    from orchestrator.observability.loop_steps import LoopSteps
    from orchestrator.services.ports import LiveTerminations

OUTCOMES: Final = (ACCEPTED, *CloudErrorKind)
FRESH_S: Final = 5.0
"""Cache time of the values from the database, so that frequent scrapes cost no more queries."""
READ_MAX_S: Final = 2.0
"""Timeout of the database query of a scrape; a scraper gives up after ten seconds by default."""

log = logging.getLogger(__name__)


class Metrics:
    """Metrics of this process, and of all unfinished terminations in the database."""

    def __init__(
        self,
        *,
        violations: Mapping[Invariant, int],
        calls: Mapping[tuple[str, str], int],
        ended: Mapping[State, int],
        steps: LoopSteps,
        live: Callable[[], Awaitable[Mapping[str, LiveTerminations]]],
        now: Callable[[], datetime],
    ) -> None:
        """Keep the mappings; each scrape reads their values at that time.

        ``violations``: violations by invariant. ``calls``: API calls by action and outcome.
        ``ended``: finished terminations by state. ``steps``: those of all loops. ``live`` reads the
        unfinished terminations.
        """
        self._live = _Live(live, now)
        self._registry = CollectorRegistry()
        self._registry.register(_Counts(violations, calls, ended))
        self._registry.register(steps)
        self._registry.register(self._live)
        ProcessCollector(registry=self._registry)

    async def exposition(self) -> bytes:
        """Return all metrics as text; omit the unfinished terminations if they cannot be read."""
        await self._live.refresh()
        return generate_latest(self._registry)


class _Counts(Collector):
    """Counters of this process; all label sets exist from the start, so that rates are correct."""

    def __init__(
        self,
        violations: Mapping[Invariant, int],
        calls: Mapping[tuple[str, str], int],
        ended: Mapping[State, int],
    ) -> None:
        self._violations = violations
        self._calls = calls
        self._ended = ended

    def collect(self) -> Iterator[Metric]:
        violations = CounterMetricFamily(
            "invariant_violations",
            "Writes refused because they would violate an invariant: any value above 0 is a bug",
            labels=["invariant"],
        )
        for invariant in Invariant:
            violations.add_metric([invariant], self._violations.get(invariant, 0))
        yield violations
        calls = CounterMetricFamily(
            "cloud_calls",
            "Cloud API calls of this process that have finished",
            labels=["action", "outcome"],
        )
        for action in ACTIONS:
            for outcome in OUTCOMES:
                calls.add_metric([action, outcome], self._calls.get((action, outcome), 0))
        yield calls
        ended = CounterMetricFamily(
            "terminations_ended", "Terminations that this process has finished", labels=["state"]
        )
        for state in FINAL_STATES:
            ended.add_metric([state], self._ended.get(state, 0))
        yield ended
        yield CounterMetricFamily(
            "log_lines_dropped",
            "Log lines that were dropped because standard error was read too slowly or was closed",
            value=logs.dropped_lines(),
        )


class _Live(Collector):
    """Unfinished terminations of all replicas; no samples if they cannot be read."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Mapping[str, LiveTerminations]]],
        now: Callable[[], datetime],
    ) -> None:
        self._read = read
        self._now = now
        self._found: Mapping[str, LiveTerminations] | None = None
        self._fresh_until = 0.0
        self._reading = asyncio.Lock()

    async def refresh(self) -> None:
        """Read them again unless they are fresh; never raise: the other metrics must be served."""
        loop = asyncio.get_running_loop()
        async with self._reading:
            if loop.time() < self._fresh_until:
                return
            self._found = None
            try:
                async with asyncio.timeout(READ_MAX_S):
                    self._found = await self._read()
            except (StoreUnavailable, TimeoutError):  # the store logs outages
                pass
            except Exception:
                log.exception(
                    "/metrics omits the unfinished terminations: they cannot be counted; report "
                    "this traceback"
                )
            self._fresh_until = loop.time() + FRESH_S

    def collect(self) -> Iterator[Metric]:
        if self._found is None:
            return
        live = GaugeMetricFamily(
            "terminations", "Unfinished terminations of all replicas", labels=["state"]
        )
        for state in LIVE_STATES:
            found = self._found.get(state)
            live.add_metric([state], found.count if found else 0)
        yield live
        waiting = GaugeMetricFamily(
            "oldest_waiting_seconds",
            "Time that the oldest termination has waited for its first call, since its not_before",
            labels=["state"],
        )
        for state in PENDING_STATES:
            found = self._found.get(state)
            if found is None:
                waiting.add_metric([state], 0.0)
            elif found.since is not None:
                waits_s = (self._now() - found.since).total_seconds()
                waiting.add_metric([state], max(0.0, waits_s))
        yield waiting
