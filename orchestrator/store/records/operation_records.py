"""Records of a page of operations: a fixed number of queries for any number of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Row, bindparam, func, select

from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.model.attempt import TERMINATE_JOB
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.progress.instance_totals import Tally, tally
from orchestrator.services.ports import MachinesProgress, OperationRecord
from orchestrator.store.mapping.decoding import legible
from orchestrator.store.records import instance_totals
from orchestrator.store.records.partition_states import read_partitions, trouble
from orchestrator.store.schema import attempts, operation_terminations, terminations
from orchestrator.store.sql import NOW, whole_seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.model.operation import NewOperation

RATE_WINDOW_S: Final = 10
"""Seconds over which the rate of calls is measured."""

# When a job of each operation was last read.
_LAST_OBSERVED: Final = (
    select(
        operation_terminations.c.operation_id,
        func.max(terminations.c.observed_at, type_=terminations.c.observed_at.type).label(
            "observed_at"
        ),
    )
    .join_from(
        operation_terminations,
        terminations,
        operation_terminations.c.termination_id == terminations.c.id,
    )
    .where(operation_terminations.c.operation_id.in_(bindparam("ids", expanding=True)))
    .group_by(operation_terminations.c.operation_id)
    .order_by(operation_terminations.c.operation_id)
)
# The number of TerminateJob calls of each partition, by the whole seconds since they were sent.
_CALLS_BY_AGE: Final = (
    select(
        attempts.c.partition,
        whole_seconds(NOW, attempts.c.sent_at).label("age_s"),
        func.count().label("calls"),
    )
    .where(
        attempts.c.partition.in_(bindparam("partitions", expanding=True)),
        attempts.c.action == TERMINATE_JOB,
        attempts.c.sent_at > bindparam("began_at", type_=attempts.c.sent_at.type),
        attempts.c.sent_at <= NOW,
    )
    .group_by(attempts.c.partition, "age_s")
)


async def operation_records(
    connection: AsyncConnection, rows: Sequence[Mapping[str, Any]], now: datetime
) -> list[OperationRecord]:
    """Complete rows of ``operations`` with the progress of their jobs and of their partitions."""
    ids = [row["id"] for row in rows]
    names = {row["partition"] for row in rows}
    partitions = await read_partitions(connection, names)
    groups = await instance_totals.groups(connection, ids)
    observed_at = await _observed_at(connection, ids)
    calls = await _calls_by_age(connection, names, now)
    return [
        _record(
            row,
            groups[row["id"]],
            partitions.get(row["partition"]),
            observed_at=observed_at.get(row["id"]),
            calls_per_s=_calls_per_s(row, calls[row["partition"]], now),
        )
        for row in rows
    ]


def record_of_new(new: NewOperation, partition: Row[Any] | None) -> OperationRecord:
    """Return the record of an operation that is being stored, with new terminations only."""
    return OperationRecord(
        id=new.id,
        account=new.account,
        region=new.region,
        reason=new.reason,
        requested_by=new.requested_by,
        duplicates_merged=new.duplicates_merged,
        outcome=None,
        created_at=new.request.created_at,
        finished_at=None,
        jobs_by_state={State.QUEUED: len(new.job_ids)},
        instances=Tally(jobs_not_counted=len(new.job_ids)),
        machines=MachinesProgress(total=0, up=0, gone=0),
        revived=0,
        observed_at=None,
        partition=new.partition,
        calls_per_s=0.0,
        allowed_per_s=partition and partition.allowed_per_s,
        trouble=trouble(partition),
        reterminate_for_s=new.reterminate_for_s,
        reterminates_for=new.reterminates_for,
    )


def _record(
    row: Mapping[str, Any],
    groups: Sequence[Row[Any]],
    partition: Row[Any] | None,
    *,
    observed_at: datetime | None,
    calls_per_s: float,
) -> OperationRecord:
    jobs_by_state = Counter[State]()
    for group in groups:
        jobs_by_state[State(group.state)] += group.jobs
    return OperationRecord(
        id=row["id"],
        account=row["account"],
        region=row["region"],
        reason=row["reason"],
        requested_by=row["requested_by"],
        duplicates_merged=row["duplicates_merged"],
        outcome=row["outcome"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        jobs_by_state=jobs_by_state,
        instances=tally(instance_totals.as_group(group) for group in groups),
        machines=MachinesProgress(
            total=sum(int(group.machines_total) for group in groups),
            up=sum(int(group.machines_up) for group in groups),
            gone=sum(int(group.machines_gone) for group in groups),
        ),
        revived=sum(group.jobs for group in groups if group.revived),
        observed_at=observed_at,
        partition=row["partition"],
        calls_per_s=calls_per_s,
        allowed_per_s=partition and partition.allowed_per_s,
        trouble=trouble(partition),
        reterminate_for_s=row["reterminate_for_s"],
        reterminates_for=row["reterminates_for"],
    )


async def _observed_at(
    connection: AsyncConnection, ids: Collection[str]
) -> dict[str, datetime | None]:
    """Return when a job of each operation was last read; None if a stored time is not a time."""
    found = await legible(connection, _LAST_OBSERVED, {"ids": list(ids)})
    return {row["operation_id"]: row["observed_at"] for row in found}


async def _calls_by_age(
    connection: AsyncConnection, partitions: Collection[str], now: datetime
) -> defaultdict[str, Counter[int]]:
    """Count the TerminateJob calls of each partition in the last RATE_WINDOW_S, by whole seconds.

    Later ones were sent before the clock was put back.
    """
    calls: defaultdict[str, Counter[int]] = defaultdict(Counter)
    began_at = now - timedelta(seconds=RATE_WINDOW_S)
    parameters = {"partitions": list(partitions), "began_at": began_at, "now": now}
    for row in await connection.execute(_CALLS_BY_AGE, parameters):
        calls[row.partition][row.age_s] += row.calls
    return calls


def _calls_per_s(operation: Mapping[str, Any], calls: Mapping[int, int], now: datetime) -> float:
    """Return the rate of TerminateJob calls: since the operation was created, at most 10 s."""
    created_at = operation["created_at"]
    age_s = None if created_at is None else elapsed_s(created_at, now)
    window_s = RATE_WINDOW_S if age_s is None else min(RATE_WINDOW_S, max(1, int(age_s)))
    return sum(number for age, number in calls.items() if age < window_s) / window_s
