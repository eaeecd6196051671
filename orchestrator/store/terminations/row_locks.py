"""Terminations whose rows another session of the database keeps locked.

They cannot be marked in their rows, which are locked. The replica that holds the partition keeps
their ids in memory, and its loops go on without them.
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

LOCKED_MAX = 1000
"""If more are locked, the loops fail and are retried: the problem is not a few rows then."""
SHOWN = 5
"""Number of ids that a log line names."""

log = logging.getLogger(__name__)

# Terminations with the operations that they belong to.
_WITH_OPERATIONS = select(terminations.c.id, operation_terminations.c.operation_id).join(
    operation_terminations, operation_terminations.c.termination_id == terminations.c.id
)
# Terminations whose row is not locked. Writes of the engine take the same kind of lock; SKIP LOCKED
# does not wait.
_UNLOCKED = select(terminations.c.id).with_for_update(key_share=True, skip_locked=True)
# Operations whose row is not locked.
_UNLOCKED_OPERATIONS = select(operations.c.id).with_for_update(key_share=True, skip_locked=True)


def unlocked(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Select the ids of the terminations that match, without those that are locked."""
    return _UNLOCKED.where(*conditions)


class RowLocks:
    """The locked terminations of one partition."""

    def __init__(self, database: Database, partition: str) -> None:
        self._database = database
        self._partition = partition
        self.locked: set[str] = set()
        """Ids of the terminations that no loop reads."""

    async def find(self, which: ColumnElement[bool]) -> set[str]:
        """Remember those of these terminations that are locked, and return their ids.

        The end of a termination is written to its operations as well. So a single termination
        whose write fails counts as locked if one of its operations is locked.
        """
        matching, locked_rows, blocked = await self._find_locked(which)
        locked = locked_rows or (blocked if len(matching) == 1 else set())
        if len(self.locked | locked) > LOCKED_MAX:
            return set()
        if new := sorted(locked - self.locked):
            log.error(
                "%s: %d terminations (%s) wait: another session of the database keeps their rows, "
                "or those of their operations, locked; find the one with the oldest transaction "
                "(xact_start) in pg_stat_activity, and end it",
                self._partition,
                len(new),
                _first_ids(new),
            )
        self.locked |= locked
        return locked

    async def forget_unlocked(self) -> bool:
        """Forget those that are not locked any more; return whether there was one."""
        if not self.locked:
            return False
        _, locked_rows, blocked = await self._find_locked(terminations.c.id.in_(self.locked))
        free = sorted(self.locked - locked_rows - blocked)
        self.locked.difference_update(free)
        if free:
            log.warning(
                "%s: %d terminations (%s) are no longer locked",
                self._partition,
                len(free),
                _first_ids(free),
            )
        return bool(free)

    async def _find_locked(self, which: ColumnElement[bool]) -> tuple[set[str], set[str], set[str]]:
        """Return the ids of all matches, of those locked, and of those with a locked operation."""

        async def work(transaction: Transaction) -> tuple[set[str], set[str], set[str]]:
            links = (await transaction.execute(_WITH_OPERATIONS.where(which))).all()
            ids = {row.id for row in links}
            free = set((await transaction.execute(_UNLOCKED.where(which))).scalars())
            theirs = operations.c.id.in_({row.operation_id for row in links})
            free_operations = set(
                (await transaction.execute(_UNLOCKED_OPERATIONS.where(theirs))).scalars()
            )
            blocked = {row.id for row in links if row.operation_id not in free_operations}
            return ids, ids - free, blocked

        return await self._database.write(work)


def _first_ids(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
