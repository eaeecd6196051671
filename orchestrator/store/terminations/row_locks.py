"""Terminations that another session of the database keeps locked.

They cannot be marked in their rows, which are locked: the partition's holder keeps them in memory,
and its loops go on without them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from orchestrator.store.schema import operation_terminations, operations, terminations

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Select

    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

HELD_MAX = 1000
"""Where more are locked, the loops fail and are tried again: no single rows are meant then."""
SHOWN = 5

log = logging.getLogger(__name__)

_ASKED = select(terminations.c.id, operation_terminations.c.operation_id).join(
    operation_terminations, operation_terminations.c.termination_id == terminations.c.id
)
# A write of the engine takes such locks, and SKIP LOCKED waits for nobody.
_FREE = select(terminations.c.id).with_for_update(key_share=True, skip_locked=True)
_FREE_OPERATIONS = select(operations.c.id).with_for_update(key_share=True, skip_locked=True)


def unlocked(*these: ColumnElement[bool]) -> Select[Any]:
    """The ids of these terminations, without those that somebody has locked."""
    return _FREE.where(*these)


class RowLocks:
    """Those of one partition."""

    def __init__(self, database: Database, partition: str) -> None:
        self._database = database
        self._partition = partition
        self.held: set[str] = set()
        """Terminations that no loop is to have."""

    async def find(self, which: ColumnElement[bool]) -> set[str]:
        """Those of these terminations that are locked, which are held from now on.

        The end of a termination is written to its operations as well: one that fails alone waits
        for those, too.
        """
        asked, rows, behind = await self._locked(which)
        locked = rows or (behind if len(asked) == 1 else set())
        if len(self.held | locked) > HELD_MAX:
            return set()
        if new := sorted(locked - self.held):
            log.error(
                "%s: %d terminations (%s) wait until another session of the database ends its "
                "transaction, which keeps their rows or their operations' locked: see "
                "pg_stat_activity for one that is open for long (xact_start)",
                self._partition,
                len(new),
                _shown(new),
            )
        self.held |= locked
        return locked

    async def let_go(self) -> bool:
        """Hold none that is not locked any more; returns whether there was one."""
        if not self.held:
            return False
        _, rows, behind = await self._locked(terminations.c.id.in_(self.held))
        free = sorted(self.held - rows - behind)
        self.held.difference_update(free)
        if free:
            log.warning(
                "%s: %d terminations (%s) are locked no longer",
                self._partition,
                len(free),
                _shown(free),
            )
        return bool(free)

    async def _locked(self, which: ColumnElement[bool]) -> tuple[set[str], set[str], set[str]]:
        """All of these, those whose row is locked, and those with an operation that is."""

        async def work(transaction: Transaction) -> tuple[set[str], set[str], set[str]]:
            asked = (await transaction.execute(_ASKED.where(which))).all()
            ids = {row.id for row in asked}
            free = set((await transaction.execute(_FREE.where(which))).scalars())
            its = operations.c.id.in_({row.operation_id for row in asked})
            open_ = set((await transaction.execute(_FREE_OPERATIONS.where(its))).scalars())
            return ids, ids - free, {row.id for row in asked if row.operation_id not in open_}

        return await self._database.write(work)


def _shown(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
