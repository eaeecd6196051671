"""Instances with their machines, and what CVM showed of those."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Integer, bindparam, case, func, insert, or_, select, update

from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import CapturedMachine, MachineStatus
from orchestrator.store.mapping.decoding import Unreadable, decoded
from orchestrator.store.mapping.termination_rows import capture_to_row
from orchestrator.store.partition.fenced import IN_PARTITION, tagged_union
from orchestrator.store.schema import MACHINE_GONE, MACHINE_LEFT, instances, terminations

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import BindParameter, ColumnElement, Select, TextClause
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.model.batch_job import TaskPage, TaskSubmitted
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_KEY = ("termination_seq", "task", "instance_index", "machine_id")
_SEEN = ("state", "reason", "observed_at", "anew")


_NOW = select(terminations.c.seq, terminations.c.capture).where(
    terminations.c.id == bindparam("this_id"),
    terminations.c.partition == bindparam("this_partition"),
)


async def write(
    transaction: Transaction,
    before: Termination,
    after: Capture,
    page: TaskPage | None,
    *,
    awaits: bool,
    due_at: datetime | None,
) -> None:
    """Write how far a capture is, with the instances of its last page, or neither."""
    this = {"this_id": before.id, "this_partition": before.partition}
    row = (await transaction.execute(_NOW, this)).one_or_none()
    if row is None or row.capture != (before.capture and capture_to_row(before.capture)):
        return
    changes: dict[str, Any] = {"capture_at": due_at, "awaits_capture": awaits}
    if page is not None and page.instances:
        assert before.capture is not None
        task = before.capture.tasks[before.capture.task]
        new, again = await write_instances(
            transaction, row.seq, task, page, since=before.capture.began_at
        )
        after = replace(after, captured=after.captured + new + again)
        if task.env_id is not None:
            after = replace(after, nodes=await _nodes(transaction, row.seq))
        else:
            changes["machines_total"] = terminations.c.machines_total + new
    if after.ended_at is not None:
        changes["captured_run"] = after.run
    await transaction.execute(
        update(terminations)
        .where(terminations.c.seq == row.seq)
        .values(capture=capture_to_row(after), **changes)
    )


_KNOWN = select(instances.c.instance_index, instances.c.machine_id, instances.c.observed_at).where(
    instances.c.termination_seq == bindparam("this_seq"),
    instances.c.task == bindparam("this_task"),
    instances.c.instance_index.in_(bindparam("indices", expanding=True)),
)


async def write_instances(
    transaction: Transaction,
    seq: int,
    task: TaskSubmitted,
    page: TaskPage,
    *,
    since: datetime | None = None,
    anew: bool = False,
) -> tuple[int, int]:
    """Write a page of a task's instances.

    Returns how many machines are new, and how many are known and not seen ``since``: an instance
    may stand on two pages, for their order is not promised, and counts once.
    """
    indices = [seen.index for seen in page.instances]
    found = await transaction.execute(
        _KNOWN, {"this_seq": seq, "this_task": task.name, "indices": indices}
    )
    known = {(row.instance_index, row.machine_id): row.observed_at for row in found}
    fresh, again = list[dict[str, Any]](), list[dict[str, Any]]()
    for seen in page.instances:
        machine_id = seen.machine_id or ""
        (again if (seen.index, machine_id) in known else fresh).append(
            {
                "termination_seq": seq,
                "task": task.name,
                "instance_index": seen.index,
                "machine_id": machine_id,
                "state": seen.state,
                "reason": seen.reason,
                "observed_at": page.observed_at,
                "machine": None if task.env_id is None else MachineStatus.NODE,
                "anew": anew,
            }
        )
    if fresh:
        await transaction.execute(insert(instances), fresh)
    if again:
        await transaction.execute(_SEEN_AGAIN, [_this(row) for row in again])
    seen_at = [
        known[row["instance_index"], row["machine_id"]] for row in again if row["machine_id"]
    ]
    return (
        sum(row["machine_id"] != "" for row in fresh),
        sum(since is not None and at < since for at in seen_at),
    )


_THIS = [instances.c[name] == bindparam(f"this_{name}") for name in _KEY]
_SEEN_AGAIN = update(instances).where(*_THIS).values({name: bindparam(name) for name in _SEEN})


def _this(row: dict[str, Any]) -> dict[str, Any]:
    return {f"this_{name}": row[name] for name in _KEY} | {name: row[name] for name in _SEEN}


async def _nodes(transaction: Transaction, seq: int) -> int:
    count = await transaction.scalar(
        select(func.count(instances.c.machine_id.distinct())).where(
            instances.c.termination_seq == seq, instances.c.machine == MachineStatus.NODE
        )
    )
    return int(count or 0)


# --- machines ------------------------------------------------------------------------------------


_STARTING = instances.c.state == JobState.STARTING


def _machines(
    which: TextClause, *conditions: ColumnElement[bool], first: ColumnElement[Any]
) -> Select[Any]:
    return (
        select(instances, terminations.c.region, terminations.c.settle_from)
        .join(terminations, terminations.c.seq == instances.c.termination_seq)
        .where(
            IN_PARTITION,
            terminations.c.machines_problem.is_(None),
            instances.c.machine_id.not_in(bindparam("without", expanding=True)),
            which,
            *conditions,
        )
        .order_by(first, terminations.c.seq)
        .limit(bindparam("limit", type_=Integer))
    )


_IS_STOPPED = terminations.c.state == State.SETTLING
_SEEN_AT = instances.c.machine_observed_at
_SEEN_BEFORE: BindParameter[datetime] = bindparam("seen_before", type_=_SEEN_AT.type)
_NOW_AT: BindParameter[datetime] = bindparam("now", type_=_SEEN_AT.type)
_DUE = tagged_union(
    _machines(
        MACHINE_LEFT,
        terminations.c.machines_total > 0,
        terminations.c.machines_observed_at.is_(None),
        terminations.c.finished_at.is_(None),
        # Whether those were ever created is not known later.
        first=_STARTING.desc(),
    ),
    _machines(
        MACHINE_LEFT,
        _IS_STOPPED,
        or_(
            _SEEN_AT.is_(None),
            _SEEN_AT <= _SEEN_BEFORE,
            terminations.c.settle_from >= _SEEN_AT,
        ),
        first=_SEEN_AT.nulls_first(),
    ),
    # Gone when they were looked up, which is confirmed once the settle window is over.
    _machines(
        MACHINE_GONE,
        _IS_STOPPED,
        terminations.c.confirm_from <= _NOW_AT,
        terminations.c.confirm_from > _SEEN_AT,
        first=_SEEN_AT,
    ),
)


async def machines_due(
    connection: AsyncConnection,
    here: Mapping[str, object],
    now: datetime,
    seen_before: datetime,
    limit: int,
    *,
    without: Collection[str],
) -> tuple[list[CapturedMachine], dict[int, str]]:
    """Machines of one region to look up now, without those of these ids.

    A first few of each job, then all of those down that are left, then those to be confirmed.  And
    the ``seq`` of terminations with one whose row cannot be read, with the reason.
    """
    asked = {"now": now, "seen_before": seen_before, "limit": limit, "without": list(without)}
    rows = await decoded(connection, _DUE, _machine, {**here, **asked})
    machines = [row for row in rows if not isinstance(row, Unreadable)]
    found = {tuple(getattr(machine, name) for name in _KEY): machine for machine in machines}
    due = list(found.values())[:limit]
    return (
        [machine for machine in due if machine.region == due[0].region],
        {row.row["termination_seq"]: row.why for row in rows if isinstance(row, Unreadable)},
    )


def _machine(row: Mapping[str, Any]) -> CapturedMachine:
    if not isinstance(row["machine_id"], str):
        raise TypeError("machine_id is no text")
    return CapturedMachine(
        termination_seq=row["termination_seq"],
        region=row["region"],
        task=row["task"],
        instance_index=row["instance_index"],
        machine_id=row["machine_id"],
        starting=row["state"] == JobState.STARTING,
        sight=MachineStatus(row["machine"]) if row["machine"] else None,
        stopped_at=row["settle_from"],
    )


_LOOKED_UP = (
    update(instances)
    .where(*_THIS)
    .values(machine=bindparam("machine"), machine_observed_at=bindparam("machine_observed_at"))
)


_AT: BindParameter[datetime] = bindparam("at", type_=terminations.c.next_poll_at.type)
_COUNT = (
    update(terminations)
    .where(terminations.c.seq == bindparam("this_seq"))
    .values(
        machines_up=terminations.c.machines_up + bindparam("up", type_=Integer),
        machines_gone=terminations.c.machines_gone + bindparam("gone", type_=Integer),
        machines_listed=or_(terminations.c.machines_listed, bindparam("listed", type_=Boolean)),
        machines_observed_at=_AT,
    )
)
_ALL_GONE = terminations.c.machines_gone == terminations.c.machines_total
_ALL_OBSERVED = (
    update(terminations)
    .where(terminations.c.seq.in_(bindparam("seqs", expanding=True)))
    .values(
        machines_all_observed_at=case(
            (
                _ALL_GONE,
                select(func.min(_SEEN_AT))
                .where(instances.c.termination_seq == terminations.c.seq, MACHINE_GONE)
                .scalar_subquery(),
            )
        )
    )
)
_LAST_IS_GONE = (
    update(terminations)
    .where(
        terminations.c.seq.in_(bindparam("seqs", expanding=True)),
        _IS_STOPPED,
        _ALL_GONE,
        or_(
            terminations.c.confirm_from.is_(None),
            terminations.c.confirm_from > _AT,
            terminations.c.machines_all_observed_at >= terminations.c.confirm_from,
        ),
        terminations.c.next_poll_at > _AT,
    )
    .values(next_poll_at=_AT)
)
"""What it waited for has come: the job is read now."""


async def machines_seen(
    transaction: Transaction,
    seen: Sequence[tuple[CapturedMachine, MachineStatus | None]],
    at: datetime,
) -> None:
    """Write what a look at these machines showed, and the counts that follow."""
    await transaction.execute(
        _LOOKED_UP,
        [
            {f"this_{name}": getattr(machine, name) for name in _KEY}
            | {"machine": sight, "machine_observed_at": at}
            for machine, sight in seen
        ],
    )
    by_termination: defaultdict[int, list[tuple[CapturedMachine, MachineStatus | None]]]
    by_termination = defaultdict(list)
    for machine, sight in seen:
        by_termination[machine.termination_seq].append((machine, sight))
    for seq, its in sorted(by_termination.items()):
        up = sum(
            (sight is MachineStatus.UP) - (machine.sight is MachineStatus.UP)
            for machine, sight in its
        )
        gone = sum(_is_over(sight) - _is_over(machine.sight) for machine, sight in its)
        listed = any(sight in (MachineStatus.UP, MachineStatus.TERMINATED) for _, sight in its)
        await transaction.execute(
            _COUNT, {"this_seq": seq, "up": up, "gone": gone, "listed": listed, "at": at}
        )
    seqs = list(by_termination)
    await transaction.execute(_ALL_OBSERVED, {"seqs": seqs})
    await transaction.execute(_LAST_IS_GONE, {"seqs": seqs, "at": at})


def _is_over(sight: MachineStatus | None) -> bool:
    return sight is not None and sight.over
