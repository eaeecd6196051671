"""One write transaction, which the units of work of a group share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, insert, select

from orchestrator.domain.errors import LeaseLost
from orchestrator.store.events import chained
from orchestrator.store.schema import events, partitions

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.leasing.lease import FencingToken
    from orchestrator.domain.model.lifecycle import State
    from orchestrator.store.database.dialect import Dialect


_HOLDS = (
    select(partitions.c.name)
    .where(
        partitions.c.name == bindparam("held"),
        partitions.c.epoch == bindparam("under"),
        partitions.c.holder.is_not(None),
    )
    .with_for_update(read=True)
)


class Transaction:
    """Its connection, the events that it ends with, and the leases that hold until its end."""

    def __init__(
        self,
        connection: AsyncConnection,
        dialect: Dialect,
        now: Callable[[], datetime],
        ended: Counter[State],
    ) -> None:
        """``ended`` counts the terminations that are committed as ended, by state."""
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
        """Now, by the clock that all replicas share."""
        return await self._dialect.clock(self.connection) or self._now()

    async def hold(self, fence: FencingToken) -> None:
        """Go on only as the partition's holder, and let it pass to nobody before the end.

        Raises LeaseLost when it has passed to another one, or was given back.
        """
        if fence in self._held:
            return
        found = await self.execute(_HOLDS, {"held": fence.partition, "under": fence.epoch})
        if found.one_or_none() is None:
            raise LeaseLost(f"{fence.partition} is not held any more under epoch {fence.epoch}")
        self._held.add(fence)

    def record(self, **event: object) -> None:
        """Have an event stored, at the end: only then is their order that of the commits."""
        self._events.append(event)

    async def notify(self, notice: str) -> None:
        """Tell all replicas once this is committed; may be lost."""
        await self._dialect.notify(self.connection, notice)

    def count_end(self, state: State) -> None:
        """Have a termination counted that ended in this state."""
        self.after_commit(lambda: self._ended.update((state,)))

    def after_commit(self, act: Callable[[], None]) -> None:
        """Have something said or counted once this is committed; never where it fails."""
        self._after_commit.append(act)

    def committed(self) -> None:
        for act in self._after_commit:
            act()

    async def finish(self) -> None:
        if self._events:
            # Before all others wait: their events are of other subjects.
            rows = await chained(self.connection, self._events)
            await self._dialect.order_commits(self.connection)
            await self.execute(insert(events), rows)
