"""The engine's view: which terminations are due, and the writes of its loops."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    BindParameter,
    bindparam,
    case,
    func,
    insert,
    not_,
    or_,
    select,
    true,
    update,
)

from orchestrator.domain.model.attempt import TERMINATE_JOB
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.store.mapping.decoding import legible
from orchestrator.store.partition import revivals
from orchestrator.store.partition.fenced import CUTOFF, IN_PARTITION, LIMIT, Fenced, tagged_union
from orchestrator.store.partition.instance_store import SqlInstanceStore
from orchestrator.store.schema import (
    attempts,
    operation_terminations,
    partitions,
    terminations,
)
from orchestrator.store.terminations import milestones, set_aside, turns
from orchestrator.store.terminations.row_locks import RowLocks, unlocked
from orchestrator.store.terminations.transitions import write_decision, write_decisions
from orchestrator.store.terminations.turns import IN_TURN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Select

    from orchestrator.domain.decisions.revival import RevivalCheck
    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.leasing.lease import FencingToken
    from orchestrator.domain.model.attempt import AttemptResult, NewAttempt
    from orchestrator.domain.model.error_detail import ErrorDetail
    from orchestrator.domain.model.termination import PollFilter, Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

T = TypeVar("T")


_SEEN = {
    None: true(),
    True: terminations.c.job_state.is_not(None),
    False: terminations.c.job_state.is_(None),
}


@cache
def _planned(*kinds: PollFilter) -> CompoundSelect[Any]:
    return tagged_union(*(_of_kind(kind) for kind in kinds))


def _of_kind(kind: PollFilter) -> Select[Any]:
    t = terminations.c
    rows = select(terminations).where(
        IN_PARTITION,
        t.poll_kind == kind.poll_kind,
        t.next_poll_at.is_not(None),
        t.state.in_(kind.states),
        _SEEN[kind.seen],
    )
    if kind.in_turn:
        # Put so that SQLite takes no index on next_poll_at, and sorts all that are due.
        due = case((t.next_poll_at <= CUTOFF, 1), else_=0) == 1
        return rows.where(due).order_by(t.turn, t.seq).limit(LIMIT)
    return rows.order_by(t.next_poll_at).limit(LIMIT)


_CAPTURED = or_(
    terminations.c.captured_run >= terminations.c.run, not_(terminations.c.awaits_capture)
)
_UNCAPTURED_BEFORE: BindParameter[datetime] = bindparam(
    "uncaptured_before", type_=terminations.c.terminate_after.type
)
_CALLABLE = (
    select(terminations)
    .where(
        IN_PARTITION,
        terminations.c.terminate_after <= CUTOFF,
        or_(_CAPTURED, terminations.c.terminate_after <= _UNCAPTURED_BEFORE),
    )
    .order_by(*IN_TURN)
    .limit(LIMIT)
)
_NEXT_CALL_AT = select(
    func.min(case((_CAPTURED, terminations.c.terminate_after))).label("captured"),
    func.min(case((not_(_CAPTURED), terminations.c.terminate_after))).label("other"),
).where(IN_PARTITION, terminations.c.terminate_after.is_not(None))

_UNANSWERED = (
    select(terminations)
    .join(attempts, attempts.c.termination_id == terminations.c.id)
    .where(IN_PARTITION, attempts.c.answered_at.is_(None), attempts.c.action == TERMINATE_JOB)
    .order_by(terminations.c.seq)
)

_MADE = select(func.count()).where(attempts.c.termination_id == bindparam("this"))
_ANSWERED = (
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


def _draining(condition: ColumnElement[bool]) -> CompoundSelect[Any]:
    """Never counted, then counted long ago: two index scans, and databases sort NULLs apart."""
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


_OF_IDS = (
    select(terminations)
    .where(
        IN_PARTITION,
        terminations.c.state == State.DRAINING,
        terminations.c.poll_kind == PollKind.BATCH,
        terminations.c.id.in_(bindparam("ids", expanding=True)),
    )
    .order_by(terminations.c.seq)
)
_OF_ANY = _draining(terminations.c.acknowledged_at < CUTOFF)
_OF_OPERATIONS = _draining(
    terminations.c.id.in_(
        select(operation_terminations.c.termination_id).where(
            operation_terminations.c.operation_id.in_(bindparam("operation_ids", expanding=True))
        )
    )
)


class PartitionStore(Fenced):
    """Implements :class:`orchestrator.engine.ports.Store`: one partition, under one lease."""

    def __init__(self, database: Database, fence: FencingToken) -> None:
        super().__init__(database, fence, RowLocks(database, fence.partition))
        self.instances = SqlInstanceStore(database, fence, self._locks)

    async def planned(
        self, now: datetime, limit: int, *kinds: PollFilter
    ) -> dict[PollFilter, list[Termination]]:
        """Terminations of each kind to look at: due or not, the soonest first.

        Of a kind that goes in turn, those that are due.
        """
        planned = await self._fetch_each(_planned(*kinds), len(kinds), before=now, limit=limit)
        return dict(zip(kinds, planned, strict=True))

    async def callable(
        self, now: datetime, limit: int, *, capture_wait_s: float
    ) -> tuple[list[Termination], datetime | None]:
        """Terminations whose job may be called now, first in line first.

        Where there is none, with when one may be.  One that awaits the capture of its machines
        does so for ``capture_wait_s`` at most.
        """
        wait = timedelta(seconds=capture_wait_s)
        found = await self._fetch(_CALLABLE, before=now, uncaptured_before=now - wait, limit=limit)
        if found:
            return found, None
        async with self._database.read() as connection:
            (row,) = await legible(connection, _NEXT_CALL_AT, self.here)
        captured, other = row["captured"], row["other"]
        return [], min((at for at in (captured, other and other + wait) if at), default=None)

    async def to_watch(self, looked_before: datetime, limit: int) -> list[Termination]:
        """Terminations of one region whose job is watched for coming back, the soonest due first.

        None whose watch has looked since ``looked_before``.
        """
        rows = await self._fetch(revivals.TO_WATCH, before=looked_before, limit=limit)
        return [row for row in rows if row.region == rows[0].region]

    async def watch(
        self,
        looks: Sequence[RevivalCheck],
        at: datetime,
        *,
        reterminate_max: int,
        new_id: Callable[[str], str],
    ) -> None:
        """Write what these looks showed, with an operation for each job to be kept down.

        None is brought down again more than ``reterminate_max`` times in a row.  ``new_id`` makes
        an id with a prefix.
        """

        async def work(transaction: Transaction) -> None:
            await revivals.write(
                transaction, looks, at, reterminate_max=reterminate_max, new_id=new_id
            )

        await self._write(
            work, terminations.c.id.in_({poll_kind.termination.id for poll_kind in looks})
        )

    async def unanswered(self) -> list[Termination]:
        """Terminations with a TerminateJob call whose answer was never written."""
        return await self._fetch(_UNANSWERED)

    async def draining(self, termination_ids: Sequence[str]) -> list[Termination]:
        """Those of these that drain and of which no count is planned, in the order given."""
        found = await self._fetch(_OF_IDS, ids=termination_ids)
        return sorted(found, key=lambda each: termination_ids.index(each.id))

    async def uncounted(
        self, before: datetime, operation_ids: Sequence[str] | None, limit: int
    ) -> list[Termination]:
        """Draining jobs whose instances were not counted since ``before``, the longest ago first.

        Of these operations; None: of any, where the call was acknowledged before then, too.
        """
        statement, asked = _OF_ANY, dict[str, object]()
        if operation_ids is not None:
            statement, asked = _OF_OPERATIONS, {"operation_ids": operation_ids}
        never, long_ago = await self._fetch_each(statement, 2, before=before, limit=limit, **asked)
        return [*never, *long_ago][:limit]

    async def apply(self, changes: Sequence[tuple[Termination, Decision]], at: datetime) -> int:
        """Write decisions in one transaction; returns how many changed a state."""

        async def work(transaction: Transaction) -> int:
            return await write_decisions(transaction, changes, at)

        return await self._write(work, terminations.c.id.in_({before.id for before, _ in changes}))

    async def postpone(self, termination_ids: Sequence[str], until: datetime) -> None:
        """Let no look of these be due before ``until``, but for rows that somebody has locked."""
        t = terminations.c
        these = (
            t.partition == self._fence.partition,
            t.id.in_(termination_ids),
            t.next_poll_at < until,
        )

        async def work(transaction: Transaction) -> None:
            await transaction.execute(
                update(terminations).where(t.id.in_(unlocked(*these))).values(next_poll_at=until)
            )

        await self._write(work)

    async def let_go(self) -> bool:
        """Have the loops try those again whose rows were locked; whether there was one."""
        return await self._locks.let_go()

    async def set_aside_until(self, now: datetime) -> datetime | None:
        """When the first of those that are set aside is to be tried again."""
        async with self._database.read() as connection:
            return await set_aside.next_at(connection, self._fence.partition, now)

    async def take_up(self, now: datetime) -> bool:
        """Have the loops try those again whose time has come, but for rows that are locked.

        Returns whether there was one.
        """

        async def work(transaction: Transaction) -> bool:
            return await set_aside.take_up(transaction, self._fence.partition, now)

        return await self._write(work)

    async def start_attempt(
        self, before: Termination, decision: Decision, attempt: NewAttempt
    ) -> int | None:
        """Write the attempt and the move to sending; its number, or None if it moved meanwhile."""

        async def work(transaction: Transaction) -> int | None:
            call = {"attempt": {"action": attempt.action, "target": attempt.target}}
            if not await write_decision(transaction, before, decision, attempt.sent_at, call):
                return None
            made = await transaction.scalar(_MADE, {"this": before.id})
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
        """Write the open attempt's answer and what was decided on it, or neither."""

        async def work(transaction: Transaction) -> None:
            result = {name: getattr(answer, name) for name in ("outcome", "code", "request_id")}
            if not await write_decision(
                transaction, before, decision, answer.at, {"answer": result}
            ):
                return
            await transaction.execute(
                _ANSWERED, {"this": before.id} | {f"its_{k}": v for k, v in asdict(answer).items()}
            )
            await turns.called(transaction, before, decision.after)

        await self._write(work, terminations.c.id == before.id)

    async def set_condition(self, trouble: ErrorDetail | None, allowed_per_s: float | None) -> None:
        """Record how the partition fares, for everyone who asks.

        ``trouble``: why its calls fail.  ``allowed_per_s``: how many TerminateJob calls the cloud
        lets through; None: as many as are configured.
        """

        async def work(transaction: Transaction) -> None:
            await transaction.execute(
                update(partitions)
                .where(partitions.c.name == self._fence.partition)
                .values(
                    trouble_code=trouble.code if trouble else None,
                    trouble_message=trouble.message if trouble else None,
                    trouble_advice=trouble.advice if trouble else None,
                    allowed_per_s=allowed_per_s,
                )
            )

        await self._write(work)
