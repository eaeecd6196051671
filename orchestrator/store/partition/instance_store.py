"""The engine's view of task instances: what is to be read of them, and what was."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import or_, select, update

from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.store.partition import escalations, machine_captures
from orchestrator.store.partition.fenced import CUTOFF, IN_PARTITION, LIMIT, Fenced, tagged_union
from orchestrator.store.schema import terminations
from orchestrator.store.terminations.turns import IN_TURN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from orchestrator.domain.decisions.escalation import RoundOver, Straggler
    from orchestrator.domain.model.attempt import AttemptResult
    from orchestrator.domain.model.batch_job import TaskPage
    from orchestrator.domain.model.machine import CapturedMachine, MachineStatus
    from orchestrator.domain.model.machine_capture import Capture
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.transaction import Transaction

log = logging.getLogger(__name__)

_TO_CAPTURE = (
    select(terminations)
    .where(
        IN_PARTITION,
        terminations.c.captured_run < terminations.c.run,
        terminations.c.finished_at.is_(None),
        or_(terminations.c.capture_at.is_(None), terminations.c.capture_at <= CUTOFF),
    )
    .order_by(*IN_TURN)
    .limit(LIMIT)
)
_TO_CAPTURE_OR_READ = tagged_union(_TO_CAPTURE, escalations.TO_READ)


class SqlInstanceStore(Fenced):
    """Implements :class:`orchestrator.engine.ports.InstanceStore`."""

    async def to_read(
        self, now: datetime, limit: int
    ) -> tuple[list[Termination], list[Termination]]:
        """Terminations whose machines are to be captured now, in the order of the calls.

        And those whose live instances are to be read anew.
        """
        to_capture, to_read = await self._fetch_each(
            _TO_CAPTURE_OR_READ, 2, before=now, limit=limit
        )
        return to_capture, to_read

    async def capture(
        self,
        before: Termination,
        after: Capture,
        page: TaskPage | None = None,
        *,
        awaits: bool,
        due_at: datetime | None = None,
    ) -> None:
        """Write how far a capture is, with the page that it went on by.

        ``awaits``: whether the job's calls wait for it.  ``due_at``: when to go on, if not now.
        Nothing is written where it is not as it was before.
        """

        async def work(transaction: Transaction) -> None:
            await machine_captures.write(
                transaction, before, after, page, awaits=awaits, due_at=due_at
            )

        await self._write(work, terminations.c.id == before.id)

    async def read(
        self,
        before: Termination,
        after: Capture,
        page: TaskPage | None = None,
        *,
        due_at: datetime | None,
    ) -> None:
        """Write how far a reading of live instances is, with the page that it went on by.

        ``due_at``: when to go on, or to read once more, if not now.  Nothing is written where it
        is not as it was before.
        """

        async def work(transaction: Transaction) -> None:
            await escalations.read(transaction, before, after, page, due_at=due_at)

        await self._write(work, terminations.c.id == before.id)

    async def next_in_rounds(self) -> Straggler | RoundOver | None:
        """A round that is over, or the instance, or machine, to call for next."""
        async with self._database.read() as connection:
            return await escalations.next_in_rounds(connection, self.here)

    async def end_round(self, over: RoundOver, at: datetime) -> None:
        """Write a round as done."""

        async def work(transaction: Transaction) -> None:
            await escalations.end_round(transaction, over, at)

        await self._write(work, terminations.c.id == over.termination_id)

    async def interrupted(self, under_way: Collection[Straggler], at: datetime) -> None:
        """Close the attempts for single instances that are open, but for those under way."""
        async with self._database.read() as connection:
            lost = await escalations.lost(connection, under_way, self._fence.partition)
        if not lost:
            return

        async def work(transaction: Transaction) -> None:
            await escalations.interrupted(transaction, lost, at)

        await self._write(work)

    async def start(self, straggler: Straggler, at: datetime) -> None:
        """Write an attempt before its call leaves."""

        async def work(transaction: Transaction) -> None:
            await escalations.start(transaction, straggler, self._fence.partition, at)

        await self._write(work, terminations.c.id == straggler.termination_id)

    async def finish(self, straggler: Straggler, answer: AttemptResult, *, again: bool) -> None:
        """Write its answer; ``again``: it had no effect and is to be made once more."""

        async def work(transaction: Transaction) -> None:
            await escalations.finish(transaction, straggler, answer, again=again)

        await self._write(work, terminations.c.id == straggler.termination_id)

    async def machines_due(
        self,
        now: datetime,
        seen_before: datetime,
        limit: int,
        *,
        without: Collection[str] = (),
    ) -> list[CapturedMachine]:
        """Machines of one region to look up now: of jobs that are down, and a first few of others.

        None that was looked up since ``seen_before``, but to confirm at the end of a settle window
        that it is gone.  None of those whose ids are in ``without``.
        """
        async with self._database.read() as connection:
            found, unreadable = await machine_captures.machines_due(
                connection, self.here, now, seen_before, limit, without=without
            )
        for termination_seq, why in unreadable.items():
            message = f"the row of one of them in the database cannot be read: {why}"
            problem = ErrorDetail(code="Client.RowUnreadable", message=message)
            log.error("machines of %s: %s", self._fence.partition, message)
            await self._hide(termination_seq, problem)
        return found

    async def machines_seen(
        self, seen: Sequence[tuple[CapturedMachine, MachineStatus | None]], at: datetime
    ) -> None:
        """Write what a look at these machines showed; None: nothing that is certain."""

        async def work(transaction: Transaction) -> None:
            await machine_captures.machines_seen(transaction, seen, at)

        seqs = {machine.termination_seq for machine, _ in seen}
        await self._write(work, terminations.c.seq.in_(seqs))

    async def machines_hidden(self, machine: CapturedMachine, problem: ErrorDetail) -> None:
        """Write that the machines of this one's job cannot be looked up."""
        await self._hide(machine.termination_seq, problem)

    async def _hide(self, termination_seq: int, problem: ErrorDetail) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.execute(
                update(terminations)
                .where(terminations.c.seq == termination_seq)
                .values(machines_problem=asdict(problem))
            )

        await self._write(work, terminations.c.seq == termination_seq)
