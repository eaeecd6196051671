"""Reads and writes of one partition, as long as its lease holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import BindParameter, Integer, bindparam, literal, select, union_all
from sqlalchemy.exc import IntegrityError

from orchestrator.domain.errors import InvariantViolated
from orchestrator.domain.invariants import Invariant
from orchestrator.store.rows import from_row
from orchestrator.store.schema import terminations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from sqlalchemy import CompoundSelect, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from orchestrator.domain.leases import Fence
    from orchestrator.domain.terminations import Termination
    from orchestrator.store.database import Database
    from orchestrator.store.transaction import Transaction

T = TypeVar("T")

HERE = terminations.c.partition == bindparam("partition")
LIMIT: BindParameter[int] = bindparam("limit", type_=Integer)
BEFORE: BindParameter[datetime] = bindparam("before", type_=terminations.c.look_at.type)


def each_of(*statements: Select[Any]) -> CompoundSelect[Any]:
    """The rows of all statements, each with its statement's place among them as ``place``."""
    return union_all(
        *(
            select(rows := statement.subquery(), literal(place).label("place")).select_from(rows)
            for place, statement in enumerate(statements)
        )
    )


class Fenced:
    """What the stores of a partition's loops have in common."""

    def __init__(self, database: Database, fence: Fence) -> None:
        self._database = database
        self._fence = fence

    async def _write(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Write as the partition's holder; raises LeaseLost, and what violates an invariant."""

        async def held(transaction: Transaction) -> T:
            await transaction.hold(self._fence)
            return await work(transaction)

        try:
            return await self._database.write(held)
        except InvariantViolated as error:
            self._database.violations[Invariant(error.invariant)] += 1
            raise
        except IntegrityError:
            self._database.violations[Invariant.CONSTRAINT] += 1
            raise

    async def _fetch(
        self, connection: AsyncConnection, statement: Select[Any], **parameters: object
    ) -> list[Termination]:
        parameters["partition"] = self._fence.partition
        rows = await connection.execute(statement, parameters)
        return [from_row(row) for row in rows.mappings()]

    async def _fetch_each(
        self,
        connection: AsyncConnection,
        statement: CompoundSelect[Any],
        count: int,
        **parameters: object,
    ) -> list[list[Termination]]:
        """The rows of each of ``count`` statements that :func:`each_of` was given."""
        parameters["partition"] = self._fence.partition
        found: list[list[Termination]] = [[] for _ in range(count)]
        for row in (await connection.execute(statement, parameters)).mappings():
            found[row["place"]].append(from_row(row))
        return found
