"""Inspection: operations and terminations with their quota, explanation and forecast.

The jobs of an operation are counted from their rows, which takes longer the more they are. So an
operation that is read often is not counted for each request. A count is used again for 0.1 ms a
job, at most for REUSED_MAX_S. One from before the end of the operation is not used after it.
Requests that arrive while the jobs are being counted count them as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import StoreUnavailable
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress import termination_forecast, verified_forecast
from orchestrator.domain.progress.operation_forecast import forecast
from orchestrator.domain.progress.verified_forecast import VerifiedForecast
from orchestrator.services.explanation.explain import explain
from orchestrator.services.explanation.values import UNEXPLAINED, ExplanationContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.pacing.quota import Rate
    from orchestrator.domain.progress.operation_forecast import Progress
    from orchestrator.services.explanation.values import Explanation
    from orchestrator.services.partitions import Partitions
    from orchestrator.services.ports import (
        FoundOperation,
        OperationRecord,
        Records,
        TerminationRecord,
        Unconfigured,
    )

    Places = frozenset[tuple[str, str]]
    """Accounts with a region of each."""


REUSED_FOR_S_PER_JOB: Final = 1e-4
"""Time for which a count is used again, for each job that was counted with it."""
REUSED_MAX_S: Final = 1.0


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
    verified: VerifiedForecast


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
    verified: VerifiedForecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Use case: inspect an operation or a termination.

    ``capture_wait_s``: how long TerminateJob waits for the capture of the job's machines.
    ``best_effort``: returns a context manager that logs what fails inside it, under this name, and
    goes on: a failed explanation or forecast is left out and never fails the request.
    ``monotonic``: returns seconds of a clock that never jumps.
    """

    records: Records
    unconfigured: Unconfigured
    partitions: Partitions
    capture_wait_s: float
    now: Callable[[], datetime]
    best_effort: Callable[[str], AbstractContextManager[None]]
    monotonic: Callable[[], float]
    _reused: dict[str, tuple[InspectedOperation, float]] = field(default_factory=dict, init=False)
    """Operations that were inspected, each with the time until which that is used again."""

    async def operations(self, found: Sequence[FoundOperation]) -> list[InspectedOperation]:
        """Count the jobs of each operation, and add quota and forecast.

        There is no forecast while API calls of the partition fail.
        """
        inspected = self._still_valid(found)
        to_count = [each.id for each in found if each.id not in inspected]
        if to_count:
            counted = await self._inspected(await self.records.operations(to_count))
            jobs = sum(sum(each.record.jobs_by_state.values()) for each in counted)
            until_s = self.monotonic() + min(REUSED_MAX_S, jobs * REUSED_FOR_S_PER_JOB)
            self._reused.update({each.record.id: (each, until_s) for each in counted})
            inspected |= {each.record.id: each for each in counted}
        return [inspected[each.id] for each in found]

    def accepted(self, record: OperationRecord) -> InspectedOperation:
        """Add the quota to an operation that has just been stored, without a forecast."""
        rate = self.partitions.rate(record.partition, record.allowed_per_s)
        return InspectedOperation(
            record=record, rate=rate, stopped=None, verified=VerifiedForecast()
        )

    def _still_valid(self, found: Sequence[FoundOperation]) -> dict[str, InspectedOperation]:
        """Return what may be used again, by id, and forget what is too old."""
        now_s = self.monotonic()
        for id_ in [id_ for id_, (_, until_s) in self._reused.items() if until_s <= now_s]:
            del self._reused[id_]
        earlier = ((each, self._reused[each.id][0]) for each in found if each.id in self._reused)
        return {
            each.id: inspected
            for each, inspected in earlier
            if each.finished == (inspected.record.finished_at is not None)
        }

    async def _inspected(self, records: Sequence[OperationRecord]) -> list[InspectedOperation]:
        """Add quota and forecast to each."""
        rates = {
            each.id: self.partitions.rate(each.partition, each.allowed_per_s) for each in records
        }
        progress = await self._progress(
            [
                (each, rate.allowed_per_s)
                for each in records
                if each.finished_at is None and each.trouble is None and (rate := rates[each.id])
            ]
        )
        inspected = []
        for record in records:
            stopped, verified = None, VerifiedForecast()
            if record.id in progress:
                with self.best_effort("the forecast of an operation"):
                    now = self.now()
                    stopped = forecast(progress[record.id], now)
                    verified = verified_forecast.of_operation(progress[record.id], stopped, now)
            inspected.append(
                InspectedOperation(
                    record=record, rate=rates[record.id], stopped=stopped, verified=verified
                )
            )
        return inspected

    async def _progress(
        self, running: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        """Count the progress of running operations together, or one by one if that fails.

        An outage of the database is waited for once.
        """
        found: dict[str, Progress] = {}
        with self.best_effort("the forecast of an operation"):
            try:
                return await self.records.progress(running) if running else {}
            except StoreUnavailable:
                raise
            except Exception:
                if len(running) == 1:
                    raise
            for each in running:
                found |= await self._progress([each])
        return found

    async def termination(self, record: TerminationRecord) -> InspectedTermination:
        """Add explanation and forecast; that of a queued job rests on past drains as well."""
        past_durations = None
        if record.termination.state is State.QUEUED:
            with self.best_effort("reading the durations of past drains"):
                past_durations = await self.records.past_durations(record.termination.partition)
        places = await self._places_configured_nowhere([record])
        return self._inspect(record, places, past_durations)

    async def terminations(
        self, records: Sequence[TerminationRecord]
    ) -> list[InspectedTermination]:
        """Add explanation and forecast to each, without reading past drains."""
        places = await self._places_configured_nowhere(records)
        return [self._inspect(record, places, None) for record in records]

    def _inspect(
        self, record: TerminationRecord, places: Places | None, past_durations: Durations | None
    ) -> InspectedTermination:
        termination, now = record.termination, self.now()
        explanation, stopped, verified = UNEXPLAINED, None, VerifiedForecast()
        rate = self.partitions.rate(termination.partition, record.allowed_per_s)
        if rate is not None or places is not None:
            with self.best_effort("the explanation of a termination"):
                place = termination.account, termination.region
                context = ExplanationContext(
                    now=now,
                    jobs_ahead=record.jobs_ahead,
                    rate=rate,
                    trouble=record.trouble,
                    capture_wait_s=self.capture_wait_s,
                    configured=rate is not None or place not in (places or ()),
                    other_replica=self.partitions.other_replica(
                        termination.partition, record.holder
                    ),
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

    async def _places_configured_nowhere(
        self, records: Sequence[TerminationRecord]
    ) -> Places | None:
        """Return where terminations wait that no replica is configured for; None: not known.

        They are read only if this replica is not configured for one of ``records``.
        """
        rates = (
            self.partitions.rate(each.termination.partition, each.allowed_per_s) for each in records
        )
        if None not in rates:
            return frozenset()
        known: list[Places] = []
        with self.best_effort("the explanation of a termination"):
            waiting = await self.unconfigured.waiting()
            known.append(frozenset((each.account, each.region) for each in waiting))
        return known[0] if known else None
