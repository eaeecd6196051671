"""The order of first polls and of TerminateJob calls: operations take turns.

A turn has one TerminateJob call for each operation with a job that waits for one, so an operation
with one job does not wait for the 2,000 jobs of another one. A job gets its turn when it enters the
queue of calls: the turn after the last one of its operation, or after the current one of the
partition if that is later. So an operation that comes later begins at the current turn, and does
not make up for the turns before it (start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996).
Within a turn, the operation whose last turn comes first goes first: it has the fewest jobs left. A
job of several operations has the earliest turn that one of them gives it. A job that is called
again before a call had effect keeps its turn. Jobs that were held go first (``priority``).

Until a first poll has shown a job, its turn is its position among the jobs of its operation,
counted from the lowest turn of a job that waits for a first poll: a few ids never wait for the
10,000 of another operation.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, bindparam, case, cast, func, select, update

from orchestrator.domain.decisions.decision import BEFORE_EFFECT
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import PollKind
from orchestrator.store.chunks import chunks
from orchestrator.store.schema import (
    operation_terminations,
    operations,
    partitions,
    terminations,
)
from orchestrator.store.sql import NOW, greatest
from orchestrator.store.terminations.set_aside import READ_BY_LOOPS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from datetime import datetime

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_T = terminations.c
_LINK = operation_terminations.c
TERMINATE_ORDER = (_T.priority.desc(), _T.turn, _T.last_turn, _T.seq)
"""The order of TerminateJob calls, and of captures."""

# The unfinished operations of these terminations, with the last turn given to each.
_OPERATIONS_OF = (
    select(_LINK.termination_id, operations.c.seq, operations.c.turn)
    .join(operation_terminations, _LINK.operation_id == operations.c.id)
    .where(
        _LINK.termination_id.in_(bindparam("ids", expanding=True)),
        operations.c.finished_at.is_(None),
    )
    .order_by(operations.c.seq)
)
# The number of jobs of these operations that have not entered the queue of calls yet.
_JOBS_TO_ENTER = (
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
# Give a termination its turn, and the turn that the last job of its operation is expected to get.
_SET_TURN = (
    update(terminations)
    .where(_T.id == bindparam("this"))
    .values(turn=bindparam("its_turn"), last_turn=bindparam("its_last"))
)
# The same, if that is earlier than the turn it has.
_SET_EARLIER_TURN = _SET_TURN.where(_T.turn > bindparam("its_turn"))
# Store the last turn given to an operation.
_SET_OPERATION_TURN = (
    update(operations)
    .where(operations.c.seq == bindparam("this"))
    .values(turn=bindparam("its_turn"))
)


async def enter(transaction: Transaction, changes: Iterable[tuple[Termination, Decision]]) -> None:
    """Give turns to the jobs of one partition that enter the queue of calls, in this order."""
    entering = [before for before, decision in changes if _enters(before, decision.after)]
    if not entering:
        return
    current = await _current_turn(transaction, entering[0].partition)
    operations_of: defaultdict[str, list[int]] = defaultdict(list)
    last: dict[int, int] = {}
    ids = [termination.id for termination in entering]
    for row in await transaction.execute(_OPERATIONS_OF, {"ids": ids}):
        operations_of[row.termination_id].append(row.seq)
        last[row.seq] = max(row.turn or 0, current)
    given = dict[str, tuple[int, int]]()
    for id_ in ids:
        operation = min(operations_of[id_], key=last.__getitem__)
        last[operation] += 1
        given[id_] = last[operation], operation
    charged = sorted({operation for _, operation in given.values()})
    to_enter = await transaction.execute(_JOBS_TO_ENTER, {"seqs": charged})
    ends = last | {row.seq: last[row.seq] + row.jobs for row in to_enter}
    await transaction.execute(
        _SET_TURN,
        [_turn(id_, turn, ends[operation]) for id_, (turn, operation) in given.items()],
    )
    await transaction.execute(
        _SET_OPERATION_TURN, [{"this": seq, "its_turn": last[seq]} for seq in charged]
    )


def _turn(termination_id: str, turn: int, last: int) -> dict[str, Any]:
    return {"this": termination_id, "its_turn": turn, "its_last": last}


def _enters(before: Termination, after: Termination) -> bool:
    """Return whether its first call in this run of its job is allowed by this decision."""
    new_in_run = after.calls.run > before.calls.run or after.state is State.DRAINING
    return (
        new_in_run
        and before.schedule.terminate_after is None
        and after.schedule.terminate_after is not None
        and not after.schedule.priority
    )


async def _current_turn(transaction: Transaction, partition: str) -> int:
    turn = await transaction.scalar(select(partitions.c.turn).where(partitions.c.name == partition))
    return int(turn or 0)


_ITS_TURN = select(_T.turn).where(_T.id == bindparam("this")).scalar_subquery()
_LOWEST_TURN = (
    select(func.min(_T.turn))
    .where(
        _T.partition == bindparam("its_partition"),
        _T.priority.is_(False),
        _T.terminate_after.is_not(None),
        _T.terminate_after <= NOW,
        READ_BY_LOOPS,
        _T.id.not_in(bindparam("locked", expanding=True)),
    )
    .scalar_subquery()
)
# A job may be called before others that wait for their captures: their turn is not over.
_ADVANCE_TURN = (
    update(partitions)
    .where(partitions.c.name == bindparam("its_partition"))
    .values(
        turn=greatest(
            partitions.c.turn, case((_LOWEST_TURN < _ITS_TURN, _LOWEST_TURN), else_=_ITS_TURN)
        )
    )
)


async def called(
    transaction: Transaction,
    before: Termination,
    after: Termination,
    at: datetime,
    *,
    locked: Collection[str],
) -> None:
    """Advance the current turn to that of a job whose call is over, never back.

    It advances no further than to the lowest turn of a job that may be called at ``at``, apart from
    those whose rows are ``locked``.
    """
    if before.schedule.priority or after.state in BEFORE_EFFECT:
        return
    await transaction.execute(
        _ADVANCE_TURN,
        {"this": before.id, "its_partition": before.partition, "now": at, "locked": list(locked)},
    )


# --- when an operation is created ----------------------------------------------------------------


# A corrupt SQLite row may have a text as its turn, which counts as 0. Times are not decoded here.
_TURN = cast(_T.turn, BigInteger)
COLUMNS_FOR_JOIN = (
    _T.id,
    _T.job_id,
    _T.job_state,
    _T.terminate_after.is_not(None).label("waits_for_call"),
    _TURN.label("turn"),
)
"""Columns of a live termination that :func:`join` needs."""


_LOWEST_FIRST_POLL = (
    select(_TURN)
    .where(
        _T.partition == bindparam("its_partition"),
        _T.poll_kind == bindparam("of_kind"),
        _T.job_state.is_(None),
        _T.next_poll_at <= NOW,
    )
    .order_by(_T.turn)
    .limit(1)
)


async def for_first_polls(transaction: Transaction, new: NewOperation) -> int:
    """Return the turn that the first job of the operation has until its first poll."""
    lowest = [
        await transaction.scalar(
            _LOWEST_FIRST_POLL,
            {"its_partition": new.partition, "of_kind": kind, "now": new.request.created_at},
        )
        for kind in PollKind
    ]
    return min((turn for turn in lowest if turn is not None), default=0) + 1


async def join(
    transaction: Transaction,
    new: NewOperation,
    live: Sequence[Row[Any]],
    first_polls: dict[str, int],
) -> None:
    """Give jobs that are being terminated already this operation's turns where these are earlier.

    ``live``: the COLUMNS_FOR_JOIN columns of their terminations.
    """
    last = current = await _current_turn(transaction, new.partition)
    end = current + len(new.job_ids)
    turns = [_turn(row.id, first_polls[row.job_id], end) for row in live if row.job_state is None]
    for row in sorted(live, key=lambda row: (row.turn, row.id)):
        if row.waits_for_call and row.turn > last + 1:
            last += 1
            turns.append(_turn(row.id, last, end))
    if turns:
        await transaction.execute(_SET_EARLIER_TURN, turns)
    if last > current:
        await transaction.execute(
            update(operations).where(operations.c.id == new.id).values(turn=last)
        )


# --- the position in the queue -------------------------------------------------------------------


async def jobs_ahead(
    connection: AsyncConnection, partitions: Collection[str], ids: Sequence[str], now: datetime
) -> dict[str, int]:
    """Return, for each of these in the queue, how many jobs of its partition are before it."""
    position = func.row_number().over(partition_by=_T.partition, order_by=TERMINATE_ORDER)
    queue = (
        select(_T.id, position.label("queue_position"))
        .where(_T.partition.in_(partitions), _T.terminate_after <= now, READ_BY_LOOPS)
        .subquery()
    )
    found: dict[str, int] = {}
    for batch in chunks(ids):
        rows = await connection.execute(select(queue).where(queue.c.id.in_(batch)))
        found.update((row.id, row.queue_position - 1) for row in rows)
    return found
