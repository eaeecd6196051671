"""Terminations with given values, whichever part of a termination has them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import update

from orchestrator.store.mapping.termination_rows import _COLUMNS, SET_BY_ENGINE, to_row
from orchestrator.store.schema import terminations

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination
    from orchestrator.store.database.database import Database
    from orchestrator.store.database.transaction import Transaction

_PLACES = {
    column: (part, name) for part, columns in _COLUMNS.items() for name, column in columns.items()
}


def with_fields(termination: Termination, **values: Any) -> Termination:
    """Return the termination with these values, each named as its column is."""
    for column, value in values.items():
        if column in _PLACES:
            part, name = _PLACES[column]
            changed = replace(getattr(termination, part), **{name: value})
            termination = replace(termination, **{part: changed})
        else:
            termination = replace(termination, **{column: value})
    return termination


async def store_fields(database: Database, before: Termination, **values: Any) -> Termination:
    """Store the termination with these fields, as no decision made it; return it so."""
    after = with_fields(before, **values)
    row = to_row(after)

    async def work(transaction: Transaction) -> None:
        changed = update(terminations).where(terminations.c.id == before.id)
        await transaction.execute(changed.values({name: row[name] for name in SET_BY_ENGINE}))

    await database.write(work)
    return after
