"""Place of operations in the queue for TerminateJob."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sqlalchemy import func, or_, select

from orchestrator.domain.model.lifecycle import State
from orchestrator.store.schema import operation_terminations, terminations

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.services.ports import OperationRecord

_T = terminations.c


async def calls_until_last(
    connection: AsyncConnection,
    operations_of: Mapping[str, OperationRecord],
    pending: Mapping[str, int],
    now: datetime,
) -> dict[str, int]:
    """Return the number of TerminateJob calls up to that for each operation's last waiting job.

    Operations take turns, so no other operation has more calls until then than this one. A job of
    several operations counts for one of them.
    """
    if not pending:
        return {}
    link, shared = operation_terminations.c, operation_terminations.alias().c
    partitions = {operations_of[id_].partition for id_ in pending}
    waiting = (
        select(link.termination_id, _T.partition, func.min(link.operation_id).label("operation_id"))
        .join(terminations, link.termination_id == _T.id)
        .where(
            _T.partition.in_(partitions),
            _T.state == State.QUEUED,
            or_(_T.not_before.is_(None), _T.not_before <= now),
        )
        .group_by(link.termination_id, _T.partition)
        .subquery()
        .c
    )
    queues: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in await connection.execute(
        select(waiting.partition, waiting.operation_id, func.count().label("jobs")).group_by(
            waiting.partition, waiting.operation_id
        )
    ):
        queues[row.partition][row.operation_id] = row.jobs
    own: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in await connection.execute(
        select(
            shared.operation_id.label("wanted_by"), waiting.operation_id, func.count().label("jobs")
        )
        .join_from(
            waiting.operation_id.table,
            shared.operation_id.table,
            shared.termination_id == waiting.termination_id,
        )
        .where(shared.operation_id.in_(pending))
        .group_by(shared.operation_id, waiting.operation_id)
    ):
        own[row.wanted_by][row.operation_id] = row.jobs
    return {
        id_: jobs
        + sum(min(jobs, n) for n in (queues[operations_of[id_].partition] - own[id_]).values())
        for id_, jobs in pending.items()
    }
