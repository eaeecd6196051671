"""Forecast of one termination: recomputed on each instance count, projected to now on request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.decision import past_deadline
from orchestrator.domain.forecasting.drain_history import begin, observe
from orchestrator.domain.forecasting.forecast import of_drain, of_queued, stalled
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import EscalationLevel

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.forecasting.drain_history import DrainHistory
    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.model.termination import Termination

FAILURES_MAX: Final = 3
"""Consecutive failed requests about one job after which it has no forecast."""


def with_forecast(
    before: Termination, after: Termination, now: datetime, past_durations: Durations | None
) -> Termination:
    """Return ``after``, decided from ``before``, with its drain history and forecast.

    Both continue while TerminateJob is repeated for a job that ignores it. They end with the drain:
    when the job has stopped, or was revived, which lowers the evidence.
    """
    drains = after.state in (State.DRAINING, State.SENDING)
    if not drains or after.evidence < before.evidence:
        if after.drain.history is None and after.drain.forecast is None:
            return after
        return replace(after, drain=replace(after.drain, history=None, forecast=None))
    at, counters = after.drain.counted_at, after.drain.counters
    if at is None or at == before.drain.counted_at or counters is None:
        return after
    if after.state is State.SENDING or (
        after.drain.history is None and after.schedule.terminate_after is not None
    ):
        return after
    history = observe(after.drain.history or _begun(before, after, at), at, counters.live)
    waits = _waits_for_manual_action(after, history)
    forecast = stalled(history, now) if waits else of_drain(history, past_durations, now)
    return replace(after, drain=replace(after.drain, history=history, forecast=forecast))


def _waits_for_manual_action(termination: Termination, history: DrainHistory) -> bool:
    """Return whether no instance has stopped since manual action became required."""
    started_at = termination.escalation.started_at
    if termination.escalation.level is not EscalationLevel.MANUAL or started_at is None:
        return False
    return history.last_progress_at <= started_at.timestamp()


def _begun(before: Termination, after: Termination, at: datetime) -> DrainHistory:
    """Return the start of the history of a drain whose instances are counted for the first time."""
    assert after.drain.counters is not None
    live, began_at = after.drain.counters.live, after.calls.acknowledged_at
    counted_at = before.drain.counted_at
    if began_at is None or (counted_at is not None and counted_at >= began_at):
        return begin(at, live)
    capture = after.captures.machines
    if capture and capture.run == after.calls.run and capture.ended_at and capture.problem is None:
        return begin(began_at, max(live, capture.occupying + capture.waiting))
    return begin(began_at, live + after.drain.counters.failed)


def current(
    termination: Termination,
    turn_at: datetime | None,
    past_durations: Durations | None,
    now: datetime,
) -> Forecast | None:
    """Return the forecast as of ``now``, or None if no forecast is possible.

    ``turn_at``: time of the next action on the job; for a job that may be terminated, TerminateJob.
    """
    forecast = termination.drain.forecast
    has_stalled = forecast is not None and forecast.stalled_since is not None
    if nobody_knows(termination, now) and not has_stalled:
        return None
    if forecast is not None:
        return forecast.as_of(now)
    if termination.state is not State.QUEUED or turn_at is None:
        return None
    if termination.request.begins_after(now):
        return replace(of_queued(0.0, past_durations, turn_at), made_at=now)
    if termination.schedule.terminate_after is None:
        return None
    return of_queued((turn_at - now).total_seconds(), past_durations, now)


def nobody_knows(termination: Termination, now: datetime) -> bool:
    """Return whether no end can be forecast: the deadline has passed, or reads of the job fail.

    ``store.records.operation_progress`` counts jobs by the same rule.
    """
    unread = termination.unconfirmed is not None or termination.schedule.failures >= FAILURES_MAX
    return unread or past_deadline(termination, now)
