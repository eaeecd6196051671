"""The leases on partitions: live replicas, the partitions they hold, and how these change hands.

A replica is live as long as its row exists. Any replica deletes the row of another one that has
expired, and its partitions are free then. So a late renewal either finds its row, and no replica
has taken anything, or finds none and returns None.
"""

from __future__ import annotations

import math
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import (
    bindparam,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    type_coerce,
    union_all,
    update,
)

from orchestrator.domain.leasing.leases import FencingToken, LeaseSnapshot
from orchestrator.domain.model.lifecycle import State
from orchestrator.store.chunks import chunks
from orchestrator.store.partition import clock_steps
from orchestrator.store.schema import attempts, operations, partitions, replicas, terminations

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

_PARTITIONS_AND_REPLICAS = union_all(
    select(
        partitions.c.name,
        partitions.c.epoch,
        partitions.c.holder,
        partitions.c.followed_s,
        type_coerce(null(), replicas.c.partitions.type).label("partitions"),
        type_coerce(null(), replicas.c.expires_at.type).label("expires_at"),
    ),
    select(replicas.c.id, null(), null(), null(), replicas.c.partitions, replicas.c.expires_at),
)
"""All partitions (with an epoch) and all replicas (without), as they are at one moment."""
_RENEW = (
    update(replicas)
    .where(replicas.c.id == bindparam("replica"))
    .values(expires_at=bindparam("until"))
)


_HAS_UNFINISHED = (
    select(terminations.c.seq)
    .where(
        terminations.c.partition == partitions.c.name,
        terminations.c.state.in_([state for state in State if not state.final]),
    )
    .exists()
)
_HAS_WATCHED = (
    select(terminations.c.seq)
    .where(
        terminations.c.partition == partitions.c.name,
        terminations.c.revival_checked_at.is_not(None),
    )
    .exists()
)
_WITH_OPEN_ATTEMPTS = select(attempts.c.partition).where(attempts.c.answered_at.is_(None))
_WITH_WORK = select(partitions.c.name).where(
    partitions.c.name.in_(bindparam("names", expanding=True)),
    or_(_HAS_UNFINISHED, _HAS_WATCHED, partitions.c.name.in_(_WITH_OPEN_ATTEMPTS)),
)


class SqlLeaseStore:
    """Implements :class:`orchestrator.engine.ports.LeaseStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def now(self) -> datetime:
        """Return the time by the database's clock."""
        return await self._database.write(lambda transaction: transaction.clock())

    async def join(self, replica: str, names: Collection[str], lease_s: float) -> LeaseSnapshot:
        async def work(transaction: Transaction) -> LeaseSnapshot:
            now = await transaction.clock()
            await clock_steps.lock(transaction)
            # An earlier attempt may have been committed though its answer was lost.
            earlier = await transaction.execute(delete(replicas).where(replicas.c.id == replica))
            if not self._database.dialect.shared:
                await transaction.execute(delete(replicas))
            if not await transaction.scalar(select(func.count()).select_from(replicas)):
                await clock_steps.begin(transaction, replica, again=earlier.rowcount > 0)
            await transaction.execute(
                insert(replicas).values(
                    id=replica,
                    partitions=sorted(names),
                    expires_at=now + timedelta(seconds=lease_s),
                )
            )
            known = await transaction.execute(select(partitions.c.name))
            unknown = set(names) - set(known.scalars())
            if unknown:
                steps_s = await clock_steps.noted(transaction)
                await transaction.execute(
                    insert(partitions),
                    [{"name": name, "epoch": 0, "followed_s": steps_s} for name in sorted(unknown)],
                )
            await transaction.notify("")
            # Leases that read as expired may do so after a step of the clock, which a live replica
            # must be able to record: only a renewal declares others dead.
            return await _snapshot(transaction, replica, now)

        return await self._database.write(work)

    async def renew(self, replica: str, lease_s: float) -> LeaseSnapshot | None:
        async def work(transaction: Transaction) -> LeaseSnapshot | None:
            now = await transaction.clock()
            renewed = await transaction.execute(
                _RENEW, {"replica": replica, "until": now + timedelta(seconds=lease_s)}
            )
            if renewed.rowcount == 0:
                return None
            await clock_steps.seen(transaction, now)
            return await _snapshot(transaction, replica, now, lease_s=lease_s)

        return await self._database.write(work)

    async def note_step(self, known_steps_s: int, by_s: int) -> None:
        await self._database.write(
            lambda transaction: clock_steps.note(transaction, known_steps_s, by_s)
        )

    async def take(self, replica: str, epochs: Mapping[str, int]) -> list[FencingToken]:
        """Take those of these partitions whose epochs are still the ones that were read.

        Their stored health is cleared: the problem of the former holder may be over. The times that
        are stored for them are moved along with the recorded steps of the clock.
        """

        async def work(transaction: Transaction) -> list[FencingToken]:
            taken, steps_s = [], await clock_steps.noted(transaction)
            for name, epoch in sorted(epochs.items()):
                result = await transaction.execute(
                    update(partitions)
                    .where(partitions.c.name == name, partitions.c.epoch == epoch)
                    .values(
                        holder=replica,
                        epoch=epoch + 1,
                        trouble_code=None,
                        trouble_message=None,
                        trouble_advice=None,
                        allowed_per_s=None,
                    )
                )
                if result.rowcount:
                    await clock_steps.follow(transaction, name, steps_s)
                    taken.append(FencingToken(name, epoch + 1))
            return taken

        return await self._database.write(work)

    async def release(self, fence: FencingToken) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.execute(
                update(partitions)
                .where(partitions.c.name == fence.partition, partitions.c.epoch == fence.epoch)
                .values(holder=None)
            )
            await transaction.notify("")

        await self._database.write(work)

    async def leave(self, replica: str) -> None:
        async def work(transaction: Transaction) -> None:
            await transaction.execute(delete(replicas).where(replicas.c.id == replica))
            await transaction.notify("")

        await self._database.write(work)

    async def with_work(self, names: Sequence[str]) -> set[str]:
        found = set[str]()
        async with self._database.read() as connection:
            for batch in chunks(names):
                found.update((await connection.execute(_WITH_WORK, {"names": batch})).scalars())
        return found

    async def reassign_region(self, *, account: str, region: str, partition: str) -> None:
        """Move the unfinished work of a region to the partition that its API calls go to now.

        The host in an account's configuration may have changed since the work was submitted.
        """

        async def work(transaction: Transaction) -> None:
            watched = terminations.c.revival_checked_at.is_not(None)
            for table, unfinished in (
                (terminations, or_(terminations.c.finished_at.is_(None), watched)),
                (operations, operations.c.finished_at.is_(None)),
            ):
                await transaction.execute(
                    update(table)
                    .where(
                        table.c.account == account,
                        table.c.region == region,
                        unfinished,
                        table.c.partition != partition,
                    )
                    .values(partition=partition)
                )

        await self._database.write(work)


async def _snapshot(
    transaction: Transaction, replica: str, now: datetime, *, lease_s: float | None = None
) -> LeaseSnapshot:
    """Read the leases; given ``lease_s``, first declare dead the others whose lease has expired."""
    rows = (await transaction.execute(_PARTITIONS_AND_REPLICAS)).all()
    held = [row for row in rows if row.epoch is not None]
    live = {row.name: row for row in rows if row.epoch is None}
    if lease_s is not None:
        # A lease that ends later than this was written before the clock was put back.
        latest = now + timedelta(seconds=2 * lease_s)
        if not all(now < row.expires_at <= latest for row in live.values()):
            ended = or_(replicas.c.expires_at <= now, replicas.c.expires_at > latest)
            expired = replicas.c.id != replica, ended
            dead = delete(replicas).where(*expired).returning(replicas.c.id)
            for name in (await transaction.execute(dead)).scalars():
                live.pop(name, None)
    others = [row.expires_at for name, row in live.items() if name != replica]
    return LeaseSnapshot(
        now=now,
        candidates={name: row.partitions for name, row in live.items()},
        holders={row.name: row.holder if row.holder in live else None for row in held},
        epochs={row.name: row.epoch for row in held},
        next_expiry_s=(min(others) - now).total_seconds() if others else math.inf,
        steps_s=await clock_steps.noted(transaction),
        followed_s={row.name: row.followed_s for row in held},
    )
