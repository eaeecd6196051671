"""Protocol of the two dialects: the differences between SQLite and PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

READERS = 4
"""Number of connections that read."""


class Dialect(Protocol):
    """One kind of database: an SQLite file, or a PostgreSQL server."""

    shared: bool
    """True if several replicas may use it."""
    name: str
    """Its URL without the password, or its path."""
    writers: AsyncEngine
    """Engine with one connection."""
    readers: AsyncEngine
    one_statement_readers: AsyncEngine
    """The same connections, for reads of one statement."""

    def upgrader(self) -> AsyncEngine:
        """Return an engine whose transactions have no time limits."""

    def prepare(self) -> None:
        """Protect the stored data from other users, before the first connection."""

    def check(self) -> None:
        """Raise OSError if the database file was moved or deleted: writes would be lost."""

    def why_unavailable(self, error: Exception) -> str | None:
        """Return why the database cannot be used; None if the error is of one statement alone."""

    def is_conflict(self, error: Exception) -> bool:
        """Return whether the error is a conflict with another transaction."""

    def is_locked(self, error: Exception) -> bool:
        """Return whether the error is a timeout on rows that another transaction keeps locked."""

    def advice(self, error: DBAPIError | OSError) -> str:
        """Return what the operator should do about a database that cannot be used at the start."""

    async def clock(self, connection: AsyncConnection) -> datetime | None:
        """Read the server's clock, which all replicas share; None if only this machine uses it."""

    async def order_commits(self, connection: AsyncConnection) -> None:
        """Make other transactions that call this wait until this one has ended.

        Event ids then follow the order of the commits: a reader that has read event N never
        misses an event with a smaller id.
        """

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        """Wait until no other replica upgrades the schema, and block them until the commit.

        The upgrade then waits for each lock only as long as others can wait behind it. Raises
        OSError if the database is damaged.
        """

    async def notify(self, connection: AsyncConnection, notice: str) -> None:
        """Send ``notice`` to all replicas when this transaction commits."""

    async def listen(self, on_notice: Callable[[str], None], heard: Callable[[], None]) -> None:
        """Pass on notifications until the connection is lost; call ``heard`` once it is there.

        Meanwhile end sessions of replicas that stopped in the middle of a statement, and so free
        the locks that they hold.
        """


def pool(connections: int) -> dict[str, Any]:
    # Reads wait in Database.read, not in the pool: on Python 3.11 and SQLAlchemy 2.0.46 the queue
    # of the pool sometimes swallows a cancellation. LIFO: the connection used last has the most
    # statements prepared.
    overflow = 0 if connections == 1 else -1
    return {"pool_size": connections, "max_overflow": overflow, "pool_use_lifo": True}
