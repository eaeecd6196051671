"""Reads and writes of one partition, as long as its lease holds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BindParameter, Integer, and_, bindparam, literal, select, union_all
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.decisions.invariants import Invariant
from orchestrator.domain.errors import InvariantViolated, RowsLocked
from orchestrator.store.mapping.decoding import Unreadable, decoded, error_text
from orchestrator.store.mapping.termination_rows import from_row
from orchestrator.store.schema import terminations
from orchestrator.store.terminations import set_aside

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, CompoundSelect, Select

    from orchestrator.domain.leasing.lease import FencingToken
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction
    from orchestrator.store.terminations.row_locks import RowLocks

T = TypeVar("T")

log = logging.getLogger(__name__)

IN_PARTITION = and_(
    terminations.c.partition == bindparam("partition"),
    set_aside.NOT_SET_ASIDE,
    terminations.c.id.not_in(bindparam("locked", expanding=True)),
)
"""What the loops of a partition work on: ``Fenced.here`` has its parameters."""
LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
CUTOFF: BindParameter[datetime] = bindparam("before", type_=terminations.c.next_poll_at.type)


def tagged_union(*statements: Select[Any]) -> CompoundSelect[Any]:
    """The rows of all statements, each with its statement's place among them as ``place``."""
    return union_all(
        *(
            select(rows := statement.subquery(), literal(place).label("place")).select_from(rows)
            for place, statement in enumerate(statements)
        )
    )


class Fenced:
    """What the stores of a partition's loops have in common."""

    def __init__(self, database: Database, fence: FencingToken, locks: RowLocks) -> None:
        self._database = database
        self._fence = fence
        self._locks = locks

    @property
    def here(self) -> dict[str, object]:
        return {"partition": self._fence.partition, "locked": list(self._locks.held)}

    async def _write(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        which: ColumnElement[bool] | None = None,
    ) -> T:
        """Write as the partition's holder; raises LeaseLost, and what violates an invariant.

        ``which``: the terminations that are written.  Where RowsLocked is raised, no loop has those
        of them that are locked before they are free.
        """

        async def held(transaction: Transaction) -> T:
            await transaction.hold(self._fence)
            return await work(transaction)

        try:
            return await self._database.write(held)
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
        """Let no loop have this termination for a while.

        Returns False where it was set aside for the same error before.
        """
        return bool(await self._set_aside({termination_id: error_text(error)}))

    async def _set_aside(self, reasons: Mapping[str, str]) -> list[str]:
        async def work(transaction: Transaction) -> list[str]:
            return await set_aside.write(transaction, self._fence.partition, reasons)

        return await self._write(work, terminations.c.id.in_(reasons))

    async def _fetch(self, statement: Select[Any], **parameters: object) -> list[Termination]:
        return await self._readable(statement, from_row, parameters)

    async def _fetch_each(
        self, statement: CompoundSelect[Any], count: int, **parameters: object
    ) -> list[list[Termination]]:
        """The rows of each of ``count`` statements that :func:`tagged_union` was given."""
        rows = await self._readable(
            statement, lambda row: (row["place"], from_row(row)), parameters
        )
        found: list[list[Termination]] = [[] for _ in range(count)]
        for place, termination in rows:
            found[place].append(termination)
        return found

    async def _readable(
        self,
        statement: Select[Any] | CompoundSelect[Any],
        decode: Callable[[Mapping[str, Any]], T],
        parameters: Mapping[str, object],
    ) -> list[T]:
        """Rows of terminations; those that cannot be read are set aside."""
        async with self._database.read() as connection:
            rows = await decoded(connection, statement, decode, {**parameters, **self.here})
        reasons = {
            row.row["id"]: f"its row in the database cannot be read: {row.why}"
            for row in rows
            if isinstance(row, Unreadable)
        }
        if reasons:
            for termination_id in await self._set_aside(reasons):
                log.error(
                    "%s: termination %s is set aside and read again every %g s: %s",
                    self._fence.partition,
                    termination_id,
                    set_aside.AGAIN_AFTER_S,
                    reasons[termination_id],
                )
        return [row for row in rows if not isinstance(row, Unreadable)]
