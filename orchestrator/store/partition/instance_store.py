"""The engine's store of task instances: which are to be read, and the results."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from orchestrator.domain.decisions.escalation import ROUND_ACTIONS
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.store.mapping.termination_rows import from_row
from orchestrator.store.partition import machine_captures, stragglers
from orchestrator.store.partition.fenced_writes import (
    CUTOFF,
    IN_PARTITION,
    LIMIT,
    Fenced,
    tagged_union,
)
from orchestrator.store.schema import terminations
from orchestrator.store.terminations.turns import TERMINATE_ORDER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from orchestrator.domain.decisions.escalation import RoundFinished, Straggler
    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.domain.model.batch_job import TaskPage
    from orchestrator.domain.model.instance_scan import InstanceScan
    from orchestrator.domain.model.machine import CapturedMachine, MachineStatus
    from orchestrator.domain.model.termination import EscalationLevel, Termination

log = logging.getLogger(__name__)

# Terminations whose machines must be captured.
_TO_CAPTURE = (
    select(terminations)
    .where(
        IN_PARTITION,
        terminations.c.captured_run < terminations.c.run,
        terminations.c.finished_at.is_(None),
        or_(terminations.c.capture_at.is_(None), terminations.c.capture_at <= CUTOFF),
    )
    .order_by(*TERMINATE_ORDER)
    .limit(LIMIT)
)
_TO_CAPTURE_OR_RESCAN = tagged_union(_TO_CAPTURE, stragglers.DUE_FOR_RESCAN)


class SqlInstanceStore(Fenced):
    """Implements :class:`orchestrator.engine.ports.InstanceStore`."""

    async def to_read(
        self, now: datetime, limit: int
    ) -> tuple[list[Termination], list[Termination]]:
        to_capture, to_read = await self._fetch_each(
            _TO_CAPTURE_OR_RESCAN, 2, from_row, before=now, limit=limit
        )
        return to_capture, to_read

    async def write_capture(
        self,
        before: Termination,
        after: InstanceScan,
        page: TaskPage | None = None,
        *,
        awaits: bool,
        due_at: datetime | None = None,
    ) -> None:
        await self._write(
            lambda transaction: machine_captures.write(
                transaction, before, after, page, awaits=awaits, due_at=due_at
            ),
            terminations.c.id == before.id,
        )

    async def write_rescan(
        self,
        before: Termination,
        after: InstanceScan,
        page: TaskPage | None = None,
        *,
        due_at: datetime | None,
    ) -> None:
        await self._write(
            lambda transaction: stragglers.write_rescan(
                transaction, before, after, page, due_at=due_at
            ),
            terminations.c.id == before.id,
        )

    async def next_escalation_target(
        self, levels: Collection[EscalationLevel] = tuple(ROUND_ACTIONS)
    ) -> Straggler | RoundFinished | None:
        async with self._database.read() as connection:
            return await stragglers.next_escalation_target(connection, self.in_partition, levels)

    async def end_round(self, finished: RoundFinished, at: datetime) -> None:
        await self._write(
            lambda transaction: stragglers.end_round(transaction, finished, at),
            terminations.c.id == finished.termination_id,
        )

    async def close_orphaned_attempts(self, under_way: Collection[Straggler], at: datetime) -> None:
        async with self._database.read() as connection:
            orphaned = await stragglers.find_orphaned_attempts(
                connection, under_way, self._fence.partition
            )
        if not orphaned:
            return

        await self._write(
            lambda transaction: stragglers.close_orphaned_attempts(transaction, orphaned, at)
        )

    async def open_attempt(self, straggler: Straggler, at: datetime) -> bool:
        return await self._write(
            lambda transaction: stragglers.open_attempt(
                transaction, straggler, self._fence.partition, at
            ),
            terminations.c.id == straggler.termination_id,
        )

    async def close_attempt(
        self, straggler: Straggler, answer: AttemptResult, *, again: bool
    ) -> None:
        await self._write(
            lambda transaction: stragglers.close_attempt(
                transaction, straggler, answer, again=again
            ),
            terminations.c.id == straggler.termination_id,
        )

    async def machines_due(
        self,
        now: datetime,
        seen_before: datetime,
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[CapturedMachine]:
        async with self._database.read() as connection:
            found, unreadable = await machine_captures.machines_due(
                connection, self.in_partition, now, seen_before, limit, without=without
            )
        for each in unreadable:
            message = f"the row of one of the machines in the database cannot be read: {each.why}"
            problem = ErrorDetail(code=ClientCode.ROW_UNREADABLE, message=message)
            log.error(
                "%s: the machines of job %s are not read any more; report this line: %s",
                self._fence.partition,
                each.job_id,
                message,
            )
            await self._write_machines_problem(each.termination_seq, problem)
        return found

    async def machines_seen(
        self, seen: Sequence[tuple[CapturedMachine, MachineStatus | None]], at: datetime
    ) -> None:
        seqs = {machine.termination_seq for machine, _ in seen}
        await self._write(
            lambda transaction: machine_captures.machines_seen(transaction, seen, at),
            terminations.c.seq.in_(seqs),
        )

    async def record_machines_invisible(
        self, machine: CapturedMachine, problem: ErrorDetail
    ) -> None:
        await self._write_machines_problem(machine.termination_seq, problem)

    async def _write_machines_problem(self, termination_seq: int, problem: ErrorDetail) -> None:
        await self._write(
            lambda transaction: transaction.execute(
                update(terminations)
                .where(terminations.c.seq == termination_seq)
                .values(machines_problem=asdict(problem))
            ),
            terminations.c.seq == termination_seq,
        )
