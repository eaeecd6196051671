"""One write transaction, which the writes of a group share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select

from orchestrator.domain.errors import LeaseLost
from orchestrator.store.database.bulk_insert import insert_rows
from orchestrator.store.events import chained
from orchestrator.store.schema import events, partitions

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from typing import Any

    from sqlalchemy import Table
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.domain.model.lifecycle import State
    from orchestrator.store.database.dialect import Dialect


# The row of the partition, locked, if its lease is held under this epoch.
_LOCK_HELD_PARTITION = (
    select(partitions.c.name)
    .where(
        partitions.c.name == bindparam("held"),
        partitions.c.epoch == bindparam("under"),
        partitions.c.holder.is_not(None),
    )
    .with_for_update(read=True)
)


class Transaction:
    """A connection, the events to store before the commit, and the leases held up to the commit."""

    def __init__(
        self,
        connection: AsyncConnection,
        dialect: Dialect,
        now: Callable[[], datetime],
        ended: Counter[State],
    ) -> None:
        """Take the counter of terminations that are committed as ended, by state, as ``ended``."""
        self.connection = connection
        self.execute = connection.execute
        self.scalar = connection.scalar
        self._dialect = dialect
        self._now = now
        self._events: list[dict[str, object]] = []
        self._held: set[FencingToken] = set()
        self._after_commit: list[Callable[[], None]] = []
        self._ended = ended

    async def clock(self) -> datetime:
        """Return the time by the clock that all replicas share."""
        return await self._dialect.clock(self.connection) or self._now()

    async def lock_partition(self, fence: FencingToken) -> None:
        """Keep the lease of the partition from passing to another replica before the commit.

        Raises LeaseLost if it has passed to another replica, or was given back.
        """
        if fence in self._held:
            return
        found = await self.execute(
            _LOCK_HELD_PARTITION, {"held": fence.partition, "under": fence.epoch}
        )
        if found.one_or_none() is None:
            raise LeaseLost(f"{fence.partition} is no longer held under epoch {fence.epoch}")
        self._held.add(fence)

    async def insert(self, table: Table, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows, all with the same columns."""
        await insert_rows(self.connection, table, rows)

    def record(self, **event: object) -> None:
        """Store an event right before the commit, so that event ids follow the order of commits."""
        self._events.append(event)

    async def notify(self, notice: str) -> None:
        """Send ``notice`` to all replicas at the commit; it may be lost."""
        await self._dialect.notify(self.connection, notice)

    def count_end(self, state: State) -> None:
        """Count a termination that ended in this state, after the commit."""
        self.after_commit(lambda: self._ended.update((state,)))

    def after_commit(self, act: Callable[[], None]) -> None:
        """Call ``act`` after the commit; never if the transaction fails."""
        self._after_commit.append(act)

    def committed(self) -> None:
        for act in self._after_commit:
            act()

    async def finish(self) -> None:
        if self._events:
            # Before order_commits, which makes others wait: their events are of other subjects.
            rows = await chained(self.connection, self._events)
            await self._dialect.order_commits(self.connection)
            await self.insert(events, rows)
