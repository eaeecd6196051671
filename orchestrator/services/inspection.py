"""Inspection: operations and terminations with their quota, explanation and forecast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress import termination_forecast, verified_forecast
from orchestrator.domain.progress.operation_forecast import forecast
from orchestrator.domain.progress.verified_forecast import Verification
from orchestrator.services.explanation import UNEXPLAINED, ExplanationContext, explain

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from datetime import datetime

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Rate
    from orchestrator.services.explanation import Explanation
    from orchestrator.services.ports import (
        OperationRecord,
        Records,
        TerminationRecord,
        Unconfigured,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedOperation:
    """An operation with its quota and forecast.

    ``rate``: TerminateJob rate of its partition; None if this replica is not configured for it.
    ``stopped``: when all instances of its jobs are expected to have stopped. ``verified``: when its
    jobs are expected to be verified.
    """

    record: OperationRecord
    rate: Rate | None
    stopped: Forecast | None
    verified: Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedTermination:
    """A termination with its explanation and forecast, as of ``now``.

    ``stopped``: when its instances are expected to have stopped. ``verified``: when it is expected
    to be verified.
    """

    record: TerminationRecord
    now: datetime
    explanation: Explanation
    stopped: Forecast | None
    verified: Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Use case: inspect an operation or a termination.

    ``rate``: TerminateJob rate of a partition, given how many requests a second the cloud accepts
    (None: as many as are configured); None if this replica is not configured for the partition.
    ``elsewhere``: the other replica that drives a partition, given the holder of its lease.
    ``capture_wait_s``: how long TerminateJob waits for the capture of the job's machines.
    ``best_effort``: returns a context manager that logs what fails inside it, under this name, and
    goes on: a failed explanation or forecast is left out and never fails the request.
    """

    records: Records
    unconfigured: Unconfigured
    rate: Callable[[str, float | None], Rate | None]
    elsewhere: Callable[[str, str | None], str | None]
    capture_wait_s: float
    now: Callable[[], datetime]
    best_effort: Callable[[str], AbstractContextManager[None]]

    async def operation(self, record: OperationRecord) -> InspectedOperation:
        """Add quota and forecast; there is no forecast while API calls of the partition fail."""
        rate = self.rate(record.partition, record.allowed_per_s)
        stopped, verified = None, Verification()
        if record.finished_at is None and record.trouble is None and rate is not None:
            with self.best_effort("the forecast of an operation"):
                progress = await self.records.progress(record, rate.allowed_per_s)
                now = self.now()
                stopped = forecast(progress, now)
                verified = verified_forecast.of_operation(progress, stopped, now)
        return InspectedOperation(record=record, rate=rate, stopped=stopped, verified=verified)

    async def termination(self, record: TerminationRecord) -> InspectedTermination:
        """Add explanation and forecast; that of a queued job rests on past drains as well."""
        past_durations = None
        if record.termination.state is State.QUEUED:
            with self.best_effort("reading the durations of past drains"):
                past_durations = await self.records.past_durations(record.termination.partition)
        return await self._inspect(record, past_durations)

    async def listed_termination(self, record: TerminationRecord) -> InspectedTermination:
        """Add explanation and forecast without reading past drains, for one of many."""
        return await self._inspect(record, None)

    async def _inspect(
        self, record: TerminationRecord, past_durations: Durations | None
    ) -> InspectedTermination:
        termination, now = record.termination, self.now()
        explanation, stopped, verified = UNEXPLAINED, None, Verification()
        with self.best_effort("the explanation of a termination"):
            rate = self.rate(termination.partition, record.allowed_per_s)
            context = ExplanationContext(
                now=now,
                ahead=record.ahead,
                rate=rate,
                trouble=record.trouble,
                capture_wait_s=self.capture_wait_s,
                configured=rate is not None or not await self._configured_nowhere(termination),
                elsewhere=self.elsewhere(termination.partition, record.holder),
            )
            explanation = explain(termination, context)
        with self.best_effort("the forecast of a termination"):
            if record.trouble is None:
                stopped = termination_forecast.current(
                    termination, explanation.next_action_at, past_durations, now
                )
            verified = verified_forecast.of_termination(termination, stopped, now)
        return InspectedTermination(
            record=record, now=now, explanation=explanation, stopped=stopped, verified=verified
        )

    async def _configured_nowhere(self, termination: Termination) -> bool:
        place = termination.account, termination.region
        return any(
            (each.account, each.region) == place for each in await self.unconfigured.waiting()
        )
