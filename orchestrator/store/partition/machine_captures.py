"""Captured instances with their machines, and the machines' states that CVM showed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Integer, bindparam, case, func, insert, or_, select, update

from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import CapturedMachine, MachineStatus
from orchestrator.store.mapping.decoding import Unreadable, decoded
from orchestrator.store.mapping.termination_rows import scan_to_row
from orchestrator.store.partition.fenced_writes import IN_PARTITION
from orchestrator.store.schema import MACHINE_GONE, MACHINE_REMAINING, instances, terminations

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import BindParameter, ColumnElement, Select, TextClause
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.model.batch_job import TaskPage, TaskSubmitted
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

_KEY = ("termination_seq", "task", "instance_index", "machine_id")
_OBSERVED = ("state", "reason", "observed_at", "rescanned")

# The stored capture of a termination.
_STORED_CAPTURE = select(terminations.c.seq, terminations.c.capture).where(
    terminations.c.id == bindparam("this_id"),
    terminations.c.partition == bindparam("this_partition"),
)


async def write(
    transaction: Transaction,
    before: Termination,
    after: InstanceScan,
    page: TaskPage | None,
    *,
    awaits: bool,
    due_at: datetime | None,
) -> None:
    """Write the progress of a capture and the instances of its last page, or neither."""
    this = {"this_id": before.id, "this_partition": before.partition}
    row = (await transaction.execute(_STORED_CAPTURE, this)).one_or_none()
    known = before.captures.machines
    if row is None or row.capture != (known and scan_to_row(known)):
        return
    changes: dict[str, Any] = {"capture_at": due_at, "awaits_capture": awaits}
    if page is not None and page.instances:
        assert known is not None
        task = known.tasks[known.task]
        new, again = await write_instances(transaction, row.seq, task, page, since=known.began_at)
        after = replace(after, captured=after.captured + new + again)
        if task.env_id is not None:
            after = replace(after, nodes=await _count_nodes(transaction, row.seq))
        else:
            changes["machines_total"] = terminations.c.machines_total + new
    if after.ended_at is not None:
        changes["captured_run"] = after.run
    await transaction.execute(
        update(terminations)
        .where(terminations.c.seq == row.seq)
        .values(capture=scan_to_row(after), **changes)
    )


# The stored rows of these instances of a task.
_STORED_INSTANCES = select(
    instances.c.instance_index, instances.c.machine_id, instances.c.observed_at
).where(
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
    rescanned: bool = False,
) -> tuple[int, int]:
    """Write a page of a task's instances.

    Returns how many machines are new, and how many are known but were last observed before
    ``since``. An instance may be on two pages, since DescribeTask guarantees no order, and counts
    once.
    """
    indices = [seen.index for seen in page.instances]
    found = await transaction.execute(
        _STORED_INSTANCES, {"this_seq": seq, "this_task": task.name, "indices": indices}
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
                "rescanned": rescanned,
            }
        )
    if fresh:
        await transaction.execute(insert(instances), fresh)
    if again:
        await transaction.execute(_UPDATE_INSTANCE, [_update_parameters(row) for row in again])
    observed_at = [
        known[row["instance_index"], row["machine_id"]] for row in again if row["machine_id"]
    ]
    return (
        sum(row["machine_id"] != "" for row in fresh),
        sum(since is not None and at < since for at in observed_at),
    )


_THIS_INSTANCE = [instances.c[name] == bindparam(f"this_{name}") for name in _KEY]
_UPDATE_INSTANCE = (
    update(instances).where(*_THIS_INSTANCE).values({name: bindparam(name) for name in _OBSERVED})
)


def _update_parameters(row: dict[str, Any]) -> dict[str, Any]:
    return {f"this_{name}": row[name] for name in _KEY} | {name: row[name] for name in _OBSERVED}


async def _count_nodes(transaction: Transaction, seq: int) -> int:
    count = await transaction.scalar(
        select(func.count(instances.c.machine_id.distinct())).where(
            instances.c.termination_seq == seq, instances.c.machine == MachineStatus.NODE
        )
    )
    return int(count or 0)


# --- machines ------------------------------------------------------------------------------------


_STARTING = instances.c.state == JobState.STARTING
# The columns of a captured machine.
_MACHINE = [instances.c[name] for name in (*_KEY, "state", "machine")]
_OF_TERMINATION = (terminations.c.region, terminations.c.settle_from, terminations.c.job_id)


def _select_machines(
    which: TextClause, *conditions: ColumnElement[bool], first: ColumnElement[Any]
) -> Select[Any]:
    return (
        select(*_MACHINE, *_OF_TERMINATION)
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


_JOB_IS_STOPPED = terminations.c.state == State.SETTLING
_OBSERVED_AT = instances.c.machine_observed_at
_SEEN_BEFORE: BindParameter[datetime] = bindparam("seen_before", type_=_OBSERVED_AT.type)
_NOW: BindParameter[datetime] = bindparam("now", type_=_OBSERVED_AT.type)
_MACHINES_DUE = (
    # Of jobs with machines none of which was looked up yet.
    _select_machines(
        MACHINE_REMAINING,
        terminations.c.machines_total > 0,
        terminations.c.machines_observed_at.is_(None),
        terminations.c.finished_at.is_(None),
        # Starting ones first: later it cannot be known whether they were ever created.
        first=_STARTING.desc(),
    ),
    # Of stopped jobs, until they are gone.
    _select_machines(
        MACHINE_REMAINING,
        _JOB_IS_STOPPED,
        or_(
            _OBSERVED_AT.is_(None),
            _OBSERVED_AT <= _SEEN_BEFORE,
            terminations.c.settle_from >= _OBSERVED_AT,
        ),
        first=_OBSERVED_AT.nulls_first(),
    ),
    # Gone at their last look-up: this is confirmed at the end of the settle window.
    _select_machines(
        MACHINE_GONE,
        _JOB_IS_STOPPED,
        terminations.c.confirm_from <= _NOW,
        terminations.c.confirm_from > _OBSERVED_AT,
        first=_OBSERVED_AT,
    ),
)


@dataclass(frozen=True, slots=True)
class UnreadableMachines:
    """A termination with a row in ``instances`` that cannot be decoded."""

    termination_seq: int
    job_id: str
    why: str


async def machines_due(
    connection: AsyncConnection,
    in_partition: Mapping[str, object],
    now: datetime,
    seen_before: datetime,
    limit: int,
    *,
    without: Collection[str],
) -> tuple[list[CapturedMachine], list[UnreadableMachines]]:
    """Return machines of one region to look up now, without those of these ids.

    First some of each job that was never looked up, then the remaining ones of stopped jobs, then
    those to be confirmed as gone. Also returns the terminations with a row that cannot be decoded.
    """
    parameters = {"now": now, "seen_before": seen_before, "limit": limit, "without": list(without)}
    found, unreadable = dict[tuple[object, ...], CapturedMachine](), dict[int, UnreadableMachines]()
    for statement in _MACHINES_DUE:
        if len(found) >= limit:
            break
        for row in await decoded(connection, statement, _machine, {**in_partition, **parameters}):
            if isinstance(row, Unreadable):
                seq = row.row["termination_seq"]
                unreadable[seq] = UnreadableMachines(seq, row.row["job_id"], row.why)
            else:
                found[tuple(getattr(row, name) for name in _KEY)] = row
    due = list(found.values())[:limit]
    return [machine for machine in due if machine.region == due[0].region], list(
        unreadable.values()
    )


def _machine(row: Mapping[str, Any]) -> CapturedMachine:
    if not isinstance(row["machine_id"], str):
        raise TypeError("machine_id is not text")
    return CapturedMachine(
        termination_seq=row["termination_seq"],
        region=row["region"],
        task=row["task"],
        instance_index=row["instance_index"],
        machine_id=row["machine_id"],
        starting=row["state"] == JobState.STARTING,
        status=MachineStatus(row["machine"]) if row["machine"] else None,
        stopped_at=row["settle_from"],
    )


_UPDATE_MACHINE = (
    update(instances)
    .where(*_THIS_INSTANCE)
    .values(machine=bindparam("machine"), machine_observed_at=bindparam("machine_observed_at"))
)

_AT: BindParameter[datetime] = bindparam("at", type_=terminations.c.next_poll_at.type)
# Add to the machine counts of a termination.
_ADD_TO_COUNTS = (
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
# Where all machines are gone: the earliest time at which one of them was observed so; else NULL.
_SET_ALL_OBSERVED_AT = (
    update(terminations)
    .where(terminations.c.seq.in_(bindparam("seqs", expanding=True)))
    .values(
        machines_all_observed_at=case(
            (
                _ALL_GONE,
                select(func.min(_OBSERVED_AT))
                .where(instances.c.termination_seq == terminations.c.seq, MACHINE_GONE)
                .scalar_subquery(),
            )
        )
    )
)
_POLL_JOB_NOW = (
    update(terminations)
    .where(
        terminations.c.seq.in_(bindparam("seqs", expanding=True)),
        _JOB_IS_STOPPED,
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
"""Where a stopped job waited for its last machine to be gone: make its poll due now."""


async def machines_seen(
    transaction: Transaction,
    seen: Sequence[tuple[CapturedMachine, MachineStatus | None]],
    at: datetime,
) -> None:
    """Write the observed states of these machines, and the counts that follow from them."""
    await transaction.execute(
        _UPDATE_MACHINE,
        [
            {f"this_{name}": getattr(machine, name) for name in _KEY}
            | {"machine": status, "machine_observed_at": at}
            for machine, status in seen
        ],
    )
    by_termination: defaultdict[int, list[tuple[CapturedMachine, MachineStatus | None]]]
    by_termination = defaultdict(list)
    for machine, status in seen:
        by_termination[machine.termination_seq].append((machine, status))
    seqs = sorted(by_termination)
    await transaction.execute(
        _ADD_TO_COUNTS, [_counts(seq, by_termination[seq], at) for seq in seqs]
    )
    await transaction.execute(_SET_ALL_OBSERVED_AT, {"seqs": seqs})
    await transaction.execute(_POLL_JOB_NOW, {"seqs": seqs, "at": at})


def _counts(
    seq: int, its: Sequence[tuple[CapturedMachine, MachineStatus | None]], at: datetime
) -> dict[str, Any]:
    """Return what the observed states of its machines add to the counts of a termination."""
    return {
        "this_seq": seq,
        "up": sum(
            (status is MachineStatus.UP) - (machine.status is MachineStatus.UP)
            for machine, status in its
        ),
        "gone": sum(_is_gone(status) - _is_gone(machine.status) for machine, status in its),
        "listed": any(status in (MachineStatus.UP, MachineStatus.TERMINATED) for _, status in its),
        "at": at,
    }


def _is_gone(status: MachineStatus | None) -> bool:
    return status is not None and status.is_gone
