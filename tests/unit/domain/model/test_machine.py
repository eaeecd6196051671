"""Status of a machine after a read, and decisions on the job that it belonged to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions import evidence
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.machine import (
    CapturedMachine,
    MachineSeen,
    MachineState,
    MachineStatus,
    classify_machine,
)
from orchestrator.domain.model.observation import JobUnlisted
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    NOW,
    POLICY,
    STOPPED,
    batch_read,
    later,
    machines,
    read,
    termination,
)

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.termination import Termination

WATCH_S = 120.0


def captured(*, stopped_at: datetime | None = NOW, **known: Any) -> CapturedMachine:
    values: dict[str, Any] = {"starting": False, "status": None} | known
    return CapturedMachine(
        termination_seq=1,
        region="ap-guangzhou",
        task="a",
        instance_index=0,
        machine_id="ins-1",
        stopped_at=stopped_at,
        **values,
    )


def listed(state: MachineState | None) -> MachineSeen:
    return MachineSeen(observed_at=NOW, machine_id="ins-1", state=state)


RUNNING, SHUTDOWN = listed(MachineState.RUNNING), listed(MachineState.SHUTDOWN)


@pytest.mark.parametrize(
    ("machine", "seen", "status"),
    [
        (captured(), RUNNING, MachineStatus.UP),
        (captured(), listed(None), MachineStatus.UP),
        (captured(), listed(MachineState.STOPPED), MachineStatus.UP),
        (captured(), SHUTDOWN, MachineStatus.TERMINATED),
        (captured(), None, MachineStatus.GONE),
        (captured(status=MachineStatus.UP), None, MachineStatus.GONE),
        (captured(stopped_at=None), RUNNING, MachineStatus.UP),
        (captured(stopped_at=None), SHUTDOWN, MachineStatus.UP),
        (captured(stopped_at=None), None, None),
        (captured(stopped_at=None, status=MachineStatus.UP), None, MachineStatus.UP),
        (captured(starting=True), None, MachineStatus.MISSING),
        (captured(starting=True, status=MachineStatus.MISSING), None, MachineStatus.MISSING),
        (captured(starting=True, status=MachineStatus.UP), None, MachineStatus.GONE),
        (captured(starting=True, stopped_at=later(1 - WATCH_S)), None, MachineStatus.MISSING),
        (captured(starting=True, stopped_at=later(-WATCH_S)), None, MachineStatus.GONE),
        (captured(starting=True), SHUTDOWN, MachineStatus.TERMINATED),
    ],
)
def test_what_a_read_shows(
    machine: CapturedMachine, seen: MachineSeen | None, status: MachineStatus | None
) -> None:
    assert classify_machine(machine, seen, NOW, starting_watch_s=WATCH_S) is status


def test_only_machines_without_further_instances_are_terminating() -> None:
    """A machine that is stopped, rebooting or migrating may run again."""
    assert {state.name for state in MachineState if state.is_terminating} == {
        "SHUTDOWN",
        "TERMINATING",
        "LAUNCH_FAILED",
    }


# --- the job -------------------------------------------------------------------------------------


def settling(**known: Any) -> Termination:
    """Return a settling job whose settle window ends after 30 s."""
    values: dict[str, Any] = {
        "job_state": JobState.FAILED,
        "job_end_time": "E1",
        "instances": STOPPED,
        "settle_until": later(30),
        "evidence": 3,
    }
    return termination(State.SETTLING, **(values | known))


def still_stopped(before: Termination, at_s: float) -> Decision:
    """Return the decision on another count of its instances."""
    return decide(before, read(JobState.FAILED, at=later(at_s)), later(at_s), POLICY)


def ends(before: Termination, at_s: float) -> tuple[Event | None, int]:
    decision = still_stopped(before, at_s)
    return decision.event, decision.after.evidence


HIDDEN = ErrorDetail(code="UnauthorizedOperation", message="no")


@pytest.mark.parametrize(
    ("known", "event", "level"),
    [
        ({}, Event.SETTLED, 3),
        (machines(), Event.SETTLED, 5),
        (machines(listed=False), Event.SETTLED, 3),
        (machines() | {"run": 2}, Event.SETTLED, 3),
        (machines() | {"first_sent_at": later(-1)}, Event.SETTLED, 3),
        (machines(gone=3, problem=HIDDEN), Event.SETTLED, 3),
        (machines(problem=HIDDEN, all_observed_at=later(20)), Event.SETTLED, 4),
        (machines(all_observed_at=later(29)), None, 4),
        (machines(all_observed_at=later(30)), Event.SETTLED, 5),
        (machines(gone=3), None, 3),
        (machines(gone=3, up=1), None, 3),
        (machines(gone=0, listed=False), None, 3),
    ],
)
def test_a_job_settles_once_none_of_its_machines_is_left(
    known: dict[str, Any], event: Event | None, level: int
) -> None:
    before = settling(**known)
    assert ends(before, 30) == (event, level)
    assert still_stopped(before, 29).event is None


def test_machines_that_are_gone_count_before_the_settle_window_has_passed() -> None:
    assert ends(settling(**machines()), 5) == (None, evidence.MACHINES_GONE)


def test_a_job_that_waits_for_its_machines_is_polled_again_soon() -> None:
    waiting = still_stopped(settling(**machines(gone=3)), 40).after
    assert waiting.schedule.next_poll_at == later(40 + POLICY.poll.settling_interval_s)


def test_machines_that_stay_up_end_it_unverified_at_its_deadline() -> None:
    before = settling(**machines(gone=3, up=1))
    assert still_stopped(before, 30 + 3599).event is None
    decision = still_stopped(before, 30 + 3600)
    assert decision.event is Event.GAVE_UP
    assert "1 of 4 machines were still up" in str(decision.why)


def test_machines_that_could_not_be_read_by_then_do_not() -> None:
    assert ends(settling(**machines(gone=3)), 30 + 3600) == (Event.SETTLED, 3)


def test_a_job_that_is_deleted_waits_for_its_machines_too() -> None:
    waiting = settling(observed_at=NOW, **machines(gone=3))
    for at_s in (5, 10, 20, 50, 65):
        decision = decide(waiting, JobUnlisted(), later(at_s), POLICY)
        assert decision.event is None
        waiting = decision.after
    gone = with_fields(waiting, **machines())
    settled = decide(gone, JobUnlisted(), later(70), POLICY)
    assert (settled.event, settled.after.evidence) == (Event.SETTLED, 4)
    assert settled.after.problem is None


def test_nodes_of_a_compute_environment_are_never_gone() -> None:
    known = machines()
    known["capture"] = replace(known["capture"], nodes=1)
    assert not evidence.machines_gone(settling(**known))
    assert ends(settling(**known), 30) == (Event.SETTLED, 3)


# --- runs ----------------------------------------------------------------------------------------


def test_a_job_that_runs_again_has_other_machines() -> None:
    revived = decide(settling(**machines()), batch_read(JobState.RUNNING), later(5), POLICY).after
    assert (revived.calls.run, revived.calls.first_sent_at) == (2, None)


def test_a_job_that_ran_and_ended_again_unseen_has_too() -> None:
    again = batch_read(JobState.FAILED, at=later(5), end_time="E2")
    doubted = decide(settling(**machines()), again, later(5), POLICY).after
    assert (doubted.state, doubted.calls.run, doubted.calls.first_sent_at) == (
        State.DRAINING,
        2,
        None,
    )
