"""Stored fields that a test sets, whether they were observed or not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from orchestrator.store.mapping.termination_rows import SET_BY_ENGINE, to_row
from orchestrator.store.schema import terminations

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction


async def know(database: Database, before: Termination, **known: Any) -> Termination:
    """Store it with these fields; return it so."""
    after = replace(before, **known)
    row = to_row(after)

    async def work(transaction: Transaction) -> None:
        changed = update(terminations).where(terminations.c.id == before.id)
        await transaction.execute(changed.values({name: row[name] for name in SET_BY_ENGINE}))

    await database.write(work)
    return after
