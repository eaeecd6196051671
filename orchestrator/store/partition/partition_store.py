"""The engine's store of one partition: which terminations are due, and the writes of its loops."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    BindParameter,
    Integer,
    and_,
    bindparam,
    case,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    union_all,
    update,
)

from orchestrator.domain.model.attempt import TERMINATE_JOB
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.store.mapping.decoding import legible
from orchestrator.store.mapping.termination_rows import (
    PLANNED_POLL,
    from_row,
    planned_poll_from_row,
)
from orchestrator.store.partition import revivals
from orchestrator.store.partition.fenced_writes import (
    CUTOFF,
    IN_PARTITION,
    LIMIT,
    Fenced,
    tagged_union,
    those_of_ids,
)
from orchestrator.store.partition.instance_store import SqlInstanceStore
from orchestrator.store.schema import (
    attempts,
    operation_terminations,
    partitions,
    terminations,
)
from orchestrator.store.terminations import milestones, set_aside, turns
from orchestrator.store.terminations.decision_writes import write_decision, write_decisions
from orchestrator.store.terminations.row_locks import RowLocks, unlocked
from orchestrator.store.terminations.turns import TERMINATE_ORDER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Select

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.decisions.revival import RevivalCheck
    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import PlannedPoll, PollFilter, Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

T = TypeVar("T")


# Conditions of a poll filter on whether the job was polled before.
_POLLED_BEFORE = {
    None: true(),
    True: terminations.c.job_state.is_not(None),
    False: terminations.c.job_state.is_(None),
}


@cache
def _next_polls(*kinds: PollFilter) -> CompoundSelect[Any]:
    return tagged_union(*(_soonest(select(terminations), kind) for kind in kinds))


@cache
def _planned_polls(*kinds: PollFilter) -> CompoundSelect[Any]:
    return tagged_union(*(_soonest(select(*PLANNED_POLL), kind) for kind in kinds))


@cache
def _planned(kind: PollFilter) -> Select[Any]:
    return those_of_ids(*_is_planned(kind), terminations.c.state.in_(kind.states))


def _is_planned(kind: PollFilter) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of the filter except that on the state."""
    t = terminations.c
    return (
        IN_PARTITION,
        t.poll_kind == kind.poll_kind,
        t.next_poll_at.is_not(None),
        _POLLED_BEFORE[kind.seen],
    )


def _soonest(rows: Select[Any], kind: PollFilter) -> Select[Any]:
    t = terminations.c
    rows = rows.where(*_is_planned(kind))
    if kind.by_turn:
        # Written so that SQLite does not use an index on next_poll_at and then sort all due rows.
        due = case((t.next_poll_at <= CUTOFF, 1), else_=0) == 1
        return rows.where(t.state.in_(kind.states), due).order_by(t.turn, t.seq).limit(LIMIT)
    # One index scan for each state: rows of other states may be many, and due earlier.
    scans = [
        rows.where(t.state == state).order_by(t.next_poll_at).limit(LIMIT).subquery()
        for state in kind.states
    ]
    found = union_all(*map(select, scans)).subquery()
    return select(found).order_by(found.c.next_poll_at).limit(LIMIT)


# The machines are captured, or the calls do not wait for that.
_CAPTURED = or_(
    terminations.c.captured_run >= terminations.c.run, not_(terminations.c.awaits_capture)
)
_UNCAPTURED_BEFORE: BindParameter[datetime] = bindparam(
    "uncaptured_before", type_=terminations.c.terminate_after.type
)
# Terminations whose TerminateJob call may be made, in the order of the calls.
_READY_TO_TERMINATE = (
    select(terminations)
    .where(
        IN_PARTITION,
        terminations.c.terminate_after <= CUTOFF,
        or_(_CAPTURED, terminations.c.terminate_after <= _UNCAPTURED_BEFORE),
    )
    .order_by(*TERMINATE_ORDER)
    .limit(LIMIT)
)
# Terminations whose TerminateJob call waits for their capture only, behind the first ones.
_WAITING_FOR_CAPTURE = (
    select(terminations)
    .where(IN_PARTITION, terminations.c.terminate_after <= CUTOFF, not_(_CAPTURED))
    .order_by(*TERMINATE_ORDER)
    .offset(bindparam("skip", type_=Integer))
    .limit(LIMIT)
)
# The earliest time of a call: of captured jobs, and of those that wait for their capture; and how
# many of these wait for it only.
_NEXT_CALL: list[ColumnElement[Any]] = [
    func.min(case((_CAPTURED, terminations.c.terminate_after))).label("captured"),
    func.min(case((not_(_CAPTURED), terminations.c.terminate_after))).label("other"),
    func.count(case((and_(not_(_CAPTURED), terminations.c.terminate_after <= CUTOFF), 1))).label(
        "waiting"
    ),
]
_NEXT_CALL_AT = select(*_NEXT_CALL).where(IN_PARTITION, terminations.c.terminate_after.is_not(None))

# Terminations with a TerminateJob attempt whose answer was never written.
_WITH_OPEN_ATTEMPTS = (
    select(terminations)
    .join(attempts, attempts.c.termination_id == terminations.c.id)
    .where(IN_PARTITION, attempts.c.answered_at.is_(None), attempts.c.action == TERMINATE_JOB)
    .order_by(terminations.c.seq)
)

# The number of attempts made for a termination.
_ATTEMPT_COUNT = select(func.count()).where(attempts.c.termination_id == bindparam("this"))
# Write the answer of the open TerminateJob attempt of a termination.
_CLOSE_ATTEMPT = (
    update(attempts)
    .where(
        attempts.c.termination_id == bindparam("this"),
        attempts.c.answered_at.is_(None),
        attempts.c.action == TERMINATE_JOB,
    )
    .values(
        answered_at=bindparam("its_at"),
        **{name: bindparam(f"its_{name}") for name in ("outcome", "code", "message", "request_id")},
    )
)

_COUNTED_AT = terminations.c.instances_observed_at


def _stale_counters(condition: ColumnElement[bool]) -> CompoundSelect[Any]:
    """Select draining jobs whose instances were never counted, and those counted long ago.

    Two index scans, because the databases differ in where they sort NULL.
    """
    return tagged_union(
        *(
            select(terminations)
            .where(
                IN_PARTITION,
                terminations.c.state == State.DRAINING,
                terminations.c.poll_kind == PollKind.BATCH,
                condition,
                counted,
            )
            .order_by(_COUNTED_AT)
            .limit(LIMIT)
            for counted in (_COUNTED_AT.is_(None), _COUNTED_AT < CUTOFF)
        )
    )


# Those of these terminations that drain and for which no count is planned.
_DRAINING_OF_IDS = those_of_ids(
    IN_PARTITION,
    terminations.c.state == State.DRAINING,
    terminations.c.poll_kind == PollKind.BATCH,
)
# Stale counters of any operation, of jobs whose call was acknowledged before the cutoff.
_STALE_COUNTERS = _stale_counters(terminations.c.acknowledged_at < CUTOFF)
# Stale counters of these operations.
_STALE_COUNTERS_OF_OPERATIONS = _stale_counters(
    terminations.c.id.in_(
        select(operation_terminations.c.termination_id).where(
            operation_terminations.c.operation_id.in_(bindparam("operation_ids", expanding=True))
        )
    )
)


class PartitionStore(Fenced):
    """Implements :class:`orchestrator.engine.ports.Store` for one partition, under one lease."""

    def __init__(self, database: Database, fence: FencingToken) -> None:
        super().__init__(database, fence, RowLocks(database, fence.partition))
        self.instances = SqlInstanceStore(database, fence, self._locks)

    async def next_polls(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[Termination]]:
        found = await self._fetch_each(
            _next_polls(*kinds), len(kinds), from_row, before=now, limit=limit
        )
        return dict(zip(kinds, found, strict=True))

    async def planned_polls(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[PlannedPoll]]:
        found = await self._fetch_each(
            _planned_polls(*kinds), len(kinds), planned_poll_from_row, before=now, limit=limit
        )
        return dict(zip(kinds, found, strict=True))

    async def planned(self, termination_ids: Sequence[str], kind: PollFilter) -> list[Termination]:
        return await self._fetch_these(_planned(kind), termination_ids)

    async def ready_to_terminate(
        self, now: datetime, limit: int, *, capture_wait_s: float, captured_in_time: int | None
    ) -> tuple[list[Termination], datetime | None]:
        wait = timedelta(seconds=capture_wait_s)
        ready = await self._fetch(
            _READY_TO_TERMINATE, before=now, uncaptured_before=now - wait, limit=limit
        )
        if ready:
            return ready, None
        async with self._database.read() as connection:
            (row,) = await legible(connection, _NEXT_CALL_AT, self.in_partition | {"before": now})
        if captured_in_time is not None and row["waiting"] > captured_in_time:
            behind = await self._fetch(
                _WAITING_FOR_CAPTURE, before=now, skip=captured_in_time, limit=limit
            )
            if behind:
                return behind, None
        captured, other = row["captured"], row["other"]
        return [], min((at for at in (captured, other and other + wait) if at), default=None)

    async def due_for_revival_check(
        self, checked_before: datetime, limit: int
    ) -> list[Termination]:
        rows = await self._fetch(revivals.DUE_FOR_CHECK, before=checked_before, limit=limit)
        return [row for row in rows if row.region == rows[0].region]

    async def record_revival_checks(
        self,
        checks: Sequence[RevivalCheck],
        at: datetime,
        *,
        reterminate_max: int,
        new_id: Callable[[str], str],
    ) -> None:
        await self._write(
            lambda transaction: revivals.write(
                transaction, checks, at, reterminate_max=reterminate_max, new_id=new_id
            ),
            terminations.c.id.in_({check.termination.id for check in checks}),
        )

    async def with_open_attempts(self) -> list[Termination]:
        return await self._fetch(_WITH_OPEN_ATTEMPTS)

    async def draining(self, termination_ids: Sequence[str]) -> list[Termination]:
        return await self._fetch_these(_DRAINING_OF_IDS, termination_ids)

    async def with_stale_counters(
        self, before: datetime, operation_ids: Sequence[str] | None, limit: int
    ) -> list[Termination]:
        statement, parameters = _STALE_COUNTERS, dict[str, object]()
        if operation_ids is not None:
            statement, parameters = _STALE_COUNTERS_OF_OPERATIONS, {"operation_ids": operation_ids}
        never, long_ago = await self._fetch_each(
            statement, 2, from_row, before=before, limit=limit, **parameters
        )
        return [*never, *long_ago][:limit]

    async def apply(self, changes: Sequence[tuple[Termination, Decision]], at: datetime) -> int:
        return await self._write(
            lambda transaction: write_decisions(transaction, changes, at),
            terminations.c.id.in_({before.id for before, _ in changes}),
        )

    async def postpone(self, termination_ids: Sequence[str], until: datetime) -> None:
        """Make no batch poll of these due before ``until``, except for rows that are locked."""
        t = terminations.c
        these = (
            t.partition == self._fence.partition,
            t.id.in_(termination_ids),
            t.poll_kind == PollKind.BATCH,
            t.next_poll_at < until,
        )

        await self._write(
            lambda transaction: transaction.execute(
                update(terminations).where(t.id.in_(unlocked(*these))).values(next_poll_at=until)
            )
        )

    async def forget_unlocked(self) -> bool:
        return await self._locks.forget_unlocked()

    async def set_aside_until(self, now: datetime) -> datetime | None:
        async with self._database.read() as connection:
            return await set_aside.next_at(connection, self._fence.partition, now)

    async def retry_set_aside(self, now: datetime) -> bool:
        return await self._write(
            lambda transaction: set_aside.retry_due(transaction, self._fence.partition, now)
        )

    async def start_attempt(
        self, before: Termination, decision: Decision, attempt: NewAttempt
    ) -> int | None:
        async def work(transaction: Transaction) -> int | None:
            call = {"attempt": {"action": attempt.action, "target": attempt.target}}
            if not await write_decision(transaction, before, decision, attempt.sent_at, call):
                return None
            made = await transaction.scalar(_ATTEMPT_COUNT, {"this": before.id})
            number = int(made or 0) + 1
            await transaction.execute(
                insert(attempts),
                {
                    "termination_id": before.id,
                    "number": number,
                    "partition": before.partition,
                    **asdict(attempt),
                },
            )
            await milestones.called(
                transaction, before.id, before.job_id, attempt.action, attempt.sent_at
            )
            return number

        return await self._write(work, terminations.c.id == before.id)

    async def finish_attempt(
        self, before: Termination, decision: Decision, answer: AttemptResult
    ) -> None:
        async def work(transaction: Transaction) -> None:
            result = {name: getattr(answer, name) for name in ("outcome", "code", "request_id")}
            if not await write_decision(
                transaction, before, decision, answer.at, {"answer": result}
            ):
                return
            await transaction.execute(
                _CLOSE_ATTEMPT,
                {"this": before.id} | {f"its_{k}": v for k, v in asdict(answer).items()},
            )
            await turns.called(
                transaction, before, decision.after, answer.at, locked=self._locks.locked
            )

        await self._write(work, terminations.c.id == before.id)

    async def set_health(self, trouble: ErrorDetail | None, allowed_per_s: float | None) -> None:
        await self._write(
            lambda transaction: transaction.execute(
                update(partitions)
                .where(partitions.c.name == self._fence.partition)
                .values(
                    trouble_code=trouble.code if trouble else None,
                    trouble_message=trouble.message if trouble else None,
                    trouble_advice=trouble.advice if trouble else None,
                    allowed_per_s=allowed_per_s,
                )
            )
        )
