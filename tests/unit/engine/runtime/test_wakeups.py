"""A decision wakes the loops that it gives something to do, and no other."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineCounts
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.runtime.wakeups import WakeupEvents
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import later, termination

BEFORE = termination(state=State.DRAINING, poll_kind=PollKind.BATCH, next_poll_at=later(1), run=1)


def woken(wakeups: WakeupEvents) -> set[str]:
    return {each.name for each in fields(wakeups) if getattr(wakeups, each.name).is_set()}


@pytest.mark.parametrize(
    ("changes", "wakeups"),
    [
        ({}, set()),
        ({"evidence": 2, "failures": 1}, set()),
        ({"terminate_after": later(0)}, {"calls"}),
        ({"next_poll_at": later(0.5)}, {"batch_polls"}),
        ({"poll_kind": PollKind.SINGLE}, {"single_polls"}),
        ({"poll_kind": PollKind.SINGLE, "next_poll_at": later(3)}, {"single_polls"}),
        ({"run": 2}, {"captures"}),
        ({"state": State.SETTLING}, set()),
        ({"state": State.VERIFIED}, set()),
        ({"state": State.VERIFIED, "revival_watch_s": 1.0}, {"revivals"}),
        ({"state": State.UNVERIFIED}, set()),
        ({"state": State.SETTLING, "machines": MachineCounts(total=1)}, {"machines"}),
        ({"confirm_from": later(5)}, set()),
    ],
    ids=str,
)
def test_a_decision_wakes_the_loops_that_it_concerns(
    changes: dict[str, Any], wakeups: set[str]
) -> None:
    made = WakeupEvents()
    made.on_decision(BEFORE, with_fields(BEFORE, **changes))
    assert woken(made) == wakeups


def test_machines_to_be_confirmed_wake_the_machine_poller_once_and_at_the_last_count() -> None:
    settling = replace(BEFORE, state=State.SETTLING, machines=MachineCounts(total=1, gone=1))
    confirmed = with_fields(settling, confirm_from=later(5))
    for before, after, wakeups in (
        (settling, settling, set()),
        (settling, confirmed, {"machines"}),
        (confirmed, confirmed, set()),
        (
            confirmed,
            with_fields(confirmed, instances_observed_at=later(5)),
            {"machines"},
        ),
    ):
        made = WakeupEvents()
        made.on_decision(before, after)
        assert woken(made) == wakeups


def test_a_call_that_is_no_longer_due_wakes_no_loop() -> None:
    made = WakeupEvents()
    made.on_decision(with_fields(BEFORE, terminate_after=later(0)), BEFORE)
    assert not woken(made)


def test_an_outside_event_wakes_every_loop() -> None:
    made = WakeupEvents()
    made.all()
    assert woken(made) == {each.name for each in fields(WakeupEvents)}
