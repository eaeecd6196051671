"""Operations take turns: in first polls, in captures and in TerminateJob calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.decision import Decision
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.leasing.leases import FencingToken
from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.observation import CallAcknowledged, CallFailed, CallStarted
from orchestrator.domain.model.termination import PollKind
from orchestrator.engine.loops.job_poller import FIRST_POLLS
from orchestrator.engine.loops.single_job_poller import NEVER_READ_BY_TURN
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.queries import SqlRecords
from tests.support.stored_operations import PARTITION, operation
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import LIVE, POLICY, batch_read, later, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination
    from orchestrator.services.ports import TerminationRecord
    from orchestrator.store.database.database import Database

AT = later(100)
"""The time of everything in these tests."""


@dataclass
class Queue:
    """Operations with numbered jobs (A-3 is the third job of operation A), and the calls made."""

    database: Database
    records: SqlRecords = field(init=False)
    store: PartitionStore = field(init=False)
    calls: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = SqlRecords(self.database, lambda: AT)
        self.store = PartitionStore(self.database, FencingToken(PARTITION, 1))

    async def submit(self, name: str, jobs: int | Sequence[str], **asked: Any) -> None:
        ids = [f"{name}-{n}" for n in range(1, jobs + 1)] if isinstance(jobs, int) else list(jobs)
        self.names.append(name)
        new = operation(len(self.names), *ids, created_at=later(len(self.names)), **asked)
        await self.records.create(new, [f"trm_{name}_{job_id}" for job_id in ids])

    async def poll(self, state: JobState = JobState.RUNNING) -> list[str]:
        """Make the first poll of all jobs that wait for one, in their turns; return the jobs."""
        rows = (await self.store.next_polls(AT, 1000, FIRST_POLLS))[FIRST_POLLS]
        await self.see(rows, state)
        return [row.job_id for row in rows]

    async def see(self, rows: Sequence[Termination], state: JobState) -> None:
        seen = batch_read(state, at=AT)
        await self.store.apply([(row, decide(row, seen, AT, POLICY)) for row in rows], AT)

    async def queued(self, name: str, jobs: int | Sequence[str], **asked: Any) -> None:
        await self.submit(name, jobs, **asked)
        await self.poll()

    async def next(
        self, capture_wait_s: float = 0, captured_in_time: int | None = None
    ) -> Termination | None:
        ready, _ = await self.store.ready_to_terminate(
            AT, 1, capture_wait_s=capture_wait_s, captured_in_time=captured_in_time
        )
        return ready[0] if ready else None

    async def call(self, refusal: CloudError | None = None, **waits: Any) -> str | None:
        """Make the next call; return its job."""
        before = await self.next(**waits)
        if before is None:
            return None
        attempt = NewAttempt(action="TerminateJob", target=before.job_id, sent_at=AT)
        started = decide(before, CallStarted(), AT, POLICY)
        assert await self.store.start_attempt(before, started, attempt) is not None
        sending = started.after
        seen = CallFailed(refusal, before) if refusal else CallAcknowledged("r")
        answer = AttemptResult(at=AT, outcome="failed" if refusal else "accepted")
        await self.store.finish_attempt(sending, decide(sending, seen, AT, POLICY), answer)
        self.calls.append(before.job_id)
        return before.job_id

    async def call_all(self, at_most: int = 1000) -> list[str]:
        made: list[str] = []
        while len(made) < at_most and (job_id := await self.call()) is not None:
            made.append(job_id)
        return made

    async def found(self, job_id: str) -> Termination:
        return (await self.record(job_id)).termination

    async def record(self, job_id: str) -> TerminationRecord:
        (record,) = await self.records.terminations(after=0, limit=2, job_id=job_id)
        return record


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database)


def failure(kind: CloudErrorKind) -> CloudError:
    return CloudError(kind, "Some.Code", "what happened")


def by_operation(jobs: Sequence[str]) -> str:
    return "".join(job_id.partition("-")[0] for job_id in jobs)


# --- calls ---------------------------------------------------------------------------------------


async def test_a_single_cancel_behind_many_is_called_next(queue: Queue) -> None:
    await queue.queued("A", 200)
    await queue.call_all(at_most=20)
    await queue.queued("B", 1)
    assert (await queue.record("B-1")).jobs_ahead == 0
    assert await queue.call() == "B-1"


async def test_a_call_before_jobs_that_wait_for_their_captures_ends_no_turn(queue: Queue) -> None:
    await queue.queued("A", 100)
    assert await queue.call(capture_wait_s=100, captured_in_time=60) == "A-61"
    await queue.queued("B", 1)
    assert await queue.call_all(at_most=2) == ["A-1", "B-1"]


@pytest.mark.parametrize("names", ["ABC", "CBA", "BCA", "ACB"])
async def test_in_each_turn_the_one_with_the_fewest_jobs_left_goes_first(
    queue: Queue, names: str
) -> None:
    for name in names:
        await queue.submit(name, {"A": 5, "B": 2, "C": 1}[name])
    await queue.poll()
    assert by_operation(await queue.call_all()) == "CBABAAAA"


async def test_earlier_calls_do_not_count(queue: Queue) -> None:
    await queue.queued("A", 5)
    await queue.call_all(at_most=4)
    await queue.queued("B", 3)
    assert by_operation(await queue.call_all()) == "ABBB"


async def test_the_jobs_of_one_operation_are_called_in_the_order_of_submission(
    queue: Queue,
) -> None:
    await queue.queued("A", 30)
    assert await queue.call_all() == [f"A-{number}" for number in range(1, 31)]


@pytest.mark.parametrize("called", [0, 7, 40])
async def test_a_later_operation_begins_at_the_current_turn(queue: Queue, called: int) -> None:
    """It neither waits for earlier operations, nor makes up for the turns before it."""
    await queue.queued("A", 40)
    await queue.call_all(at_most=called)
    await queue.queued("B", 40)
    await queue.submit("C", 30)
    await queue.poll()
    made = await queue.call_all()
    both = [made[turn : turn + 3] for turn in range(0, 3 * min(40 - called, 30), 3)]
    assert all(sorted(by_operation(turn)) == ["A", "B", "C"] for turn in both)


async def test_a_late_operation_gains_nothing_from_an_empty_queue(queue: Queue) -> None:
    await queue.submit("A", 20)
    rows = (await queue.store.next_polls(AT, 10, FIRST_POLLS))[FIRST_POLLS]
    await queue.see(rows, JobState.RUNNING)
    assert len(await queue.call_all()) == 10
    await queue.submit("B", 20)
    await queue.poll()
    assert by_operation((await queue.call_all())[:20]) == "AB" * 10


@pytest.mark.parametrize(("singles", "called"), [(10, 10), (20, 5)])
async def test_a_stream_of_single_cancels_blocks_no_other(
    queue: Queue, singles: int, called: int
) -> None:
    """With one new cancel for each call, more and more operations share each turn."""
    await queue.queued("A", 20)
    for number in range(20):
        if number % 2 == 0 or singles == 20:
            await queue.queued(f"S{number}", 1)
        await queue.call()
    assert by_operation(queue.calls).count("A") == called


async def test_held_jobs_are_called_first_and_take_no_turn(queue: Queue) -> None:
    await queue.submit("H", 10)
    await queue.poll(JobState.SUBMITTED)
    await queue.queued("A", 3)
    held = [await queue.found(f"H-{number}") for number in range(1, 11)]
    await queue.see(held, JobState.RUNNING)
    assert by_operation(await queue.call_all(at_most=10)) == "HHHHHHHHHH"
    await queue.queued("B", 1)
    assert by_operation(await queue.call_all()) == "BAAA"


async def test_a_job_has_the_earliest_turn_of_those_that_want_it(queue: Queue) -> None:
    await queue.queued("A", 30)
    await queue.submit("B", ["A-29", "A-30"])
    assert [await queue.call() for _ in range(4)] == ["A-29", "A-1", "A-30", "A-2"]


async def test_a_joined_job_that_no_poll_has_shown_goes_by_the_better_operation(
    queue: Queue,
) -> None:
    await queue.submit("A", 30)
    await queue.submit("B", ["A-30"])
    assert "A-30" in (await queue.poll())[:3]
    assert "A-30" in (await queue.call_all())[:2]


async def test_two_operations_that_want_the_same_jobs_have_two_calls_a_turn(queue: Queue) -> None:
    await queue.queued("A", 6)
    await queue.queued("C", 6)
    await queue.submit("B", [f"A-{number}" for number in range(1, 7)])
    made = await queue.call_all()
    assert [sorted(by_operation(made[turn : turn + 3])) for turn in (0, 3)] == [["A", "A", "C"]] * 2
    assert [job_id for job_id in made if job_id[0] == "A"] == [f"A-{n}" for n in range(1, 7)]


async def test_a_throttled_call_keeps_its_turn(queue: Queue) -> None:
    await queue.queued("A", 5)
    await queue.queued("B", 5)
    first = await queue.call(failure(CloudErrorKind.THROTTLED))
    assert [await queue.call() for _ in range(2)] == [first, "B-1" if first == "A-1" else "A-1"]


async def test_calls_that_never_left_take_no_turns(queue: Queue) -> None:
    """After a network outage a single cancel does not wait for all the failed attempts."""
    await queue.queued("A", 20)
    for _ in range(20):
        await queue.call(failure(CloudErrorKind.NOT_SENT))
    assert await queue.next() is None
    await queue.see([await queue.found(f"A-{number}") for number in range(1, 21)], JobState.RUNNING)
    await queue.queued("B", 1)
    assert await queue.call() == "B-1"
    assert await queue.call_all() == [f"A-{number}" for number in range(1, 21)]


RUNS_ON = read(JobState.RUNNING, LIVE, at=AT)
RAN_AGAIN = [batch_read(JobState.SUBMITTED, at=AT), batch_read(JobState.RUNNING, at=AT)]


@pytest.mark.parametrize("polls", [[RUNS_ON], RAN_AGAIN], ids=["runs on", "was submitted again"])
async def test_jobs_that_are_called_again_get_new_turns(queue: Queue, polls: list[JobSeen]) -> None:
    """They do not go before other operations' jobs."""
    await queue.queued("A", 10)
    await queue.call_all()
    await queue.queued("B", 10)
    for number in range(1, 11):
        for seen in polls:
            row = await queue.found(f"A-{number}")
            known = with_fields(row, acknowledged_at=later(-900), first_sent_at=later(-900))
            decision = decide(known, seen, AT, POLICY)
            await queue.store.apply([(row, decision)], AT)
        assert decision.after.schedule.terminate_after == AT
    made = by_operation(await queue.call_all())
    assert all(sorted(made[turn : turn + 2]) == ["A", "B"] for turn in range(0, 20, 2))


async def test_an_operation_with_a_later_start_takes_no_turns_back(queue: Queue) -> None:
    await queue.submit("L", 10, not_before=later(50))
    await queue.queued("A", 10)
    await queue.call_all(at_most=5)
    late = [await queue.found(f"L-{number}") for number in range(1, 11)]
    await queue.see(late, JobState.RUNNING)
    made = by_operation(await queue.call_all())
    assert all(sorted(made[turn : turn + 2]) == ["A", "L"] for turn in range(0, 10, 2))


@pytest.mark.parametrize("seed", range(5))
async def test_the_reported_queue_position_is_the_real_one(queue: Queue, seed: int) -> None:
    """Whatever was submitted and called before, as long as nothing else is submitted."""
    random = Random(seed)
    for number in range(8):
        await queue.queued("ABCDEFGH"[number], random.randrange(1, 9))
        await queue.call_all(at_most=random.randrange(4))
    records = await queue.records.terminations(after=0, limit=1000, state=State.QUEUED)
    shown = {record.termination.job_id: record.jobs_ahead for record in records}
    one = await queue.records.termination(records[-1].termination.id)
    assert one is not None
    assert one.jobs_ahead == records[-1].jobs_ahead
    made = await queue.call_all()
    assert shown == {job_id: place for place, job_id in enumerate(made)}


async def test_machines_are_captured_in_the_order_of_the_calls(queue: Queue) -> None:
    await queue.queued("A", 6)
    await queue.queued("B", 2)
    to_capture, _ = await queue.store.instances.to_read(AT, 100)
    assert [row.job_id for row in to_capture] == await queue.call_all()


# --- first polls ---------------------------------------------------------------------------------


async def test_few_ids_do_not_wait_for_the_first_polls_of_many(queue: Queue) -> None:
    await queue.submit("A", 500)
    await queue.submit("B", 3)
    rows = (await queue.store.next_polls(AT, 10, FIRST_POLLS))[FIRST_POLLS]
    assert by_operation([row.job_id for row in rows]).count("B") == 3


async def test_few_ids_do_not_wait_for_the_reads_of_many_that_are_not_listed(queue: Queue) -> None:
    await queue.submit("A", 500)
    await queue.submit("B", 3)
    polled = (await queue.store.next_polls(AT, 600, FIRST_POLLS))[FIRST_POLLS]
    changes = [(row, Decision(after=with_fields(row, poll_kind=PollKind.SINGLE))) for row in polled]
    await queue.store.apply(changes, AT)
    rows = (await queue.store.next_polls(AT, 10, NEVER_READ_BY_TURN))[NEVER_READ_BY_TURN]
    assert by_operation([row.job_id for row in rows]).count("B") == 3


async def test_first_polls_of_a_later_operation_begin_where_the_others_are(queue: Queue) -> None:
    await queue.submit("A", 100)
    rows = (await queue.store.next_polls(AT, 60, FIRST_POLLS))[FIRST_POLLS]
    await queue.see(rows, JobState.RUNNING)
    await queue.submit("B", 100)
    rows = (await queue.store.next_polls(AT, 40, FIRST_POLLS))[FIRST_POLLS]
    names = by_operation([row.job_id for row in rows])
    assert abs(names.count("A") - names.count("B")) <= 2


async def test_jobs_that_are_not_due_neither_wait_for_turns_nor_block_others(queue: Queue) -> None:
    await queue.submit("L", 5, not_before=later(900))
    await queue.submit("A", 5)
    assert by_operation(await queue.poll()) == "AAAAA"
