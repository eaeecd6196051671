"""Every kind of job once, checked against what is true of it; and broken engines are found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from orchestrator.domain.decisions import (
    before_terminate_job,
    decide,
    draining,
    escalation,
    evidence,
    settling,
)
from orchestrator.domain.decisions.decision import past_deadline
from orchestrator.domain.model.machine import NO_MACHINES
from orchestrator.domain.model.unconfirmed import Unconfirmed
from tests.simulation import kinds
from tests.simulation.kinds import JOBS_OF_A_RUN, KINDS, Kind
from tests.simulation.truth import EXACTLY, JUDGED
from tests.simulation.world import make_template

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from orchestrator.domain.decisions.decision import Decision, Policy
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination

ALL: Final = -(-len(KINDS) // JOBS_OF_A_RUN)
"""Seeds in which every kind is run."""
ENDS: Final = {
    "running: nodes": "verified with 3",
    "FAILED, half interrupted: nodes": "verified with 3",
    "a quarter pending: own machines": "verified with 3",
    "half starting, those machines not shown and left behind": "verified with 3",
    "one stubborn: nodes": "verified with 3",
    "one immortal: own machines": "unverified with 1",
    "one immortal, reads FAILED: nodes": "unverified with 2",
    "drains beyond its deadline, reads FAILED: own machines": "unverified with 2",
    "counters read stopped too early, reads FAILED: nodes": "verified with 3",
    "all say stopped, one lives on: nodes": "verified with 3",
    "counters never move: own machines": "unverified with 2",
    "counters are empty: nodes": "unverified with 2",
    "revived as it settles, then pending: own machines": "verified with 3",
    "deleted once stopped: nodes": "not_found with 1",
    "deleted once stopped, reads FAILED early: own machines": "not_found with 2",
    "failed before: own machines": "already_finished with 3",
    "failed before, deleted: nodes": "not_found with 0",
    "SUBMITTED for ever: nodes": "unverified with 0",
    "refused on nodes": "refused with 0",
    "forbidden": "refused with 0",
    kinds.UNKNOWN: "not_found with 0",
    "too few are counted: nodes": "unverified with 2",
    "not found at first: nodes": "verified with 3",
    "forbidden at first: nodes": "verified with 3",
    "reads CANCELLED once finished: nodes": "verified with 3",
    "CANCELLED before: nodes": "already_finished with 3",
    "no instance is counted, failed before: nodes": "unverified with 2",
    "no instance is counted, succeeded before: nodes": "already_finished with 2",
    "one runs again as it settles: nodes": "verified with 3",
}
"""Ends by DESIGN.md, whether machines can be read or not: written without ``truth``."""
BEST: Final = {
    "running: own machines",
    "interrupted: own machines",
    "all stubborn: own machines",
    "machines outlive it for a while",
    "all say stopped, but not yet: own machines",
    "NextAction hidden, drains for long: own machines",
    "revived at once, twice: own machines",
    "revived as it settles, machines outlive each run",
}
"""Kinds proven to the highest evidence where machines can be read."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kinds") / "template.db"
    make_template(path)
    return path


def test_there_are_more_than_a_hundred_and_no_two_are_one() -> None:
    assert len(KINDS) >= 100
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    tables = [str(sorted(kind.table.items())) for kind in KINDS if kind.table is not None]
    assert len(set(tables)) == len(KINDS) - 1


def test_seeds_in_a_row_run_every_kind_equally_often() -> None:
    run = Counter(kind.name for seed in range(1, len(KINDS) + 1) for kind in kinds.of_a_run(seed))
    assert set(run.values()) == {JOBS_OF_A_RUN}


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_each_ends_with_what_is_true_and_could_be_known(template: Path, tmp_path: Path) -> None:
    fired: Counter[str] = Counter()
    for seed in range(1, ALL + 1):
        result = kinds.run(seed, template, tmp_path)
        assert result.violations == [], f"seed {seed}"
        fired += result.fired
    assert sum(fired[how] for how in JUDGED) == ALL * JOBS_OF_A_RUN
    assert fired[EXACTLY] > 0.85 * ALL * JOBS_OF_A_RUN
    ends = dict(what.split(" ended ") for what in fired if " ended " in what)
    assert {kind.name for kind in KINDS} <= ends.keys()


def of_one_kind(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Have each run take these kinds, and no other."""
    chosen = [kind for kind in KINDS if kind.name in names]
    assert len(chosen) == len(names)

    def of_a_run(seed: int) -> list[Kind]:
        del seed
        return chosen

    monkeypatch.setattr(kinds, "of_a_run", of_a_run)


def test_the_ends_of_all_kinds_match_the_meaning_of_the_levels(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_one_kind(monkeypatch, *ENDS, *BEST)
    result = kinds.run(1, template, tmp_path)
    assert result.violations == []
    ended = {what.partition(" ended ")[::2] for what in result.fired if " ended " in what}
    best = dict.fromkeys(BEST, "verified with 5")
    assert {(kind, end) for kind, end in ended if kind in ENDS | best} == set((ENDS | best).items())


# --- engines that are broken ---------------------------------------------------------------------


_proves_stopped = evidence.proves_stopped
_on_finished_not_stopped = draining._on_finished_not_stopped


def _is_too_sure(*asked: Any) -> Termination:
    return replace(_on_finished_not_stopped(*asked), evidence=evidence.NO_INSTANCE_LIVE)


def _ignores_next_action(termination: Termination, seen: JobSeen) -> bool:
    return _proves_stopped(termination, replace(seen, next_action=""))


def _does_not_settle(updated: Termination, now: datetime, policy: Policy) -> Decision:
    counted = replace(
        updated, schedule=replace(updated.schedule, settle_until=updated.drain.counted_at)
    )
    return ON_STILL_STOPPED(counted, now, policy)


def _sees_no_revival(
    termination: Termination, seen: JobSeen, now: datetime, policy: Policy
) -> Decision:
    """Behave as if each read had shown the earlier state."""
    again = replace(
        termination,
        job=replace(termination.job, observed_at=seen.observed_at),
        drain=replace(termination.drain, counted_at=seen.observed_at),
    )
    return ON_STILL_STOPPED(again, now, policy)


def _goes_by_the_state(updated: Termination, now: datetime, policy: Policy) -> Decision:
    """Behave as if each read of the window had counted the instances."""
    return ON_STILL_STOPPED(
        replace(updated, drain=replace(updated.drain, counted_at=updated.job.observed_at)),
        now,
        policy,
    )


def _forgets_machines(updated: Termination, now: datetime, policy: Policy) -> Decision:
    return ON_STILL_STOPPED(replace(updated, machines=NO_MACHINES), now, policy)


def _is_impatient(termination: Termination, now: datetime) -> bool:
    return past_deadline(termination, now + timedelta(seconds=kinds.GIVE_UP_AFTER_S / 2))


ON_STILL_STOPPED: Final = settling.verify_or_read_again


Breaks = tuple[object, str, "Callable[..., Any] | property | int"]
BROKEN: Final[dict[str, tuple[Breaks, str, str]]] = {
    "FAILED is taken for stopped": (
        (draining, "_on_finished_not_stopped", _is_too_sure),
        "reads FAILED early: nodes",
        "truth",
    ),
    "NextAction is ignored": (
        (evidence, "proves_stopped", _ignores_next_action),
        "counters read stopped too early, reads FAILED: nodes",
        "truth",
    ),
    "counters need not add up": (
        (evidence, "contradiction", lambda *_: None),
        "too few are counted: nodes",
        "truth",
    ),
    "machines are believed gone": (
        (evidence, "machines_gone", lambda _: True),
        "half starting, those machines not shown and left behind",
        "truth",
    ),
    "machines are forgotten": (
        (settling, "verify_or_read_again", _forgets_machines),
        "one machine stays",
        "known",
    ),
    "nothing settles": (
        (settling, "verify_or_read_again", _does_not_settle),
        "running: own machines",
        "truth",
    ),
    "nothing settles on nodes": (
        (settling, "verify_or_read_again", _does_not_settle),
        "running: nodes",
        "early",
    ),
    "a revival is not seen": (
        (decide, "on_job_settling", _sees_no_revival),
        "revived as it settles: nodes",
        "truth",
    ),
    "what had finished is called": (
        (before_terminate_job, "_on_stopped_before_effect", before_terminate_job._on_terminable),
        "failed before: nodes",
        "known",
    ),
    "nothing is escalated": (
        (escalation, "next_level", lambda *_: None),
        "one stubborn: nodes",
        "known",
    ),
    "no job is called again": (
        (draining, "_ignores_termination", lambda *_: False),
        "revived at once: nodes",
        "known",
    ),
    "a job is given up early": (
        (decide, "past_deadline", _is_impatient),
        "drains beyond its deadline: nodes",
        "early",
    ),
    "the settle window ends by the state alone": (
        (settling, "verify_or_read_again", _goes_by_the_state),
        "one runs again as it settles: nodes",
        "truth",
    ),
    "one answer is enough": (
        (Unconfirmed, "confirms", lambda *_: True),
        "not found for a moment: nodes",
        "known",
    ),
    "the highest level is never reached": (
        (evidence, "READ_AGAIN", evidence.MACHINES_GONE),
        "running: own machines",
        "known",
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_engine_is_found(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    (where, name, instead), kind, found = BROKEN[broken]
    of_one_kind(monkeypatch, kind)
    assert kinds.run(1, template, tmp_path).violations == []
    monkeypatch.setattr(where, name, instead)
    violations = kinds.run(1, template, tmp_path).violations
    assert any(f"{found}: {kind}" in each for each in violations), violations
