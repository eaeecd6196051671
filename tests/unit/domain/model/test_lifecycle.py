from __future__ import annotations

import itertools

import pytest

from orchestrator.domain.errors import IllegalTransition
from orchestrator.domain.model.lifecycle import (
    FINAL_STATES,
    LIVE_STATES,
    PENDING_STATES,
    SENT_STATES,
    TRANSITIONS,
    Event,
    State,
    mermaid,
    next_state,
)

EXPECTED = {
    ("queued", "call_started"): "sending",
    ("queued", "call_acknowledged"): "draining",
    ("queued", "call_refused"): "refused",
    ("queued", "seen_submitted"): "held",
    ("queued", "seen_stopped"): "already_finished",
    ("queued", "seen_missing"): "not_found",
    ("queued", "gave_up"): "unverified",
    ("queued", "withdrawn"): "withdrawn",
    ("held", "call_acknowledged"): "draining",
    ("held", "call_refused"): "refused",
    ("held", "seen_terminable"): "queued",
    ("held", "seen_stopped"): "already_finished",
    ("held", "seen_missing"): "not_found",
    ("held", "gave_up"): "unverified",
    ("held", "withdrawn"): "withdrawn",
    ("sending", "call_acknowledged"): "draining",
    ("sending", "call_conflicted"): "draining",
    ("sending", "call_not_executed"): "queued",
    ("sending", "call_refused"): "refused",
    ("sending", "seen_submitted"): "held",
    ("sending", "seen_stopped"): "already_finished",
    ("sending", "seen_missing"): "not_found",
    ("sending", "gave_up"): "unverified",
    ("draining", "call_started"): "sending",
    ("draining", "escalated"): "draining",
    ("draining", "seen_stopped"): "settling",
    ("draining", "seen_missing"): "not_found",
    ("draining", "gave_up"): "unverified",
    ("settling", "seen_live_again"): "draining",
    ("settling", "settled"): "verified",
    ("settling", "gave_up"): "unverified",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_pair_leads_where_it_should_or_nowhere(state: State, event: Event) -> None:
    target = EXPECTED.get((state, event))
    if target is None:
        with pytest.raises(IllegalTransition, match=f"{event} is not possible in {state}"):
            next_state(state, event)
    else:
        assert next_state(state, event) == target


def test_a_final_state_has_no_transitions() -> None:
    assert set(FINAL_STATES) == {
        *("verified", "already_finished", "not_found", "refused", "withdrawn", "unverified"),
    }
    assert set(LIVE_STATES) | set(FINAL_STATES) == set(State)
    assert set(SENT_STATES) == {"sending", "draining", "settling"}
    assert {*SENT_STATES, *PENDING_STATES} == set(LIVE_STATES)


def test_every_state_can_be_reached_and_ends() -> None:
    reached = {State.QUEUED}
    while grown := {s for r in reached for s in TRANSITIONS[r].values()} - reached:
        reached |= grown
    assert reached == set(State)


def test_the_diagram_shows_every_transition() -> None:
    drawn = mermaid()
    for (state, event), target in EXPECTED.items():
        line = next(x for x in drawn.splitlines() if x.startswith(f"    {state} --> {target} "))
        assert event in line
