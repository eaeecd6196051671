"""Reads of operations, terminations, instances and events that answer requests."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Text, case, false, func, insert, or_, select, update

from orchestrator.services.ports import (
    AttemptRecord,
    EventRecord,
    FoundOperation,
    InstanceRecord,
    LiveTerminations,
    OperationRecord,
    SubmissionResult,
    TerminationRecord,
)
from orchestrator.store.mapping.decoding import legible
from orchestrator.store.mapping.termination_rows import all_shown
from orchestrator.store.records import drain_durations, operation_progress, submission
from orchestrator.store.records.operation_records import operation_records
from orchestrator.store.records.partition_states import holder, read_partitions, trouble
from orchestrator.store.schema import (
    attempts,
    events,
    instances,
    operation_terminations,
    operations,
    probes,
    terminations,
)
from orchestrator.store.terminations import turns
from orchestrator.store.terminations.set_aside import READ_BY_LOOPS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.model.batch_job import JobState
    from orchestrator.domain.model.lifecycle import State
    from orchestrator.domain.model.machine import MachineStatus
    from orchestrator.domain.model.operation import NewOperation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.progress.operation_forecast import Progress
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

PROBE_BYTES = 160 * 1024
"""Size of the row that a ping writes.

A request with one job changes up to 31 pages of 4 KiB of an SQLite database of 20,000 (measured). A
disk without room for these may still have room for the one page of a short row.
"""
_INSERT_NO_ROWS = [
    insert(table).from_select([column], select(column).where(false()))
    for table in (operations, terminations, operation_terminations, events, attempts)
    for column in [next(c for c in table.c if isinstance(c.type, Text))]
]
"""One INSERT without rows for each table of a request or a call: it tests the privilege."""
ASKED_AGAIN_AFTER = timedelta(seconds=5)
_FOUND = select(
    operations.c.seq,
    operations.c.id,
    operations.c.finished_at.is_not(None).label("finished"),
)

_T = terminations.c
# When a termination was requested, or its not_before if that is later.
_SINCE = case((_T.not_before > _T.created_at, _T.not_before), else_=_T.created_at)
# Unfinished terminations by state, with the oldest; ``others_since`` leaves out those set aside.
_LIVE_BY_STATE = (
    select(
        _T.state,
        func.count().label("jobs"),
        func.min(_SINCE, type_=_T.created_at.type).label("since"),
        func.min(case((READ_BY_LOOPS, _SINCE)), type_=_T.created_at.type).label("others_since"),
    )
    .where(_T.finished_at.is_(None))
    .group_by(_T.state)
    .order_by(_T.state)
)


class SqlRecords:
    """Implements :class:`orchestrator.services.ports.Records`."""

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._database = database
        self._now = now

    async def create(self, operation: NewOperation, termination_ids: list[str]) -> SubmissionResult:
        first = f"{operation.account} {operation.region} {min(operation.job_ids)}"
        return await self._database.write_item(
            submission.create, (operation, termination_ids), lock_order=first
        )

    async def live(self) -> dict[str, LiveTerminations]:
        async with self._database.read(for_request=True) as connection:
            rows = await legible(connection, _LIVE_BY_STATE)
        return {
            # The oldest one may be set aside because its times cannot be decoded.
            row["state"]: LiveTerminations(
                count=row["jobs"], since=row["since"] or row["others_since"]
            )
            for row in rows
        }

    async def ping(self) -> None:
        async def work(transaction: Transaction) -> None:
            number = (await transaction.scalar(select(probes.c.number)) or 0) + 1
            # SQLite does not write a page that is unchanged.
            filler = bytes([number % 256]) * PROBE_BYTES
            await transaction.execute(update(probes).values(number=number, filler=filler))
            for statement in _INSERT_NO_ROWS:
                await transaction.execute(statement)

        await self._database.write(work)
        async with self._database.read(for_request=True) as connection:
            await connection.execute(select(probes.c.number))

    async def troubles(self) -> dict[str, tuple[str, str | None]]:
        async with self._database.read(for_request=True) as connection:
            stored = await read_partitions(connection)
        return {
            name: (partition.trouble_code, holder(partition))
            for name, partition in stored.items()
            if partition.trouble_code is not None
        }

    async def find_operation(self, operation_id: str) -> FoundOperation | None:
        found = await self._find_operations(_FOUND.where(operations.c.id == operation_id))
        return found[0] if found else None

    async def find_operations(
        self, *, after: int, limit: int, finished: bool | None, account: str | None
    ) -> list[FoundOperation]:
        query = _FOUND.order_by(operations.c.seq.desc()).limit(limit)
        if after:
            query = query.where(operations.c.seq < after)
        if finished is not None:
            is_null = operations.c.finished_at.is_(None)
            query = query.where(~is_null if finished else is_null)
        if account is not None:
            query = query.where(operations.c.account == account)
        return await self._find_operations(query)

    async def _find_operations(self, query: Select[Any]) -> list[FoundOperation]:
        async with self._database.read(for_request=True, one_statement=True) as connection:
            found = await connection.execute(query)
            return [FoundOperation(**row) for row in found.mappings()]

    async def operations(self, ids: Collection[str]) -> list[OperationRecord]:
        query = select(operations).where(operations.c.id.in_(ids)).order_by(operations.c.seq.desc())
        async with self._database.read(for_request=True) as connection:
            rows = await legible(connection, query)
            return await operation_records(connection, rows, self._now())

    async def progress(
        self, operations: Sequence[tuple[OperationRecord, float]]
    ) -> dict[str, Progress]:
        async with self._database.read(for_request=True) as connection:
            return await operation_progress.count_progress(connection, operations, self._now())

    async def termination(self, termination_id: str) -> TerminationRecord | None:
        query = select(terminations).where(terminations.c.id == termination_id)
        async with self._database.read(for_request=True) as connection:
            rows = await all_shown(connection, query)
            found = await _termination_records(connection, rows, self._now())
            return found[0] if found else None

    async def past_durations(self, partition: str) -> Durations | None:
        async with self._database.read(for_request=True) as connection:
            return await drain_durations.past_durations(connection, partition, self._now())

    async def set_aside(self, limit: int) -> tuple[int, list[str]]:
        is_set_aside = terminations.c.set_aside.is_not(None)
        first = (
            select(terminations.c.id).where(is_set_aside).order_by(terminations.c.seq).limit(limit)
        )
        async with self._database.read(for_request=True) as connection:
            count = await connection.scalar(
                select(func.count()).select_from(terminations).where(is_set_aside)
            )
            return count or 0, list((await connection.execute(first)).scalars())

    async def terminations(
        self,
        *,
        after: int,
        limit: int,
        operation_id: str | None = None,
        state: State | None = None,
        job_id: str | None = None,
        account: str | None = None,
        region: str | None = None,
        revived: bool | None = None,
    ) -> list[TerminationRecord]:
        query = select(terminations).where(terminations.c.seq > after)
        if operation_id is not None:
            link = operation_terminations
            query = query.join(link, link.c.termination_id == terminations.c.id).where(
                link.c.operation_id == operation_id
            )
        wanted = {"state": state, "job_id": job_id, "account": account, "region": region}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(terminations.c[name] == value)
        if revived is not None:
            is_null = terminations.c.revival.is_(None)
            query = query.where(~is_null if revived else is_null)
        return await self._terminations(query.order_by(terminations.c.seq).limit(limit))

    async def _terminations(self, query: Select[Any]) -> list[TerminationRecord]:
        async with self._database.read(for_request=True) as connection:
            rows = await all_shown(connection, query)
            return await _termination_records(connection, rows, self._now())

    async def instances(
        self,
        *,
        after: int,
        limit: int,
        termination_id: str,
        states: Collection[JobState] | None,
        machine: MachineStatus | None,
    ) -> list[InstanceRecord]:
        rescanned_at, observed_at = terminations.c.rescanned_at, instances.c.observed_at
        state = case((or_(rescanned_at.is_(None), observed_at >= rescanned_at), instances.c.state))
        query = (
            select(instances, state.label("newest_state"))
            .join(terminations, terminations.c.seq == instances.c.termination_seq)
            .where(terminations.c.id == termination_id)
        )
        if states is not None:
            query = query.where(state.in_(states))
        if machine is not None:
            query = query.where(instances.c.machine == machine)
        query = query.order_by(*instances.primary_key).offset(after).limit(limit)
        async with self._database.read(for_request=True) as connection:
            return [_instance(row) for row in await legible(connection, query)]

    async def ask_for_instances(self, termination_id: str) -> None:
        now, t = self._now(), terminations.c

        async def work(transaction: Transaction) -> None:
            asked = await transaction.execute(
                update(terminations)
                .where(
                    t.id == termination_id,
                    t.finished_at.is_(None),
                    or_(t.asked_at.is_(None), t.asked_at < now - ASKED_AGAIN_AFTER),
                )
                .values(asked_at=now)
                .returning(t.partition)
            )
            for partition in asked.scalars():
                await transaction.notify(partition)

        await self._database.write(work)

    async def events(
        self, *, after: int, limit: int, operation_id: str | None, termination_id: str | None
    ) -> list[EventRecord]:
        theirs = select(operation_terminations.c.termination_id).where(
            operation_terminations.c.operation_id == operation_id
        )
        wanted = (
            events.c.termination_id == termination_id
            if operation_id is None
            else or_(events.c.operation_id == operation_id, events.c.termination_id.in_(theirs))
        )
        query = select(events).where(wanted, events.c.id > after)
        async with self._database.read(for_request=True) as connection:
            rows = await legible(connection, query.order_by(events.c.id).limit(limit))
            return [event_record(row) for row in rows]


async def _termination_records(
    connection: AsyncConnection,
    rows: Sequence[tuple[Mapping[str, Any], Termination]],
    now: datetime,
) -> list[TerminationRecord]:
    ids = [row["id"] for row, _ in rows]
    operation_ids: dict[str, list[str]] = defaultdict(list)
    for link in await connection.execute(
        select(operation_terminations).where(operation_terminations.c.termination_id.in_(ids))
    ):
        operation_ids[link.termination_id].append(link.operation_id)
    attempts_of: dict[str, list[AttemptRecord]] = defaultdict(list)
    made = select(attempts).where(attempts.c.termination_id.in_(ids)).order_by(attempts.c.seq)
    for attempt in await legible(connection, made):
        attempts_of[attempt["termination_id"]].append(attempt_record(attempt))
    stored = await read_partitions(connection, {row["partition"] for row, _ in rows})
    waiting = [row for row, _ in rows if row["terminate_after"] is not None]
    queues = {row["partition"] for row in waiting}
    jobs_ahead = await turns.jobs_ahead(connection, queues, [row["id"] for row in waiting], now)
    return [
        TerminationRecord(
            seq=row["seq"],
            termination=termination,
            operation_ids=tuple(operation_ids[row["id"]]),
            attempts=tuple(attempts_of[row["id"]]),
            jobs_ahead=jobs_ahead.get(row["id"], 0),
            trouble=trouble(partition),
            allowed_per_s=partition and partition.allowed_per_s,
            holder=holder(partition),
        )
        for row, termination in rows
        for partition in [stored.get(row["partition"])]
    ]


def attempt_record(row: Mapping[str, Any]) -> AttemptRecord:
    return AttemptRecord(
        number=row["number"],
        action=row["action"],
        target=row["target"],
        sent_at=row["sent_at"],
        answered_at=row["answered_at"],
        outcome=row["outcome"],
        code=row["code"],
        message=row["message"],
        request_id=row["request_id"],
    )


def _instance(row: Mapping[str, Any]) -> InstanceRecord:
    return InstanceRecord(
        task=row["task"],
        index=row["instance_index"],
        state=row["newest_state"],
        reason=row["reason"],
        observed_at=row["observed_at"],
        machine_id=row["machine_id"] or None,
        machine=row["machine"],
        machine_observed_at=row["machine_observed_at"],
    )


def event_record(row: Mapping[str, Any]) -> EventRecord:
    return EventRecord(
        id=row["id"],
        at=row["at"],
        type=row["type"],
        operation_id=row["operation_id"],
        termination_id=row["termination_id"],
        from_state=row["from_state"],
        to_state=row["to_state"],
        evidence=row["evidence"],
        why=row["why"],
        number=row["number"],
        facts=row["facts"],
        hash=row["hash"],
    )
