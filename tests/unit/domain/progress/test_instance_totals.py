"""Live, stopped and uncounted instances, for every combination of a termination's values."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Final

import pytest

from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.instance_totals import InstanceGroup, Left, Tally, tally

COUNTS: Final = (None, (10, 4), (10, 0), (0, 0))
"""Total and live instances at the last count."""
EVERY: Final = tuple(
    InstanceGroup(
        state=state,
        evidence=evidence,
        seen=seen,
        revived=revived,
        jobs=1,
        total=counts and counts[0],
        live=counts and counts[1],
    )
    for state, evidence, seen, revived, counts in product(
        State, range(6), (True, False), (True, False), COUNTS
    )
)
STANDS: Final[dict[tuple[tuple[int, int] | None, bool], tuple[int, int, int]]] = {
    # (count, evidence >= 3): live, stopped, and jobs not counted, in every state.
    (None, False): (0, 0, 1),
    (None, True): (0, 0, 1),
    ((10, 4), False): (4, 6, 0),
    ((10, 4), True): (4, 6, 0),
    ((10, 0), False): (0, 0, 1),
    ((10, 0), True): (0, 10, 0),
    ((0, 0), False): (0, 0, 1),
    ((0, 0), True): (0, 0, 0),
}


def expected(group: InstanceGroup) -> tuple[int, int, int]:
    count = None
    if group.total is not None and group.live is not None:
        count = (group.total, group.live)
    live, stopped, uncounted = (0, 0, 1) if group.revived else STANDS[count, group.evidence >= 3]
    unknown = group.state is State.NOT_FOUND and not group.seen
    return live, stopped, 0 if unknown else uncounted


@pytest.mark.parametrize("state", State)
def test_the_counts_of_one_job(state: State) -> None:
    for group in (each for each in EVERY if each.state is state):
        found = tally([group])
        live, stopped, uncounted = expected(group)
        assert (found.total, found.live, found.stopped) == (group.total or 0, live, stopped), group
        assert found.jobs_not_counted == uncounted, group
        left = Left(jobs_live=int(live > 0), live=live, jobs_not_counted=uncounted)
        listed = state.final and (live or uncounted)
        assert found.left_by_final_state == ({state: left} if listed else {}), group


def test_the_counts_of_all_jobs_are_summed() -> None:
    """Final states are listed by their names, other states are not listed."""
    found = tally(EVERY)
    one_by_one = [tally([group]) for group in EVERY]
    for name in ("total", "live", "stopped", "jobs_not_counted"):
        assert getattr(found, name) == sum(getattr(each, name) for each in one_by_one)
    assert set(found.left_by_final_state) == {state for state in State if state.final}
    assert tally([]) == Tally()


REFUSED: Final = InstanceGroup(
    state=State.REFUSED, evidence=0, seen=True, revived=False, jobs=1, total=None, live=None
)


def test_live_ones_of_refused_jobs_are_named() -> None:
    """Two jobs were counted, three never were."""
    counted = replace(REFUSED, jobs=2, total=150, live=100)
    never = replace(REFUSED, jobs=3)
    verified = replace(REFUSED, state=State.VERIFIED, evidence=5, jobs=9, total=9, live=0)
    found = tally([counted, never, verified])
    assert (found.total, found.live, found.stopped, found.jobs_not_counted) == (159, 100, 59, 3)
    assert found.left_by_final_state == {
        State.REFUSED: Left(jobs_live=2, live=100, jobs_not_counted=3)
    }
