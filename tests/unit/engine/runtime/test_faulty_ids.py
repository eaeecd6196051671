"""The id that makes a call fail is found, and no other is blamed for long."""

from __future__ import annotations

import pytest

from orchestrator.domain.errors import NOT_EXECUTED, REFUSALS, CloudErrorKind
from orchestrator.domain.model.termination import Termination
from orchestrator.engine.runtime.faulty_ids import (
    REFUSED_MAX,
    SHRINK_FACTOR,
    SUSPECT_AFTER_FAILURES,
    SUSPECTS_MAX,
    WORKED_RECENTLY_S,
    BatchSize,
    NextRead,
    SuspectJobs,
)
from tests.support.clock import ManualClock
from tests.unit.domain.build import error, termination

FAILED = error(CloudErrorKind.OUTCOME_UNKNOWN)
REFUSED = error(CloudErrorKind.REFUSED)
KIND = "draining"


def jobs(count: int) -> list[Termination]:
    return [termination(id=f"trm_{n}", job_id=f"job-{n}") for n in range(count)]


def suspects_of(clock: ManualClock) -> SuspectJobs:
    return SuspectJobs("the loop", "DescribeJobs", clock)


def fail_often(suspects: SuspectJobs, rows: list[Termination]) -> NextRead:
    for _ in range(SUSPECT_AFTER_FAILURES - 1):
        assert suspects.failed(rows, KIND, FAILED) is NextRead.AS_BEFORE
    return suspects.failed(rows, KIND, FAILED)


def leave_out(suspects: SuspectJobs, rows: list[Termination]) -> list[Termination]:
    left = suspects.leave_out([row.id for row in rows])
    return [row for row in rows if row.id in left]


def search(suspects: SuspectJobs, culprit: Termination) -> list[Termination]:
    """Call every group until none is left; return the jobs that were blamed."""
    blamed = list[Termination]()
    while rows := suspects.next_group():
        if culprit not in rows:
            suspects.worked(rows, None)
        elif suspects.failed(rows, None, FAILED) is NextRead.SINGLY:
            blamed += rows
    return blamed


@pytest.mark.parametrize("place", range(5))
def test_a_job_that_makes_calls_fail_is_found_and_then_called_alone(place: int) -> None:
    suspects, rows = suspects_of(ManualClock()), jobs(5)
    suspects.worked(rows[:1], KIND)
    assert fail_often(suspects, rows) is NextRead.IN_HALVES
    assert leave_out(suspects, rows) == []
    assert search(suspects, rows[place]) == [rows[place]]
    others = [row for row in rows if row is not rows[place]]
    assert leave_out(suspects, [others[0], rows[place], *others[1:]]) == others
    assert leave_out(suspects, [rows[place], *others]) == [rows[place]]
    assert suspects.failed([rows[place]], KIND, FAILED) is NextRead.SINGLY
    suspects.worked([rows[place]], KIND)
    assert leave_out(suspects, rows) == rows


@pytest.mark.parametrize("worked", [False, True])
def test_no_job_is_blamed_while_no_other_call_works(*, worked: bool) -> None:
    clock, (row,) = ManualClock(), jobs(1)
    suspects = suspects_of(clock)
    if worked:
        suspects.worked([row], KIND)
        clock.advance(WORKED_RECENTLY_S + 1)
    assert fail_often(suspects, [row]) is NextRead.IN_HALVES
    for _ in range(3):
        assert suspects.next_group() == [row]
        assert suspects.failed(suspects.next_group(), None, FAILED) is NextRead.IN_HALVES
    suspects.worked(suspects.next_group(), None)
    assert leave_out(suspects, [row]) == [row]


def test_one_search_runs_at_a_time() -> None:
    suspects, rows = suspects_of(ManualClock()), jobs(8)
    assert fail_often(suspects, rows[:4]) is NextRead.IN_HALVES
    assert suspects.failed(rows[4:], KIND, FAILED) is NextRead.AS_BEFORE
    assert leave_out(suspects, rows) == rows[4:]


def test_failures_of_one_kind_of_batch_do_not_count_for_another() -> None:
    suspects, rows = suspects_of(ManualClock()), jobs(4)
    for kind in range(2 * SUSPECT_AFTER_FAILURES):
        assert suspects.failed(rows, kind, FAILED) is NextRead.AS_BEFORE


def test_a_refused_batch_is_halved_at_once_until_few_are_left() -> None:
    suspects, rows = suspects_of(ManualClock()), jobs(4 * SUSPECTS_MAX)
    verdicts = [suspects.failed(rows, KIND, REFUSED)]
    while group := suspects.next_group():
        verdicts.append(suspects.failed(group, None, REFUSED))
        assert len(group) > SUSPECTS_MAX or verdicts[-1] is NextRead.SINGLY
    assert verdicts == [NextRead.IN_HALVES] * 3 + [NextRead.SINGLY] * 4


@pytest.mark.parametrize("worked", [False, True])
def test_an_action_that_is_always_refused_is_forbidden_unless_it_ever_worked(
    caplog: pytest.LogCaptureFixture, *, worked: bool
) -> None:
    suspects = suspects_of(ManualClock())
    if worked:
        suspects.worked(jobs(1), KIND)
    for _ in range(REFUSED_MAX - 1):
        assert suspects.failed(jobs(10), KIND, REFUSED) is NextRead.IN_HALVES
    for _ in range(2):
        verdict = suspects.failed(jobs(10), KIND, REFUSED)
        assert verdict is (NextRead.IN_HALVES if worked else NextRead.SINGLY)
    assert len(caplog.messages) == (0 if worked else 1)


@pytest.mark.parametrize("kind", NOT_EXECUTED)
def test_what_was_not_executed_says_nothing_of_the_ids(kind: CloudErrorKind) -> None:
    suspects, rows, size = suspects_of(ManualClock()), jobs(8), BatchSize(100)
    for _ in range(3 * SUSPECT_AFTER_FAILURES):
        assert suspects.failed(rows, KIND, error(kind)) is NextRead.AS_BEFORE
        assert not size.failed(1, error(kind))
    assert (leave_out(suspects, rows), size.at_once) == (rows, 100)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refusal_halves_the_size_until_one_id_is_left(kind: CloudErrorKind) -> None:
    size, sizes = BatchSize(100), list[int]()
    while not size.failed(size.at_once, error(kind)):
        sizes.append(size.at_once)
    assert sizes == [50, 25, 12, 6, 3, 1]


def test_other_failures_shrink_it_after_several_and_what_works_doubles_it() -> None:
    size = BatchSize(100)
    for _ in range(SUSPECT_AFTER_FAILURES - 1):
        assert not size.failed(100, FAILED)
        assert size.at_once == 100
    assert not size.failed(100, FAILED)
    assert size.at_once == 100 // SHRINK_FACTOR
    assert not size.failed(10, FAILED)
    assert size.failed(1, FAILED)
    sizes = list[int]()
    for _ in range(8):
        size.worked()
        sizes.append(size.at_once)
    assert sizes == [2, 4, 8, 16, 32, 64, 100, 100]


def test_while_the_size_is_still_smaller_one_failure_shrinks_it() -> None:
    size = BatchSize(100)
    for _ in range(SUSPECT_AFTER_FAILURES):
        size.failed(100, FAILED)
    size.worked()
    assert not size.failed(20, FAILED)
    assert size.at_once == 2
