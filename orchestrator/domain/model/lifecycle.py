"""The life of a termination: one table, state and event to state.

Everything that changes a state goes through :func:`next_state`.  A pair that the table does not
hold is a bug and raises :class:`~orchestrator.domain.errors.IllegalTransition`.  The README's
diagram is drawn from this table by :func:`mermaid`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from orchestrator.domain.errors import IllegalTransition


class State(StrEnum):
    """Where a termination is."""

    QUEUED = "queued"
    """Durable; waits for a first look, for its turn in the quota, or for ``not_before``."""
    HELD = "held"
    """The cloud forbids the call while the job is SUBMITTED; looked at until it leaves."""
    SENDING = "sending"
    """An attempt is written; until its answer is written its outcome is unknown."""
    DRAINING = "draining"
    """The cloud acted; instances are going down."""
    SETTLING = "settling"
    """Job finished and no instance live; watched a while longer, for RetryJobs revives."""
    VERIFIED = "verified"
    """Final: proven down."""
    ALREADY_FINISHED = "already_finished"
    """Final: it had finished before any call of ours had effect."""
    NOT_FOUND = "not_found"
    """Final: the cloud does not know the job; never counted as success."""
    REFUSED = "refused"
    """Final: the cloud refuses for good."""
    WITHDRAWN = "withdrawn"
    """Final: taken back before a call was sent."""
    UNVERIFIED = "unverified"
    """Final: gave up by its deadline, live or not known to be down for good."""

    @property
    def final(self) -> bool:
        return not TRANSITIONS[self]


class Event(StrEnum):
    """What happened to a termination."""

    CALL_STARTED = "call_started"
    """An attempt is about to be written and the call to leave."""
    CALL_ACCEPTED = "call_accepted"
    """The cloud acknowledged the call, or a look shows that it acts on it or did."""
    CALL_NOT_EXECUTED = "call_not_executed"
    """The call certainly had no effect, or a look shows the job running on untouched."""
    CALL_CONFLICTED = "call_conflicted"
    """A call was refused for the state of the job, on which another one acts already."""
    CALL_REFUSED = "call_refused"
    """The cloud refuses for good."""
    SEEN_SUBMITTED = "seen_submitted"
    """The job is SUBMITTED, where the cloud forbids the call."""
    SEEN_TERMINABLE = "seen_terminable"
    """A held job left SUBMITTED and can be called."""
    ESCALATED = "escalated"
    """Instances did not go down for long, and something more is done about it."""
    SEEN_STOPPED = "seen_stopped"
    """The job is finished and no instance is live."""
    SEEN_LIVE_AGAIN = "seen_live_again"
    """A job that was down runs again."""
    SEEN_MISSING = "seen_missing"
    """The cloud does not know the job."""
    SETTLED = "settled"
    """Still down after the settle window."""
    GAVE_UP = "gave_up"
    """The deadline passed."""
    WITHDRAWN = "withdrawn"
    """The requester took it back."""


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.QUEUED: {
        Event.CALL_STARTED: State.SENDING,
        Event.CALL_ACCEPTED: State.DRAINING,
        Event.CALL_REFUSED: State.REFUSED,
        Event.SEEN_SUBMITTED: State.HELD,
        Event.SEEN_STOPPED: State.ALREADY_FINISHED,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
        Event.WITHDRAWN: State.WITHDRAWN,
    },
    State.HELD: {
        Event.CALL_ACCEPTED: State.DRAINING,
        Event.CALL_REFUSED: State.REFUSED,
        Event.SEEN_TERMINABLE: State.QUEUED,
        Event.SEEN_STOPPED: State.ALREADY_FINISHED,
        Event.SEEN_MISSING: State.NOT_FOUND,
        Event.GAVE_UP: State.UNVERIFIED,
        Event.WITHDRAWN: State.WITHDRAWN,
    },
    State.SENDING: {
        Event.CALL_ACCEPTED: State.DRAINING,
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
FINAL_STATES: Final = tuple(state for state in State if state.final)
NOT_CALLED: Final = (State.QUEUED, State.HELD)
CALLED: Final = tuple(state for state in LIVE_STATES if state not in NOT_CALLED)
PROVEN_STATES: Final = (State.VERIFIED, State.ALREADY_FINISHED)


def next_state(state: State, event: Event) -> State:
    """The state that ``event`` leads to from ``state``; raises IllegalTransition if none."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransition(f"{event} is not possible in {state}") from None


def mermaid() -> str:
    """The table as a Mermaid state diagram."""
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
