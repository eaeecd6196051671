"""Live instances that are read anew, and those that TerminateTaskInstance is to be called for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, and_, bindparam, case, cast, exists, func, insert, or_, select, update

from orchestrator.domain.decisions.escalation import (
    IN_ROUNDS,
    READ_MAX_INSTANCES,
    RoundOver,
    Straggler,
)
from orchestrator.domain.model.attempt import FOR_ONE, INTERRUPTED
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.model.machine_capture import LIVE
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.mapping.termination_rows import capture_to_row
from orchestrator.store.partition.fenced import CUTOFF, IN_PARTITION, LIMIT
from orchestrator.store.partition.machine_captures import write_instances
from orchestrator.store.schema import ANEW, READ_ANEW, attempts, instances, terminations
from orchestrator.store.terminations import milestones
from orchestrator.store.terminations.turns import IN_TURN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.domain.model.batch_job import TaskPage
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_T = terminations.c
TO_READ = (
    select(terminations)
    .where(
        IN_PARTITION,
        READ_ANEW,
        or_(_T.instances_live.is_(None), _T.instances_live.between(1, READ_MAX_INSTANCES)),
        or_(_T.reading_at.is_(None), _T.reading_at <= CUTOFF),
        or_(
            _T.read_at.is_(None),
            _T.read_at < _T.escalation_started_at,
            _T.read_at < _T.asked_at,
            and_(_T.escalation_started_at.is_not(None), _T.read_at < _T.last_progress_at),
        ),
    )
    .order_by(*IN_TURN)
    .limit(LIMIT)
)

_GOES_ON = and_(
    _T.escalation_level.in_(IN_ROUNDS),
    or_(_T.escalation_finished_at.is_(None), _T.escalation_finished_at < _T.escalation_started_at),
)
_IN_A_ROUND = (
    IN_PARTITION,
    READ_ANEW,
    _T.state == State.DRAINING,
    _T.read_at >= _T.escalation_started_at,
    _GOES_ON,
)
_OPEN = and_(attempts.c.answered_at.is_(None), attempts.c.action.in_(FOR_ONE))
_OPENED = select(attempts.c.seq, attempts.c.termination_id, attempts.c.target).where(
    _OPEN, attempts.c.partition == bindparam("partition")
)
_UNDER_WAY = (
    exists().where(_OPEN, attempts.c.termination_id == _T.id).correlate(terminations, instances)
)
_TARGET = case(
    (_T.escalation_level == EscalationLevel.MACHINES, instances.c.machine_id),
    else_=instances.c.task + "/" + cast(instances.c.instance_index, Text),
)
_LEFT = and_(
    instances.c.termination_seq == _T.seq,
    ANEW,
    instances.c.state.in_(LIVE),
    instances.c.observed_at >= _T.read_at,
    or_(instances.c.first_sent_at.is_(None), instances.c.first_sent_at < _T.escalation_started_at),
    or_(
        _T.escalation_level == EscalationLevel.INSTANCES,
        # No node of a compute environment: others may run there.
        and_(
            instances.c.machine_id != "",
            or_(instances.c.machine.is_(None), instances.c.machine == MachineStatus.UP),
        ),
    ),
    # It may have got a machine meanwhile, which is another row.
    ~_UNDER_WAY.where(attempts.c.target == _TARGET),
)
_NEXT = (
    select(
        *(_T.id, _T.region, _T.job_id, _T.escalation_level),
        *(instances.c.task, instances.c.instance_index, instances.c.machine_id),
    )
    .join_from(terminations, instances, _LEFT, isouter=True)
    .where(*_IN_A_ROUND, or_(instances.c.task.is_not(None), ~_UNDER_WAY))
    .order_by(
        instances.c.task.is_not(None),
        _T.escalation_started_at,
        _T.seq,
        instances.c.task,
        instances.c.instance_index,
    )
    .limit(1)
)


async def read(
    transaction: Transaction,
    before: Termination,
    after: Capture,
    page: TaskPage | None,
    *,
    due_at: datetime | None,
) -> None:
    """Write how far a reading is, with the instances of its last page, or neither.

    One that failed for good ends the round that it was for: else it would never be up to a person.
    """
    found = await transaction.execute(
        select(_T.seq, _T.reading).where(_T.id == before.id, _T.partition == before.partition)
    )
    row = found.one_or_none()
    if row is None or row.reading != (before.reading and capture_to_row(before.reading)):
        return
    changes: dict[str, Any] = {"reading": capture_to_row(after), "reading_at": due_at}
    if page is not None and page.instances:
        task = next(task for task in after.tasks if task.name == page.task.name)
        new, _ = await write_instances(transaction, row.seq, task, page, anew=True)
        if task.env_id is None:
            changes["machines_total"] = _T.machines_total + new
    if after.ended_at is not None and after.problem is None:
        changes["read_at"] = after.began_at
    await transaction.execute(update(terminations).where(_T.seq == row.seq).values(changes))
    if after.ended_at is not None and after.problem is not None:
        in_vain = update(terminations).where(
            _T.seq == row.seq, _GOES_ON, _T.escalation_started_at <= after.began_at
        )
        await transaction.execute(in_vain.values(escalation_finished_at=after.ended_at))


async def next_in_rounds(
    connection: AsyncConnection, here: Mapping[str, object]
) -> Straggler | RoundOver | None:
    """A round that is over; else the instance to call for next, of the round that began first."""
    row = (await connection.execute(_NEXT, here)).one_or_none()
    if row is None:
        return None
    if row.task is None:
        return RoundOver(row.id)
    return Straggler(
        termination_id=row.id,
        region=row.region,
        job_id=row.job_id,
        task=row.task,
        instance_index=row.instance_index,
        machine_id=row.machine_id if row.escalation_level == EscalationLevel.MACHINES else None,
    )


async def end_round(transaction: Transaction, over: RoundOver, at: datetime) -> None:
    await transaction.execute(
        update(terminations).where(_T.id == over.termination_id).values(escalation_finished_at=at)
    )


async def lost(
    connection: AsyncConnection, under_way: Collection[Straggler], partition: str
) -> list[int]:
    """The attempts that nobody hears the answer of any more: all open ones but those under way."""
    opened = await connection.execute(_OPENED, {"partition": partition})
    heard = {(straggler.termination_id, straggler.target) for straggler in under_way}
    return [row.seq for row in opened if (row.termination_id, row.target) not in heard]


async def interrupted(transaction: Transaction, seqs: Sequence[int], at: datetime) -> None:
    await transaction.execute(
        update(attempts)
        .where(attempts.c.seq.in_(seqs), attempts.c.answered_at.is_(None))
        .values(answered_at=at, outcome=INTERRUPTED)
    )


def _rows_of(straggler: Straggler) -> Any:
    seq = select(_T.seq).where(_T.id == straggler.termination_id).scalar_subquery()
    return and_(
        instances.c.termination_seq == seq,
        instances.c.task == straggler.task,
        instances.c.instance_index == straggler.instance_index,
    )


async def start(
    transaction: Transaction, straggler: Straggler, partition: str, at: datetime
) -> None:
    """Write an attempt before its call leaves."""
    made = await transaction.scalar(
        select(func.count()).where(attempts.c.termination_id == straggler.termination_id)
    )
    await transaction.execute(
        insert(attempts),
        {
            "termination_id": straggler.termination_id,
            "number": int(made or 0) + 1,
            "partition": partition,
            "action": straggler.action,
            "target": straggler.target,
            "sent_at": at,
        },
    )
    await transaction.execute(update(instances).where(_rows_of(straggler)).values(first_sent_at=at))
    await milestones.called(
        transaction, straggler.termination_id, straggler.job_id, straggler.action, at
    )


async def finish(
    transaction: Transaction, straggler: Straggler, answer: AttemptResult, *, again: bool
) -> None:
    """Write the open attempt's answer; with ``again``, the instance is called for once more."""
    await transaction.execute(
        update(attempts)
        .where(
            _OPEN,
            attempts.c.termination_id == straggler.termination_id,
            attempts.c.target == straggler.target,
        )
        .values(
            answered_at=answer.at,
            outcome=answer.outcome,
            code=answer.code,
            message=answer.message,
            request_id=answer.request_id,
        )
    )
    if again:
        await transaction.execute(
            update(instances).where(_rows_of(straggler)).values(first_sent_at=None)
        )
