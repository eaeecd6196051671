"""What is foretold of a termination: kept with each count of its instances, told on each read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.transitions import overdue
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
"""Nothing is foretold any more once so many calls about one job have failed in a row."""


def with_forecast(
    before: Termination, after: Termination, now: datetime, others: Durations | None
) -> Termination:
    """What was decided of ``before``, with the history and the forecast that follow.

    Both go on while a job that runs on is called again, and end with the drain: once it is down,
    or was revived, which takes some evidence away.
    """
    drains = after.state in (State.DRAINING, State.SENDING)
    if not drains or after.evidence < before.evidence:
        known = after.history or after.forecast
        return replace(after, history=None, forecast=None) if known else after
    at, counters = after.instances_observed_at, after.instances
    if at is None or at == before.instances_observed_at or counters is None:
        return after
    if after.state is State.SENDING or (
        after.history is None and after.terminate_after is not None
    ):
        return after
    history = observe(after.history or _begun(before, after, at), at, counters.live)
    standing = _takes_a_person(after, history)
    forecast = stalled(history, now) if standing else of_drain(history, others, now)
    return replace(after, history=history, forecast=forecast)


def _takes_a_person(after: Termination, history: DrainHistory) -> bool:
    """Whether nothing has gone down since it was left to a person."""
    if after.escalation_level is not EscalationLevel.MANUAL or after.escalation_started_at is None:
        return False
    return history.last_progress_at <= after.escalation_started_at.timestamp()


def _begun(before: Termination, after: Termination, at: datetime) -> DrainHistory:
    """The beginning of a drain whose instances are counted for the first time."""
    assert after.instances is not None
    live, began_at = after.instances.live, after.acknowledged_at
    counted_at = before.instances_observed_at
    if began_at is None or (counted_at is not None and counted_at >= began_at):
        return begin(at, live)
    capture = after.capture
    if capture and capture.run == after.run and capture.ended_at and capture.problem is None:
        return begin(began_at, max(live, capture.occupying + capture.waiting))
    return begin(began_at, live + after.instances.failed)


def current(
    termination: Termination, turn_at: datetime | None, others: Durations | None, now: datetime
) -> Forecast | None:
    """What can be told now; None where nothing can.

    ``turn_at``: when something is done next for it; for one that may be called, the call.
    """
    forecast = termination.forecast
    stands_still = forecast is not None and forecast.stalled_since is not None
    if nobody_knows(termination, now) and not stands_still:
        return None
    if forecast is not None:
        return forecast.as_of(now)
    if termination.state is not State.QUEUED or turn_at is None:
        return None
    if termination.begins_after(now):
        return replace(of_queued(0.0, others, turn_at), made_at=now)
    if termination.terminate_after is None:
        return None
    return of_queued((turn_at - now).total_seconds(), others, now)


def nobody_knows(termination: Termination, now: datetime) -> bool:
    """Whether no end can be told, for it is late already, or for what it does cannot be learnt.

    ``store.progress`` counts jobs by the same rule.
    """
    unread = termination.unconfirmed is not None or termination.failures >= FAILURES_MAX
    return unread or overdue(termination, now)
