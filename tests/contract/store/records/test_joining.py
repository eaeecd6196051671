"""A second operation on a live job, stored while a decision on the job is being made."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import JobSeen, JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import (
    CallAcknowledged,
    CallFailed,
    CallInterrupted,
    CallStarted,
    JobUnlisted,
    ReadFailed,
    Withdrawn,
)
from orchestrator.domain.model.termination import OnSubmitted, Termination
from orchestrator.domain.model.unconfirmed import Verdict
from orchestrator.store.mapping.termination_rows import to_row
from orchestrator.store.records.queries import SqlRecords
from tests.support.operations import new_operation
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import LIVE, NOW, POLICY, batch_read, call_failed, later, read

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.observation import Observation
    from orchestrator.store.database.database import Database
    from orchestrator.store.partition.partition_store import PartitionStore

ATTEMPT = NewAttempt(action="TerminateJob", target="a job", sent_at=NOW)

SHORT: dict[str, Any] = {
    "settle_s": 10.0,
    "give_up_after_s": 20.0,
    "revival_watch_s": 30.0,
    "escalate": False,
}
LONG: dict[str, Any] = {
    "settle_s": 1000.0,
    "give_up_after_s": 2000.0,
    "revival_watch_s": 3000.0,
    "escalate": True,
}
WITHIN, PAST = later(1), later(60)
"""The short windows of every state end between these two times."""

CALLABLE = batch_read(JobState.RUNNING)
CALLED: list[Observation] = [CALLABLE, CallStarted()]
IN_DOUBT: list[Observation] = [
    *CALLED,
    call_failed(CloudError(CloudErrorKind.OUTCOME_UNKNOWN, "C", "m")),
]
DRAINING: list[Observation] = [*CALLED, CallAcknowledged("r")]
WAYS: dict[str, list[Observation]] = {
    "queued": [],
    "callable": [CALLABLE],
    "held": [batch_read(JobState.SUBMITTED)],
    "sending": CALLED,
    "in doubt": IN_DOUBT,
    "draining": DRAINING,
    "settling": [*DRAINING, read(JobState.FAILED, at=NOW)],
}
"""Each live state, with the observations that lead to it."""
ANSWERS: list[Observation] = [
    CallAcknowledged("r"),
    CallInterrupted(),
    *[call_failed(CloudError(kind, "C", "m")) for kind in CloudErrorKind],
]
READS: list[Observation] = [
    JobUnlisted(),
    *[batch_read(state) for state in (JobState.SUBMITTED, JobState.RUNNING, JobState.FAILED)],
    read(JobState.SUBMITTED, LIVE),
    read(JobState.RUNNING, LIVE),
    read(JobState.RUNNING, LIVE, next_action="TERMINATING"),
    read(JobState.FAILED, LIVE),
    read(JobState.FAILED),
    read(JobState.SUCCEED),
    *[ReadFailed(CloudError(kind, "C", "m")) for kind in CloudErrorKind],
]
SIGHTINGS: dict[str, list[Observation]] = {
    "queued": [*READS, Withdrawn()],
    "callable": [*READS, CallStarted()],
    "held": [*READS, Withdrawn()],
    "sending": ANSWERS,
    "in doubt": READS,
    "draining": READS,
    "settling": READS,
}


@pytest.fixture
def records(database: Database) -> SqlRecords:
    return SqlRecords(database, lambda: NOW)


async def submit(records: SqlRecords, number: int, jobs: Sequence[str], **known: Any) -> None:
    values = {"partition": "main@host", "created_at": NOW, **SHORT} | known
    ids = [f"trm_{number}_{job}" for job in jobs]
    await records.create(new_operation(f"op_{number}", *jobs, **values), ids)


async def stored(records: SqlRecords, job_id: str) -> Termination:
    (record,) = await records.terminations(after=0, limit=10, job_id=job_id)
    return record.termination


async def write(
    store: PartitionStore, before: Termination, seen: Observation, decision: Decision, at: datetime
) -> None:
    """Write a decision as the engine does."""
    match seen:
        case CallStarted():
            await store.start_attempt(before, decision, replace(ATTEMPT, sent_at=at))
        case CallAcknowledged() | CallFailed() | CallInterrupted():
            await store.finish_attempt(before, decision, AttemptResult(at=at, outcome="an answer"))
        case _:
            await store.apply([(before, decision)], at)


def observed_at(seen: Observation, at: datetime) -> Observation:
    return replace(seen, observed_at=at) if isinstance(seen, JobSeen) else seen


async def see(
    store: PartitionStore, records: SqlRecords, job_id: str, seen: Observation, at: datetime
) -> None:
    before = await stored(records, job_id)
    await write(store, before, seen, decide(before, observed_at(seen, at), at, POLICY), at)


def put_right_by_the_next_read(
    after: Termination, expected: Termination, at: datetime
) -> dict[str, Any]:
    """Ignore values that a decision derived from the shorter windows, and that finish nothing."""
    known: dict[str, Any] = {}
    if after.schedule.confirm_from and expected.schedule.confirm_from:
        # At worst its machines are read once more than necessary.
        assert after.schedule.confirm_from <= expected.schedule.confirm_from
        known["confirm_from"] = expected.schedule.confirm_from
    unconfirmed = after.unconfirmed
    if unconfirmed and unconfirmed.verdict is Verdict.UNREADABLE and expected.unconfirmed is None:
        assert (unconfirmed.answers, unconfirmed.confirms(unconfirmed.verdict, at)) == (1, False)
        known |= {
            "unconfirmed": None,
            "failures": expected.schedule.failures,
            "problem": expected.problem,
        }
    return known


async def overtake(
    store: PartitionStore,
    records: SqlRecords,
    number: int,
    seen: Observation,
    at: datetime,
    more: dict[str, Any],
) -> None:
    """Submit ``more`` while a decision is being made: the result is as if it had come before."""
    overtaken, in_order = f"a-{number}", f"b-{number}"
    before = await stored(records, overtaken)
    decision = decide(before, observed_at(seen, at), at, POLICY)
    await submit(records, 10 + number, [overtaken, in_order], **more)
    joined = await stored(records, overtaken)
    await write(store, before, seen, decision, at)
    after = await stored(records, overtaken)
    if after == joined and joined.schedule.next_poll_at is not None:
        # It is still due, so it is polled again.
        await see(store, records, overtaken, seen, at)
        after = await stored(records, overtaken)
    await see(store, records, in_order, seen, at)
    expected = await stored(records, in_order)
    same: dict[str, Any] = {"id": expected.id, "job_id": in_order}
    if after.schedule.next_poll_at and expected.schedule.next_poll_at:
        # If the job could not be read, the confirming read is planned by the shorter deadline.
        confirms = after.unconfirmed is not None and expected.unconfirmed is None
        latest = at + timedelta(seconds=2) if confirms else expected.schedule.next_poll_at
        assert after.schedule.next_poll_at <= max(latest, expected.schedule.next_poll_at)
        same |= {
            "next_poll_at": expected.schedule.next_poll_at,
            "poll_kind": expected.schedule.poll_kind,
        }
    same |= put_right_by_the_next_read(after, expected, at)
    assert with_fields(after, **same) == expected
    row = to_row(after)
    assert {name: row[name] for name in more} == more
    unanswered = await store.with_open_attempts()
    assert (after in unanswered) == isinstance(seen, CallStarted)


@pytest.mark.thorough
@pytest.mark.parametrize("way", WAYS)
async def test_a_concurrent_decision_and_a_second_operation_are_both_kept(
    records: SqlRecords, store: PartitionStore, way: str
) -> None:
    cases = list(product(SIGHTINGS[way], [WITHIN, PAST]))
    jobs = [f"{which}-{number}" for which in "ab" for number in range(len(cases))]
    asked = OnSubmitted.HOLD if way == "held" else OnSubmitted.REFUSE
    await submit(records, 1, jobs, on_submitted=asked)
    for job_id, seen in product(jobs, WAYS[way]):
        await see(store, records, job_id, seen, NOW)
    for number, (seen, at) in enumerate(cases):
        more = LONG | {"on_submitted": OnSubmitted.HOLD}
        try:
            await overtake(store, records, number, seen, at, more)
        except AssertionError as error:
            error.add_note(f"{seen} at {at}")
            raise


@pytest.mark.parametrize(
    ("way", "seen", "more"),
    [
        ("settling", read(JobState.FAILED), {"settle_s": 1000.0}),
        ("draining", read(JobState.RUNNING, LIVE), {"give_up_after_s": 2000.0}),
        ("queued", batch_read(JobState.SUBMITTED), {"on_submitted": OnSubmitted.HOLD}),
    ],
)
async def test_each_requested_option_counts_alone(
    records: SqlRecords, store: PartitionStore, way: str, seen: Observation, more: dict[str, Any]
) -> None:
    asked = {"on_submitted": OnSubmitted.REFUSE}
    await submit(records, 1, ["a-0", "b-0"], **asked)
    for job_id, each in product(["a-0", "b-0"], WAYS[way]):
        await see(store, records, job_id, each, NOW)
    await overtake(store, records, 0, seen, PAST, asked | more)
    assert not (await stored(records, "a-0")).state.final


async def test_the_next_read_plans_the_machines_for_the_end_of_the_longer_settle_window(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, ["a-0", "b-0"])
    for job_id, each in product(["a-0", "b-0"], WAYS["settling"]):
        await see(store, records, job_id, each, NOW)
    await overtake(store, records, 0, batch_read(JobState.FAILED), WITHIN, LONG)
    await see(store, records, "a-0", read(JobState.FAILED), PAST)
    after = await stored(records, "a-0")
    assert after.schedule.confirm_from == after.schedule.settle_until == later(1000)


async def test_deadlines_that_run_move_by_what_is_asked_for_more(
    records: SqlRecords, store: PartitionStore
) -> None:
    await submit(records, 1, ["a-0"])
    for each in WAYS["settling"]:
        await see(store, records, "a-0", each, NOW)
    alone = await stored(records, "a-0")
    assert (alone.schedule.settle_until, alone.schedule.give_up_at) == (later(10), later(20))
    await submit(records, 2, ["a-0"], **LONG)
    joined = await stored(records, "a-0")
    assert (joined.schedule.settle_until, joined.schedule.give_up_at) == (later(1000), later(2000))
    await submit(records, 3, ["a-0"], **SHORT)
    assert await stored(records, "a-0") == joined


async def test_a_job_is_not_polled_while_it_is_called(
    records: SqlRecords, store: PartitionStore
) -> None:
    """A clock that was put back makes the poll seem due although the call is being made."""
    await submit(records, 1, ["a-0"], not_before=later(60))
    for seen in CALLED:
        await see(store, records, "a-0", seen, later(61))
    await submit(records, 2, ["a-0"])
    sending = await stored(records, "a-0")
    assert (sending.state, sending.schedule.next_poll_at) == (State.SENDING, None)
