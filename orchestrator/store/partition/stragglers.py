"""Escalation: picks the next instance or machine to terminate; its attempts, rounds and rescans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, and_, bindparam, case, cast, exists, func, insert, or_, select, update

from orchestrator.domain.decisions.escalation import (
    READ_MAX_INSTANCES,
    ROUND_ACTIONS,
    RoundFinished,
    Straggler,
)
from orchestrator.domain.model.attempt import INTERRUPTED, PER_INSTANCE_ACTIONS
from orchestrator.domain.model.instance_scan import LIVE
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.model.termination import EscalationLevel
from orchestrator.store.mapping.termination_rows import scan_to_row
from orchestrator.store.partition.fenced_writes import CUTOFF, IN_PARTITION, LIMIT
from orchestrator.store.partition.machine_captures import write_instances
from orchestrator.store.schema import RESCANNED, TO_RESCAN, attempts, instances, terminations
from orchestrator.store.terminations import milestones
from orchestrator.store.terminations.turns import TERMINATE_ORDER

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.domain.model.batch_job import TaskPage
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_T = terminations.c
# Terminations whose live instances must be read again: for an escalation, or on request.
DUE_FOR_RESCAN = (
    select(terminations)
    .where(
        IN_PARTITION,
        TO_RESCAN,
        or_(_T.instances_live.is_(None), _T.instances_live.between(1, READ_MAX_INSTANCES)),
        or_(_T.rescan_at.is_(None), _T.rescan_at <= CUTOFF),
        or_(
            _T.rescanned_at.is_(None),
            _T.rescanned_at < _T.escalation_started_at,
            _T.rescanned_at < _T.asked_at,
            and_(_T.escalation_started_at.is_not(None), _T.rescanned_at < _T.last_progress_at),
        ),
    )
    .order_by(*TERMINATE_ORDER)
    .limit(LIMIT)
)

# A termination whose round of calls has not finished.
_ROUND_UNFINISHED = and_(
    _T.escalation_level.in_(tuple(ROUND_ACTIONS)),
    or_(_T.escalation_finished_at.is_(None), _T.escalation_finished_at < _T.escalation_started_at),
)
# A termination whose live instances were read for its round.
_ROUND_READY = (
    TO_RESCAN,
    _T.state == State.DRAINING,
    _T.rescanned_at >= _T.escalation_started_at,
    _ROUND_UNFINISHED,
)
# An attempt for one instance or machine without an answer.
_OPEN = and_(attempts.c.answered_at.is_(None), attempts.c.action.in_(PER_INSTANCE_ACTIONS))
# The open attempts of a partition.
_OPEN_ATTEMPTS = select(attempts.c.seq, attempts.c.termination_id, attempts.c.target).where(
    _OPEN, attempts.c.partition == bindparam("partition")
)
# The termination has an open attempt.
_HAS_OPEN_ATTEMPT = (
    exists().where(_OPEN, attempts.c.termination_id == _T.id).correlate(terminations, instances)
)
# What an attempt for this instance names: its machine, or the instance itself.
_TARGET = case(
    (_T.escalation_level == EscalationLevel.MACHINES, instances.c.machine_id),
    else_=instances.c.task + "/" + cast(instances.c.instance_index, Text),
)
# An instance, live at the last rescan, for which no request was sent in this round yet.
_REMAINING = and_(
    instances.c.termination_seq == _T.seq,
    RESCANNED,
    instances.c.state.in_(LIVE),
    instances.c.observed_at >= _T.rescanned_at,
    or_(instances.c.last_sent_at.is_(None), instances.c.last_sent_at < _T.escalation_started_at),
    or_(
        _T.escalation_level == EscalationLevel.INSTANCES,
        # Never a node of a compute environment: other jobs may run there.
        and_(
            instances.c.machine_id != "",
            or_(instances.c.machine.is_(None), instances.c.machine == MachineStatus.UP),
        ),
    ),
    # An instance that was given a machine meanwhile has another row.
    ~_HAS_OPEN_ATTEMPT.where(attempts.c.target == _TARGET),
)
# The first round without a remaining instance: its columns of ``instances`` are NULL. Else the next
# instance, or its machine, of a round at one of the levels.
_NEXT_ESCALATION_TARGET = (
    select(
        *(_T.id, _T.region, _T.job_id, _T.escalation_level),
        *(instances.c.task, instances.c.instance_index, instances.c.machine_id),
    )
    .join_from(terminations, instances, _REMAINING, isouter=True)
    .where(
        IN_PARTITION,
        *_ROUND_READY,
        or_(
            and_(
                instances.c.task.is_not(None),
                _T.escalation_level.in_(bindparam("levels", expanding=True)),
            ),
            and_(instances.c.task.is_(None), ~_HAS_OPEN_ATTEMPT),
        ),
    )
    .order_by(
        instances.c.task.is_not(None),
        _T.escalation_started_at,
        _T.seq,
        instances.c.task,
        instances.c.instance_index,
    )
    .limit(1)
)
_STILL_REMAINS = (
    select(_T.seq)
    .join_from(terminations, instances, _REMAINING)
    .where(*_ROUND_READY, _T.id == bindparam("id"), bindparam("target") == _TARGET)
    .limit(1)
)


async def write_rescan(
    transaction: Transaction,
    before: Termination,
    after: InstanceScan,
    page: TaskPage | None,
    *,
    due_at: datetime | None,
) -> None:
    """Write the progress of a rescan and the instances of its last page, or neither.

    A rescan that failed permanently ends its round: otherwise the escalation would never reach the
    level at which manual action is required.
    """
    found = await transaction.execute(
        select(_T.seq, _T.rescan).where(_T.id == before.id, _T.partition == before.partition)
    )
    row = found.one_or_none()
    known = before.captures.rescan
    if row is None or row.rescan != (known and scan_to_row(known)):
        return
    changes: dict[str, Any] = {"rescan": scan_to_row(after), "rescan_at": due_at}
    if page is not None and page.instances:
        task = next(task for task in after.tasks if task.name == page.task.name)
        new, _ = await write_instances(transaction, row.seq, task, page, rescanned=True)
        if task.env_id is None:
            changes["machines_total"] = _T.machines_total + new
    if after.ended_at is not None and after.problem is None:
        changes["rescanned_at"] = after.began_at
    await transaction.execute(update(terminations).where(_T.seq == row.seq).values(changes))
    if after.ended_at is not None and after.problem is not None:
        its_round = update(terminations).where(
            _T.seq == row.seq, _ROUND_UNFINISHED, _T.escalation_started_at <= after.began_at
        )
        await transaction.execute(its_round.values(escalation_finished_at=after.ended_at))


async def next_escalation_target(
    connection: AsyncConnection,
    in_partition: Mapping[str, object],
    levels: Collection[EscalationLevel],
) -> Straggler | RoundFinished | None:
    """Return a finished round; else the next target of the earliest round at one of the levels."""
    parameters = {**in_partition, "levels": list(levels)}
    row = (await connection.execute(_NEXT_ESCALATION_TARGET, parameters)).one_or_none()
    if row is None:
        return None
    if row.task is None:
        return RoundFinished(row.id)
    return Straggler(
        termination_id=row.id,
        region=row.region,
        job_id=row.job_id,
        task=row.task,
        instance_index=row.instance_index,
        machine_id=row.machine_id if row.escalation_level == EscalationLevel.MACHINES else None,
    )


async def end_round(transaction: Transaction, finished: RoundFinished, at: datetime) -> None:
    await transaction.execute(
        update(terminations)
        .where(_T.id == finished.termination_id)
        .values(escalation_finished_at=at)
    )


async def find_orphaned_attempts(
    connection: AsyncConnection, under_way: Collection[Straggler], partition: str
) -> list[int]:
    """Return the open attempts whose answers nobody awaits: all but those under way."""
    opened = await connection.execute(_OPEN_ATTEMPTS, {"partition": partition})
    awaited = {(straggler.termination_id, straggler.target) for straggler in under_way}
    return [row.seq for row in opened if (row.termination_id, row.target) not in awaited]


async def close_orphaned_attempts(
    transaction: Transaction, seqs: Sequence[int], at: datetime
) -> None:
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


async def open_attempt(
    transaction: Transaction, straggler: Straggler, partition: str, at: datetime
) -> bool:
    """Write an attempt before its request is sent; return False if the target no longer remains.

    Its job may have stopped, or the round may have ended, since the target was read.
    """
    still = {"id": straggler.termination_id, "target": straggler.target}
    if await transaction.scalar(_STILL_REMAINS, still) is None:
        return False
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
    await transaction.execute(update(instances).where(_rows_of(straggler)).values(last_sent_at=at))
    await milestones.called(
        transaction, straggler.termination_id, straggler.job_id, straggler.action, at
    )
    return True


async def close_attempt(
    transaction: Transaction, straggler: Straggler, answer: AttemptResult, *, again: bool
) -> None:
    """Write the answer of the open attempt; with ``again``, the call is made once more."""
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
            update(instances).where(_rows_of(straggler)).values(last_sent_at=None)
        )
