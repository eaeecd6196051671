"""State machine of a termination: one table from state and event to the next state.

Every change of state goes through :func:`next_state`. A pair that is not in the table is a bug and
raises :class:`~orchestrator.domain.errors.IllegalTransition`. The README's diagram is drawn from
this table by :func:`mermaid`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from orchestrator.domain.errors import IllegalTransition


class State(StrEnum):
    """States of a termination."""

    QUEUED = "queued"
    """Stored; waits for the first poll of its job, for quota, or for ``not_before``."""
    HELD = "held"
    """The cloud forbids TerminateJob while the job is SUBMITTED; polled until it leaves that."""
    SENDING = "sending"
    """An attempt is stored; until its result is stored, its outcome is unknown."""
    DRAINING = "draining"
    """The cloud is terminating the job; instances are stopping."""
    SETTLING = "settling"
    """The job is finished and no instance is live; polled for the settle window, since RetryJobs
    can revive it."""
    VERIFIED = "verified"
    """Final: proven stopped."""
    ALREADY_FINISHED = "already_finished"
    """Final: the job had finished before any TerminateJob of ours took effect."""
    NOT_FOUND = "not_found"
    """Final: the cloud does not know the job; never counted as a success."""
    REFUSED = "refused"
    """Final: the cloud refuses TerminateJob permanently."""
    WITHDRAWN = "withdrawn"
    """Final: ended by ``:stop`` (its account is not configured); TerminateJob was never sent."""
    UNVERIFIED = "unverified"
    """Final: at its deadline or at ``:stop``, the job was live or not proven to have stopped for
    good."""

    @property
    def final(self) -> bool:
        """True if no event leaves the state."""
        return not TRANSITIONS[self]


class Event(StrEnum):
    """Events that change the state of a termination."""

    CALL_STARTED = "call_started"
    """An attempt is about to be stored and TerminateJob to be sent."""
    CALL_ACKNOWLEDGED = "call_acknowledged"
    """The cloud acknowledged TerminateJob, or a read shows that it acts or has acted on it."""
    CALL_NOT_EXECUTED = "call_not_executed"
    """TerminateJob had no effect for certain, or a read shows neither a stop nor a pending one."""
    CALL_CONFLICTED = "call_conflicted"
    """TerminateJob was refused for the job's state: another TerminateJob acts on it already."""
    CALL_REFUSED = "call_refused"
    """The cloud refuses TerminateJob permanently."""
    SEEN_SUBMITTED = "seen_submitted"
    """The job is SUBMITTED; the cloud forbids TerminateJob in this state."""
    SEEN_TERMINABLE = "seen_terminable"
    """A held job has left SUBMITTED, so TerminateJob may be sent."""
    ESCALATED = "escalated"
    """Instances have not stopped for some time, and the next escalation level begins."""
    SEEN_STOPPED = "seen_stopped"
    """The job is finished and no instance is live."""
    SEEN_LIVE_AGAIN = "seen_live_again"
    """A stopped job runs again, or is no longer proven stopped."""
    SEEN_MISSING = "seen_missing"
    """The cloud does not know the job."""
    SETTLED = "settled"
    """The job is still stopped after the settle window, or its record was deleted since."""
    GAVE_UP = "gave_up"
    """The deadline passed, or the termination was ended manually."""
    WITHDRAWN = "withdrawn"
    """Its operation was stopped before any TerminateJob was sent."""


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.QUEUED: {
        Event.CALL_STARTED: State.SENDING,
        Event.CALL_ACKNOWLEDGED: State.DRAINING,
        Event.CALL_REFUSED: State.REFUSED,
        Event.SEEN_SUBMITTED: State.HELD,
        Event.SEEN_STOPPED: State.ALREADY_FINISHED,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
        Event.WITHDRAWN: State.WITHDRAWN,
    },
    State.HELD: {
        Event.CALL_ACKNOWLEDGED: State.DRAINING,
        Event.CALL_REFUSED: State.REFUSED,
        Event.SEEN_TERMINABLE: State.QUEUED,
        Event.SEEN_STOPPED: State.ALREADY_FINISHED,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
        Event.WITHDRAWN: State.WITHDRAWN,
    },
    State.SENDING: {
        Event.CALL_ACKNOWLEDGED: State.DRAINING,
        Event.CALL_CONFLICTED: State.DRAINING,
        Event.CALL_NOT_EXECUTED: State.QUEUED,
        Event.CALL_REFUSED: State.REFUSED,
        Event.SEEN_SUBMITTED: State.HELD,
        Event.SEEN_STOPPED: State.ALREADY_FINISHED,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
    },
    State.DRAINING: {
        Event.CALL_STARTED: State.SENDING,
        Event.ESCALATED: State.DRAINING,
        Event.SEEN_STOPPED: State.SETTLING,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
    },
    State.SETTLING: {
        Event.SEEN_LIVE_AGAIN: State.DRAINING,
        Event.SETTLED: State.VERIFIED,
        Event.GAVE_UP: State.UNVERIFIED,
    },
    State.VERIFIED: {},
    State.ALREADY_FINISHED: {},
    State.NOT_FOUND: {},
    State.REFUSED: {},
    State.WITHDRAWN: {},
    State.UNVERIFIED: {},
}

LIVE_STATES: Final = tuple(state for state in State if not state.final)
"""States of a termination that goes on."""
FINAL_STATES: Final = tuple(state for state in State if state.final)
PENDING_STATES: Final = (State.QUEUED, State.HELD)
"""States in which a termination waits for TerminateJob to be sent."""
SENT_STATES: Final = tuple(state for state in LIVE_STATES if state not in PENDING_STATES)
PROVEN_STATES: Final = (State.VERIFIED, State.ALREADY_FINISHED)
"""Final states in which the job is proven to have stopped."""


def next_state(state: State, event: Event) -> State:
    """Return the state that ``event`` leads to from ``state``; raise IllegalTransition if none."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} is not possible in {state}") from None


def mermaid() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> queued"]
    for origin, row in TRANSITIONS.items():
        events_by_target: dict[State, list[Event]] = {}
        for event, target in row.items():
            events_by_target.setdefault(target, []).append(event)
        lines += [
            f"    {origin} --> {target} : {', '.join(events)}"
            for target, events in events_by_target.items()
        ]
    lines += [f"    {state} --> [*]" for state in FINAL_STATES]
    return "\n".join(lines)
