"""In which order jobs are first polled and called: their operations take turns.

A turn has one call for each operation that has a job to be called, so a single cancel never waits
for the 2,000 jobs of another operation.  A job gets its turn as it enters the queue of calls: the
one after the last of its operation, or after the current one of the partition if that is later.  An
operation that comes later thus begins at the current turn, and takes nothing back of the turns
before it (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).  Within a turn, the
operation that expects its last turn soonest goes first: it has the fewest jobs left to call.  A job
that several operations want has the earliest turn that one of them gives it.  A job that is called
again before a call had effect keeps its turn.  Jobs that were held go before all others.

Until a first poll has shown a job, its turn is its place among the jobs of its operation, from the
lowest place on whose job waits for a first poll: a few ids never wait for 10,000 of another
operation.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, cast, func, select, update

from orchestrator.domain.decisions.transitions import BEFORE_EFFECT
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.store.chunks import chunks
from orchestrator.store.schema import (
    operation_terminations,
    operations,
    partitions,
    terminations,
)
from orchestrator.store.sql import greatest
from orchestrator.store.terminations.set_aside import NOT_SET_ASIDE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_T = terminations.c
_LINK = operation_terminations.c
IN_TURN = (_T.priority.desc(), _T.turn, _T.last_turn, _T.seq)
"""The order in which jobs are called, and their machines captured."""

_ASKED_BY = (
    select(_LINK.termination_id, operations.c.seq, operations.c.turn)
    .join(operation_terminations, _LINK.operation_id == operations.c.id)
    .where(
        _LINK.termination_id.in_(bindparam("ids", expanding=True)),
        operations.c.finished_at.is_(None),
    )
    .order_by(operations.c.seq)
)
_TO_ENTER = (
    select(operations.c.seq, func.count().label("jobs"))
    .join(operation_terminations, _LINK.operation_id == operations.c.id)
    .join(terminations, _LINK.termination_id == _T.id)
    .where(
        operations.c.seq.in_(bindparam("seqs", expanding=True)),
        _T.run == 0,
        _T.finished_at.is_(None),
    )
    .group_by(operations.c.seq)
)
_GIVE = (
    update(terminations)
    .where(_T.id == bindparam("this"))
    .values(turn=bindparam("its_turn"), last_turn=bindparam("its_last"))
)
_GIVE_EARLIER = _GIVE.where(_T.turn > bindparam("its_turn"))
_GIVEN = (
    update(operations)
    .where(operations.c.seq == bindparam("this"))
    .values(turn=bindparam("its_turn"))
)


async def enter(transaction: Transaction, changes: Iterable[tuple[Termination, Decision]]) -> None:
    """Give the jobs of one partition that enter the queue of calls their turns, in this order."""
    entering = [before for before, decision in changes if _enters(before, decision.after)]
    if not entering:
        return
    current = await _current(transaction, entering[0].partition)
    asked_by: defaultdict[str, list[int]] = defaultdict(list)
    last: dict[int, int] = {}
    ids = [termination.id for termination in entering]
    for row in await transaction.execute(_ASKED_BY, {"ids": ids}):
        asked_by[row.termination_id].append(row.seq)
        last[row.seq] = max(row.turn or 0, current)
    given = dict[str, tuple[int, int]]()
    for id_ in ids:
        operation = min(asked_by[id_], key=last.__getitem__)
        last[operation] += 1
        given[id_] = last[operation], operation
    charged = sorted({operation for _, operation in given.values()})
    to_enter = await transaction.execute(_TO_ENTER, {"seqs": charged})
    ends = last | {row.seq: last[row.seq] + row.jobs for row in to_enter}
    await transaction.execute(
        _GIVE,
        [_turn(id_, turn, ends[operation]) for id_, (turn, operation) in given.items()],
    )
    await transaction.execute(_GIVEN, [{"this": seq, "its_turn": last[seq]} for seq in charged])


def _turn(termination_id: str, turn: int, last: int) -> dict[str, Any]:
    return {"this": termination_id, "its_turn": turn, "its_last": last}


def _enters(before: Termination, after: Termination) -> bool:
    """Whether it may be called from now on, and that for the first time in this run of its job."""
    anew = after.run > before.run or after.state is State.DRAINING
    return (
        anew
        and before.terminate_after is None
        and after.terminate_after is not None
        and not after.priority
    )


async def _current(transaction: Transaction, partition: str) -> int:
    turn = await transaction.scalar(select(partitions.c.turn).where(partitions.c.name == partition))
    return int(turn or 0)


async def called(transaction: Transaction, before: Termination, after: Termination) -> None:
    """Go on to the turn of a job whose call is over, if no call of a later one was."""
    if before.priority or after.state in BEFORE_EFFECT:
        return
    its_turn = select(_T.turn).where(_T.id == before.id).scalar_subquery()
    await transaction.execute(
        update(partitions)
        .where(partitions.c.name == before.partition)
        .values(turn=greatest(partitions.c.turn, its_turn))
    )


# --- when an operation is created ----------------------------------------------------------------


# SQLite may have a text as a turn, which counts as 0 here; a time is not decoded.
_TURN = cast(_T.turn, BigInteger)
JOINED = (
    _T.id,
    _T.job_id,
    _T.job_state,
    _T.terminate_after.is_not(None).label("queued"),
    _TURN.label("turn"),
)


async def for_first_polls(transaction: Transaction, new: NewOperation) -> dict[str, int]:
    """The turn of each of its jobs, until a first poll has shown it."""
    lowest = [
        turn
        for poll_kind in PollKind
        if (
            turn := await transaction.scalar(
                select(_TURN)
                .where(
                    _T.partition == new.partition,
                    _T.poll_kind == poll_kind,
                    _T.job_state.is_(None),
                    _T.next_poll_at <= new.created_at,
                )
                .order_by(_T.turn)
                .limit(1)
            )
        )
        is not None
    ]
    begin = min(lowest, default=0) + 1
    return {job_id: begin + place for place, job_id in enumerate(new.job_ids)}


async def join(
    transaction: Transaction,
    new: NewOperation,
    live: Sequence[Row[Any]],
    first_polls: dict[str, int],
) -> None:
    """Let jobs that are being terminated already go by this operation's turns where it helps them.

    ``live``: what JOINED names of their terminations.
    """
    last = current = await _current(transaction, new.partition)
    end = current + len(new.job_ids)
    turns = [_turn(row.id, first_polls[row.job_id], end) for row in live if row.job_state is None]
    for row in sorted(live, key=lambda row: (row.turn, row.id)):
        if row.queued and row.turn > last + 1:
            last += 1
            turns.append(_turn(row.id, last, end))
    if turns:
        await transaction.execute(_GIVE_EARLIER, turns)
    if last > current:
        await transaction.execute(
            update(operations).where(operations.c.id == new.id).values(turn=last)
        )


# --- what is told of it --------------------------------------------------------------------------


async def ahead(
    connection: AsyncConnection, partitions: Collection[str], ids: Sequence[str], now: datetime
) -> dict[str, int]:
    """How many jobs of its partition are called before each of these that waits for its call."""
    place = func.row_number().over(partition_by=_T.partition, order_by=IN_TURN)
    queue = (
        select(_T.id, place.label("place"))
        .where(_T.partition.in_(partitions), _T.terminate_after <= now, NOT_SET_ASIDE)
        .subquery()
    )
    found: dict[str, int] = {}
    for some in chunks(ids):
        rows = await connection.execute(select(queue).where(queue.c.id.in_(some)))
        found.update((row.id, row.place - 1) for row in rows)
    return found
