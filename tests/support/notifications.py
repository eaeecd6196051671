"""Notifications that a replica receives from its database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.postgresql_replicas import SOON_S, until

if TYPE_CHECKING:
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction


class Notifications(list[str]):
    """Notifications received, in order."""

    async def until(self, notice: str) -> list[str]:
        await until(lambda: notice in self)
        return list(self)


async def wait_until_listening(database: Database, received: Notifications) -> None:
    """Wait until notifications arrive."""
    async with asyncio.timeout(SOON_S):
        while "listening?" not in received:
            await notify(database, "listening?")
            await asyncio.sleep(0.02)
    # Wait for notifications that are still under way.
    await notify(database, "yes")
    await received.until("yes")
    received.clear()


async def notify(database: Database, notice: str) -> None:
    async def work(transaction: Transaction) -> None:
        await transaction.notify(notice)

    await database.write(work)
