"""Base of the stores of one partition: writes under its lease, reads of its terminations.

Every write first locks the row of the partition under this replica's epoch, and raises LeaseLost if
another replica has taken it. This guards writes; ``engine.lease_guard`` and ``RateLimiter`` guard
calls.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BindParameter, Integer, and_, bindparam, case, literal, select, union_all
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.decisions.invariants import Invariant
from orchestrator.domain.errors import InvariantViolated, RowsLocked
from orchestrator.store.mapping.decoding import (
    UNREADABLE,
    Unreadable,
    decoded,
    decoded_together,
    error_text,
)
from orchestrator.store.mapping.termination_rows import from_row
from orchestrator.store.schema import terminations
from orchestrator.store.terminations import set_aside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Select

    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.terminations.row_locks import RowLocks

T = TypeVar("T")

log = logging.getLogger(__name__)

IN_PARTITION = and_(
    terminations.c.partition == bindparam("partition"),
    set_aside.READ_BY_LOOPS,
    terminations.c.id.not_in(bindparam("locked", expanding=True)),
)
"""The terminations that the loops read: not those set aside or locked.

``Fenced.in_partition`` has the parameters.
"""
LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
CUTOFF: BindParameter[datetime] = bindparam("before", type_=terminations.c.next_poll_at.type)


def tagged_union(*statements: Select[Any]) -> CompoundSelect[Any]:
    """Select the rows of all statements; the column ``place`` is the index of the statement."""
    return union_all(
        *(
            select(rows := statement.subquery(), literal(place).label("place")).select_from(rows)
            for place, statement in enumerate(statements)
        )
    )


def those_of_ids(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Select those of these terminations that meet the conditions, in the order of ``seq``.

    The conditions are written so that SQLite finds the rows by their ids: it would read all rows of
    the partition by another index.
    """
    t = terminations.c
    met = case((and_(*conditions), 1), else_=0) == 1
    return (
        select(terminations).where(t.id.in_(bindparam("ids", expanding=True)), met).order_by(t.seq)
    )


class Fenced:
    """Writes under a lease, and reads that set faulty rows aside."""

    def __init__(self, database: Database, fence: FencingToken, locks: RowLocks) -> None:
        self._database = database
        self._fence = fence
        self._locks = locks

    @property
    def in_partition(self) -> dict[str, object]:
        """Parameters of IN_PARTITION."""
        return {"partition": self._fence.partition, "locked": list(self._locks.locked)}

    async def _write(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        which: ColumnElement[bool] | None = None,
    ) -> T:
        """Write as the partition's holder; raises LeaseLost, and errors of violated invariants.

        ``which`` selects the terminations that are written. After RowsLocked, the loops skip those
        whose rows are locked until they are unlocked.
        """

        async def fenced(transaction: Transaction) -> T:
            await transaction.lock_partition(self._fence)
            return await work(transaction)

        try:
            return await self._database.write(fenced)
        except RowsLocked as error:
            if which is None:
                raise
            raise RowsLocked(str(error), await self._locks.find(which)) from error
        except InvariantViolated as error:
            self._database.violations[Invariant(error.invariant)] += 1
            raise
        except IntegrityError:
            self._database.violations[Invariant.CONSTRAINT] += 1
            raise

    async def set_aside(self, termination_id: str, error: Exception) -> bool:
        """Keep this termination from the loops for a while.

        Returns False if it was set aside for the same error before.
        """
        return bool(await self._set_aside({termination_id: error_text(error)}))

    async def _set_aside(self, reasons: Mapping[str, str]) -> list[str]:
        return await self._write(
            lambda transaction: set_aside.write(transaction, self._fence.partition, reasons),
            terminations.c.id.in_(reasons),
        )

    async def _fetch(self, statement: Select[Any], **parameters: object) -> list[Termination]:
        return await self._readable(statement, from_row, parameters)

    async def _fetch_these(
        self, statement: Select[Any], termination_ids: Sequence[str]
    ) -> list[Termination]:
        """Fetch those of these terminations that the statement selects, in the given order."""
        found = await self._fetch(statement, ids=termination_ids)
        return sorted(found, key=lambda each: termination_ids.index(each.id))

    async def _fetch_each(
        self,
        statement: CompoundSelect[Any],
        count: int,
        decode: Callable[[Mapping[str, Any]], T],
        **parameters: object,
    ) -> list[list[T]]:
        """Fetch the rows of each of the ``count`` statements of a :func:`tagged_union`."""
        rows = await self._readable(statement, lambda row: (row["place"], decode(row)), parameters)
        found: list[list[T]] = [[] for _ in range(count)]
        for place, value in rows:
            found[place].append(value)
        return found

    async def _readable(
        self,
        statement: Select[Any] | CompoundSelect[Any],
        decode: Callable[[Mapping[str, Any]], T],
        parameters: Mapping[str, object],
    ) -> list[T]:
        """Fetch rows of terminations; set those aside that cannot be decoded."""
        parameters = {**parameters, **self.in_partition}
        rows: Sequence[T | Unreadable]
        try:
            async with self._database.read(one_statement=True) as connection:
                rows = await decoded_together(connection, statement, decode, parameters)
        except UNREADABLE:
            async with self._database.read() as connection:
                rows = await decoded(connection, statement, decode, parameters)
        reasons = {
            row.row["id"]: f"its row in the database cannot be read: {row.why}"
            for row in rows
            if isinstance(row, Unreadable)
        }
        if reasons:
            for termination_id in await self._set_aside(reasons):
                log.error(
                    "%s: termination %s is set aside and read again every %g s; its job may still "
                    "run; report this line: %s",
                    self._fence.partition,
                    termination_id,
                    set_aside.AGAIN_AFTER_S,
                    reasons[termination_id],
                )
        return [row for row in rows if not isinstance(row, Unreadable)]
