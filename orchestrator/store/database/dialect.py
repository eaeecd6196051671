"""What SQLite and PostgreSQL do differently; nothing else in the store knows on which it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

READERS = 4
"""Connections that read."""


class Dialect(Protocol):
    """A database server, or file, and how it is spoken to."""

    shared: bool
    """Whether several replicas may use it."""
    name: str
    """Its URL without the password, or its path."""
    writers: AsyncEngine
    """With one connection."""
    readers: AsyncEngine

    def upgrader(self) -> AsyncEngine:
        """An engine whose transactions may take as long as they need."""

    def prepare(self) -> None:
        """Have nobody else read what is stored, before the first connection."""

    def check(self) -> None:
        """Raise OSError when nobody would ever see what is being written now."""

    def why_unavailable(self, error: Exception) -> str | None:
        """Why nothing can be written now; None where the error is of one write alone."""

    def is_conflict(self, error: Exception) -> bool:
        """Whether another transaction was in the way."""

    def is_locked(self, error: Exception) -> bool:
        """Whether another transaction has locked what was to be written, and keeps it locked."""

    def advice(self, error: DBAPIError | OSError) -> str:
        """What a person does about a database that cannot be used at a start."""

    async def clock(self, connection: AsyncConnection) -> datetime | None:
        """The server's clock, which all replicas share; None where there is but one machine's."""

    async def order_commits(self, connection: AsyncConnection) -> None:
        """From here to its end, have this transaction's rows numbered and committed in one order.

        A reader that has seen row N will then never see a smaller number appear.
        """

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        """Wait until no other replica upgrades the schema, and keep them off until the end.

        From here on, nothing else is waited for for longer than others can wait behind it.
        Raises OSError where the database is damaged.
        """

    async def notify(self, connection: AsyncConnection, notice: str) -> None:
        """Tell all replicas, when this transaction commits."""

    async def listen(self, on_notice: Callable[[str], None], heard: Callable[[], None]) -> None:
        """Pass on what replicas tell, until the connection is lost; ``heard``: there is one.

        Meanwhile what a replica has left locked in the middle of a statement is freed.
        """


def pool(connections: int) -> dict[str, Any]:
    # Readers wait in Database.read: on Python 3.11 and SQLAlchemy 2.0.46 the pool's own queue
    # swallows a cancellation now and then.  The last one used has most statements prepared.
    overflow = 0 if connections == 1 else -1
    return {"pool_size": connections, "max_overflow": overflow, "pool_use_lifo": True}
