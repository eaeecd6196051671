"""Checks of attempts, events and calls, of runs with crashes and faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.attempt import INTERRUPTED
from orchestrator.domain.model.lifecycle import Event, State, next_state
from orchestrator.simulator.traffic.fault_injection import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.simulator.simulator import Call


HARMLESS: Final = ("", Fault.CHARSET)


def check_attempts(
    attempts: Iterable[tuple[str, int, str | None]], arrived: Mapping[str, int]
) -> None:
    """Check that every attempt has an outcome, and that none reached the cloud unrecorded.

    ``attempts`` are job, number and outcome; ``arrived`` counts each job's TerminateJob calls.
    """
    outcomes: dict[str, list[str]] = {}
    for job_id, number, outcome in attempts:
        assert outcome is not None, job_id
        outcomes.setdefault(job_id, []).append(outcome)
        assert number == len(outcomes[job_id]), job_id
    for job_id in {*arrived, *outcomes}:
        written = outcomes.get(job_id, [])
        surely = [outcome for outcome in written if outcome not in (INTERRUPTED, "not_sent")]
        assert len(surely) <= arrived.get(job_id, 0) <= len(written), job_id


def check_events(events: Iterable[tuple[str, str, str | None, str]]) -> dict[str, str]:
    """Return the final state of each job by the lifecycle table.

    ``events`` are job, type, and both states.
    """
    at: dict[str, str] = {}
    for job_id, event, origin, target in events:
        assert origin == at.get(job_id), job_id
        expected = State.QUEUED if origin is None else next_state(State(origin), Event(event))
        assert target == expected, job_id
        at[job_id] = target
    return at


def called_unread(calls: Iterable[Call]) -> list[str]:
    """Return jobs that a TerminateJob reached with no answered read since the last one.

    A call that the rate limit refused reached no job: it may be made again.
    """
    seen: set[str] = set()
    wrong = []
    for call in calls:
        if call.action == "TerminateJob":
            wrong += [job_id for job_id in call.job_ids if job_id not in seen]
            if call.fault != Fault.THROTTLE:
                seen.difference_update(call.job_ids)
        elif call.code == "OK" and call.fault in HARMLESS:
            seen.update(call.job_ids)
    return wrong
