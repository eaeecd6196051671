"""Leases that tests hold without a loop that renews them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.store.partition.lease_store import SqlLeaseStore

if TYPE_CHECKING:
    from orchestrator.domain.leasing.leases import FencingToken
    from orchestrator.store.database.database import Database

HOUR_S = 3600.0


async def hold(database: Database, *names: str, replica: str = "a replica") -> list[FencingToken]:
    """Have a replica that holds these partitions, each under its next epoch; the first is 1."""
    leases = SqlLeaseStore(database)
    await leases.join(replica, names, HOUR_S)
    standing = await leases.renew(replica, HOUR_S)
    assert standing is not None
    return await leases.take(replica, {name: standing.epochs[name] for name in names})
