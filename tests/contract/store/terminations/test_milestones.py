"""Log lines about operations, on every database: one line each, written after the commit."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.decision import apply_event
from orchestrator.domain.decisions.revival import RevivalCheck
from orchestrator.domain.errors import IdempotencyKeyReused, StoreUnavailable
from orchestrator.domain.model.attempt import NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import CallStarted, Withdrawn
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.terminations import milestones
from tests.support.stored_operations import operation, submit
from tests.support.termination_fields import store_fields, with_fields
from tests.unit.domain.build import LIVE, NOW, POLICY, STOPPED, batch_read, later, read

if TYPE_CHECKING:
    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.partition.partition_store import PartitionStore
    from orchestrator.store.records.queries import SqlRecords

FORGED = "all\n2026-01-01 [info] operation op_9 finished: verified\x1b[2J"
ESCAPED = r"'all\n2026-01-01 [info] operation op_9 finished: verified\x1b[2J'"
HERE = "account 'main' in ap-guangzhou"


class Log:
    """The lines logged since the last call of ``lines``, and their levels."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, "orchestrator.store")
        self.levels: list[str] = []

    def lines(self) -> list[str]:
        logged = [record for record in self._caplog.records if record.name == milestones.__name__]
        self.levels = [record.levelname for record in logged]
        assert all(record.getMessage().isprintable() for record in logged)
        lines = [record.getMessage() for record in logged]
        self._caplog.clear()
        return lines


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


async def found(records: SqlRecords, number: int, job_id: str) -> Termination:
    (record,) = [
        each
        for each in await records.terminations(after=0, limit=100, job_id=job_id)
        if each.termination.id == f"trm_{number}_{job_id}"
    ]
    return record.termination


async def test_an_accepted_operation_is_logged(records: SqlRecords, log: Log) -> None:
    """Text that people typed is quoted, so that no part of it looks like a log line."""
    typed = {"requested_by": FORGED, "reason": FORGED, "account": FORGED}
    await submit(records, 1, "job-1", "job-2", **typed, idempotency_key="k")
    (line,) = log.lines()
    assert line == (
        f"operation op_1 accepted: 2 jobs of account {ESCAPED} in ap-guangzhou, "
        f"requested by {ESCAPED}: {ESCAPED}"
    )
    again: dict[str, Any] = {"requested_by": FORGED, "idempotency_key": "k"}
    assert (await records.create(operation(2, "job-1", **again), ["trm_2"])).replayed
    with pytest.raises(IdempotencyKeyReused):
        await records.create(operation(3, "job-1", request_hash="x", **again), ["trm_3"])
    assert log.lines() == [], "nothing was accepted"


async def call(store: PartitionStore, records: SqlRecords, number: int, job_id: str) -> None:
    """Call TerminateJob for the job as the job terminator does."""
    queued = await found(records, number, job_id)
    runs = decide(queued, read(JobState.RUNNING, LIVE), NOW, POLICY)
    await store.apply([(queued, runs)], NOW)
    ready = await found(records, number, job_id)
    started = decide(ready, CallStarted(), NOW, POLICY)
    attempt = NewAttempt(action="TerminateJob", target=job_id, sent_at=NOW)
    assert await store.start_attempt(ready, started, attempt) is not None


async def escalate(database: Database, number: int) -> None:
    """Store that TerminateTaskInstance is about to be sent for an instance of the job."""
    job_id = f"job-{number}"
    called = partial(
        milestones.called,
        termination_id=f"trm_{number}_{job_id}",
        job_id=job_id,
        action="TerminateTaskInstance",
        at=NOW,
    )
    await database.write(called)


async def test_the_first_call_of_an_operation_is_logged(
    store: PartitionStore, records: SqlRecords, database: Database, log: Log
) -> None:
    """Once for each operation, for any of its jobs, but not for the jobs of other operations."""
    await submit(records, 1, "job-1", "job-2")
    await submit(records, 2, "job-2", "job-3")
    await submit(records, 3, "job-2")
    await submit(records, 4, "job-4")
    log.lines()
    await call(store, records, 1, "job-1")
    assert log.lines() == ["operation op_1: first termination request: TerminateJob for job-1"]
    await call(store, records, 1, "job-2")
    assert log.lines() == [
        "operation op_2: first termination request: TerminateJob for job-2",
        "operation op_3: first termination request: TerminateJob for job-2",
    ]
    await call(store, records, 2, "job-3")
    await submit(records, 5, "job-1")
    assert [line[:23] for line in log.lines()] == [
        "operation op_5 accepted",
    ]
    await escalate(database, 1)
    assert log.lines() == [
        "operation op_5: first termination request: TerminateTaskInstance for job-1"
    ]
    await escalate(database, 4)
    assert log.lines() == [
        "operation op_4: first termination request: TerminateTaskInstance for job-4"
    ]
    await escalate(database, 4)
    assert log.lines() == []


@pytest.mark.parametrize(
    ("escalation_level", "step"),
    [
        (EscalationLevel.INSTANCES, "TerminateTaskInstance for each live one, round 2"),
        (EscalationLevel.MACHINES, "TerminateInstances for the machine of each live one"),
        (
            EscalationLevel.MANUAL,
            (
                "the daemon has no other means left: stop them by hand; "
                "GET /v1/terminations/trm_1_job-1 has the commands (next_action)"
            ),
        ),
    ],
)
async def test_escalated_stragglers_are_logged(
    store: PartitionStore,
    records: SqlRecords,
    database: Database,
    log: Log,
    escalation_level: EscalationLevel,
    step: str,
) -> None:
    await submit(records, 1, "job-1")
    draining = {"state": State.DRAINING, "instances": LIVE}
    await store_fields(database, await found(records, 1, "job-1"), **draining)
    log.lines()
    before = await found(records, 1, "job-1")
    escalated = apply_event(before, Event.ESCALATED, NOW, why="3 of 9 instances did not stop")
    after = with_fields(
        escalated.after,
        escalation_level=escalation_level,
        escalation_started_at=NOW,
        escalation_round=2,
    )
    changes = [(before, replace(escalated, after=after))]
    await store.apply(changes, NOW)
    line = f"job-1 (trm_1_job-1, {HERE}) is escalated: 3 of 9 instances did not stop: {step}"
    assert log.lines() == [line]
    assert log.levels == ["ERROR" if escalation_level is EscalationLevel.MANUAL else "INFO"]
    await store.apply(changes, NOW)
    assert log.lines() == [], "it was written before"


async def test_a_job_that_runs_again_in_its_settle_window_is_logged(
    store: PartitionStore, records: SqlRecords, database: Database, log: Log
) -> None:
    """A poll that changes no state is not logged."""
    await submit(records, 1, "job-1")
    settling = {"state": State.SETTLING, "evidence": 3, "settle_until": later(30)}
    await store_fields(database, await found(records, 1, "job-1"), **settling)
    log.lines()
    before = await found(records, 1, "job-1")
    await store.apply([(before, decide(before, batch_read(JobState.FAILED), NOW, POLICY))], NOW)
    assert log.lines() == []
    before = await found(records, 1, "job-1")
    await store.apply([(before, decide(before, batch_read(JobState.RUNNING), NOW, POLICY))], NOW)
    assert log.lines() == [
        f"job-1 (trm_1_job-1, {HERE}) is not stopped after all: its state is RUNNING"
    ]
    assert log.levels == ["WARNING"]


async def end(
    store: PartitionStore, records: SqlRecords, job_id: str, seen: Observation | None = None
) -> None:
    """End the job of the first operation; by default it was found finished."""
    before = await found(records, 1, job_id)
    counted = with_fields(before, instances_submitted=STOPPED.total)
    decision = decide(counted, seen or read(JobState.FAILED), later(42), POLICY)
    await store.apply([(before, decision)], later(42))


async def test_a_finished_operation_is_logged(
    store: PartitionStore, records: SqlRecords, log: Log
) -> None:
    """When its last job ends, for every operation that this finishes.

    The duration is left out if the clock was put back.
    """
    await submit(records, 1, "job-1", "job-2", "job-3")
    await submit(records, 2, "job-3", created_at=later(2), account="main")
    await submit(records, 3, "job-3", created_at=later(90))
    log.lines()
    await end(store, records, "job-1")
    await end(store, records, "job-2", Withdrawn())
    assert log.lines() == []
    await end(store, records, "job-3")
    of = "of account 'main' finished:"
    assert log.lines() == [
        (
            f"operation op_1 {of} partial after 42.0 s, 3 jobs: already_finished 2, withdrawn 1; "
            "orchestrator status op_1 says why, and what to do"
        ),
        f"operation op_2 {of} verified after 40.0 s, 1 job: already_finished 1",
        f"operation op_3 {of} verified, 1 job: already_finished 1",
    ]
    assert log.levels == ["WARNING", "INFO", "INFO"]


@pytest.mark.parametrize(
    ("reterminate_max", "reterminate_for_s", "step"),
    [
        (0, None, "it is not terminated again; if it must stop, request its termination again"),
        (
            0,
            600.0,
            (
                "it keeps running: it was terminated again as often as engine.reterminate_max "
                "allows; find out who calls RetryJobs, then request its termination again"
            ),
        ),
        (1, 600.0, "operation op_9 terminates it again"),
    ],
)
async def test_a_revived_job_is_logged(
    store: PartitionStore,
    records: SqlRecords,
    log: Log,
    reterminate_max: int,
    reterminate_for_s: float | None,
    step: str,
) -> None:
    """So is the operation that terminates it again, like any other."""
    await submit(records, 1, "job-1", revival_watch_s=600.0, reterminate_for_s=reterminate_for_s)
    await end(store, records, "job-1")
    log.lines()
    (watched,) = await store.due_for_revival_check(later(100), 10)
    poll_kind = RevivalCheck(termination=watched, ends=True, came_back=read(JobState.RUNNING, LIVE))
    await store.record_revival_checks(
        [poll_kind], later(50), reterminate_max=reterminate_max, new_id=lambda prefix: f"{prefix}_9"
    )
    *accepted, line = log.lines()
    assert log.levels == ["INFO"] * len(accepted) + ["WARNING"]
    assert line == (
        f"job-1 (trm_1_job-1, {HERE}) runs again after it had stopped (RUNNING): {step}"
    )
    again = [
        "operation op_9 accepted: 1 job of account 'main' in ap-guangzhou, requested by 'me': "
    ]
    assert [each[: len(again[0])] for each in accepted] == again * ("op_9" in step)


async def test_uncommitted_changes_are_not_logged(
    records: SqlRecords, database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither if a write fails, nor if the database is lost right before the commit."""

    def lost() -> None:
        raise OSError("the file was moved away")

    with monkeypatch.context() as patched:
        patched.setattr(database.dialect, "check", lost)
        with pytest.raises(StoreUnavailable):
            await submit(records, 1, "job-1")
    with pytest.raises(IntegrityError):
        await records.create(operation(2, "job-1", reason=""), ["trm_2"])
    assert log.lines() == []
    await submit(records, 1, "job-1")
    assert [line[:23] for line in log.lines()] == ["operation op_1 accepted"]
