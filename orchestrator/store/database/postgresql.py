"""PostgreSQL: a server that any number of replicas share."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, func, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.ext.asyncio import create_async_engine

from orchestrator.store.database.dialect import READERS, pool
from orchestrator.store.database.postgresql_connections import (
    READ_ONLY,
    Connection,
    Connector,
    ends_session,
    lost_midway,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.engine import Connection as SyncConnection
    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry

    from orchestrator.store.database.postgresql_url import PostgresqlUrl

CONNECT_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 4.0
LOCK_TIMEOUT_AGAIN_S, LOCKED_RECENTLY_S = 1.0, 60.0
"""Lock timeout of writes during the minute after a lock timeout.

One session that keeps rows locked must not delay all writes again and again.
"""
IDLE_TIMEOUT_S = 3.0
"""Time that a transaction may be idle: less than others wait for its locks.

A replica that is paused within a transaction delays the others for this long.
"""
UPGRADE_LOCK_TIMEOUT_S = 1.0
"""Time that an upgrade waits for the lock of a table: all other users of it wait behind that."""
STALLED_CHECK_S = 0.5
"""Interval at which a replica ends stalled sessions, which the server itself does not end."""

log = logging.getLogger(__name__)


class Postgresql:
    """A server that any number of replicas share, also behind a transaction-mode pooler.

    Because of the pooler nothing outlives a transaction: prepared statements have no name, and each
    transaction sets its own timeouts.
    """

    shared = True

    def __init__(self, url: PostgresqlUrl) -> None:
        self._connect_timeout_s = url.connect_timeout_s or CONNECT_TIMEOUT_S
        self._connector = Connector(url)
        self.name = url.shown
        self._losses = 0
        """Number of times that the writing session was lost; all others are then replaced as well.

        After a failover they may be connected to a server that accepts no writes and returns old
        data.
        """
        self._locked_at = -math.inf
        """Time of the last lock timeout of a write (monotonic)."""
        self.writers = self._limited(1)
        self.readers = self._limited(READERS).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
        # The timeouts of a statement are those of its transaction.
        self.one_statement_readers = self.readers
        event.listen(self.writers.sync_engine, "handle_error", self._on_write_error)

    def upgrader(self) -> AsyncEngine:
        unlimited = _limits(dict.fromkeys(_LIMITS_S, 0.0))
        return self._engine(1, lambda: unlimited)

    def _limited(self, connections: int) -> AsyncEngine:
        return self._engine(connections, self._limits, command_timeout=STATEMENT_TIMEOUT_S)

    def _limits(self) -> Select[Any]:
        locked_recently = time.monotonic() < self._locked_at + LOCKED_RECENTLY_S
        return _LIMITS_AGAIN if locked_recently else _LIMITS

    def _engine(
        self, connections: int, limits: Callable[[], Select[Any]], **connect: object
    ) -> AsyncEngine:
        engine = create_async_engine(
            "postgresql+asyncpg://",
            **pool(connections),
            # Replace a connection that the server has closed before a transaction uses it.
            pool_pre_ping=True,
            connect_args={
                "async_creator_fn": self._connector.connect,
                "connection_class": Connection,
                "timeout": self._connect_timeout_s,
                "server_settings": {"application_name": _APPLICATION},
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
                **connect,
            },
        )

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: SyncConnection) -> None:
            connection.execute(limits())

        @event.listens_for(engine.sync_engine, "checkout")
        def on_checkout(_: object, record: ConnectionPoolEntry, __: object) -> None:
            if record.info.setdefault("losses", self._losses) != self._losses:
                raise DisconnectionError

        @event.listens_for(engine.sync_engine, "handle_error")
        def discard_session(context: ExceptionContext) -> None:
            if ends_session(context.original_exception):
                context.is_disconnect = True

        return engine

    def _on_write_error(self, context: ExceptionContext) -> None:
        self._losses += context.is_disconnect
        if getattr(context.original_exception, "sqlstate", None) == _LOCKED:
            self._locked_at = time.monotonic()

    def prepare(self) -> None:
        """Do nothing: protecting the data is up to the operator of the server."""

    def check(self) -> None:
        """Do nothing: a connection stays with one server until it is closed."""

    def why_unavailable(self, error: Exception) -> str | None:
        if lost_midway(getattr(error, "orig", error)):
            return "the connection was lost in the middle of a statement"
        match error:
            case DBAPIError() if _is_of_one_statement(error):
                return None
            case DBAPIError(orig=orig):
                return _KEPT_LOCKED if self.is_locked(error) else str(orig).rpartition(">: ")[2]
            case TimeoutError():
                return "it does not answer"
            case OSError():
                return str(error)
            case _:
                return None

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, DBAPIError) and _sqlstate(error) in _CONFLICTS

    def is_locked(self, error: Exception) -> bool:
        return isinstance(error, DBAPIError) and _sqlstate(error) == _LOCKED

    def advice(self, error: DBAPIError | OSError) -> str:
        state = _sqlstate(error) if isinstance(error, DBAPIError) else ""
        return _POSTGRESQL_ADVICE.get(state, "see whether the server runs and can be reached")

    async def clock(self, connection: AsyncConnection) -> datetime:
        now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        return now

    async def order_commits(self, connection: AsyncConnection) -> None:
        await connection.execute(select(func.pg_advisory_xact_lock(_COMMITS)))

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        if not await connection.scalar(select(func.pg_try_advisory_xact_lock(_UPGRADES))):
            log.warning("the start waits until another session has upgraded the database")
            await connection.execute(select(func.pg_advisory_xact_lock(_UPGRADES)))
        await connection.execute(_LIMIT_OF_UPGRADES)

    async def notify(self, connection: AsyncConnection, notice: str) -> None:
        await connection.execute(select(func.pg_notify(CHANNEL, notice)))

    async def listen(self, on_notice: Callable[[str], None], heard: Callable[[], None]) -> None:
        lost = asyncio.Event()
        engine = self._limited(1)
        try:
            async with engine.connect() as connection:
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                raw: Any = (await connection.get_raw_connection()).driver_connection
                raw.add_termination_listener(lambda _: lost.set())
                await raw.add_listener(CHANNEL, lambda *notice: on_notice(notice[-1]))
                heard()
                losses = self._losses
                while not lost.is_set() and self._losses == losses:
                    # The query also tests the connection: a network that drops all packets closes
                    # no connection.
                    for row in await raw.fetch(
                        _END_STALLED_SESSIONS,
                        _APPLICATION,
                        IDLE_TIMEOUT_S,
                        timeout=STATEMENT_TIMEOUT_S,
                    ):
                        log.warning(
                            "this daemon ended database session %d: its client had stopped within "
                            "a statement; check that all replicas are alive",
                            row["pid"],
                        )
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STALLED_CHECK_S):
                            await lost.wait()
        finally:
            await engine.dispose()


CHANNEL: Final = "orchestrator"
_APPLICATION: Final = "orchestrator"
_COMMITS, _UPGRADES = 0x7465726D01, 0x7465726D02
"""Keys of advisory locks, which all users of a database share: the bytes "term" and a number."""
_LIMITS_S: Final = {
    "statement_timeout": STATEMENT_TIMEOUT_S,
    "lock_timeout": LOCK_TIMEOUT_S,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT_S,
}
# End the sessions whose client has sent only a part of a statement for IDLE_TIMEOUT_S.
# asyncpg has a statement parsed, and binds it once the reply is there. If the client is paused in
# between, the server waits for the rest of the statement for ever: none of its timeouts applies
# (observed with 15.18: cancels are held back, and the transaction does not count as idle).
_END_STALLED_SESSIONS: Final = """
WITH stalled AS MATERIALIZED (
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = $1
AND state = 'active' AND wait_event = 'ClientRead'
AND query_start < clock_timestamp() - make_interval(secs => $2)
)
SELECT pid FROM stalled WHERE pg_terminate_backend(pid)
"""
_LOCKED: Final = "55P03"
"""SQLSTATE of a lock timeout."""
_KEPT_LOCKED: Final = (
    "the data to be written is locked by another session: find the one with the oldest "
    "transaction (xact_start) in pg_stat_activity, and end it"
)
_STATEMENT_CLASSES: Final = ("0A", "21", "22", "23", "42", "54")
"""Classes of SQLSTATE that concern one statement: PostgreSQL's manual, appendix A."""
_SCHEMA_STATES: Final = (
    "42501",  # insufficient privilege
    "42P01",  # undefined table
)
"""SQLSTATEs of these classes that every such statement meets until the database is repaired."""
_CONFLICTS: Final = (
    "40001",  # serialization failure: another transaction committed first
    "40P01",  # deadlock
    "23505",  # unique violation: another replica has stored the same key; a new read shows it
)
_POSTGRESQL_ADVICE: Final = {
    READ_ONLY: "name the primary server in the URL, not a standby",
    "28000": "check the user in the URL, and the server's pg_hba.conf",
    "28P01": "check the user and the password in the URL",
    "3D000": "create that database, or name another one in the URL",
    _LOCKED: "start again: an upgrade waits for a lock only briefly, for others wait behind it",
    "40001": "start again",
    "40P01": "start again",
    "42501": "let the user create tables in it",
    "55000": "let it accept connections: ALTER DATABASE ... ALLOW_CONNECTIONS true",
    "53300": "let the server have more connections, or other clients fewer",
}


def _is_of_one_statement(error: DBAPIError) -> bool:
    """Return whether other statements may work."""
    state = _sqlstate(error)
    unsendable = isinstance(error, InterfaceError) and not error.connection_invalidated
    return unsendable or (state[:2] in _STATEMENT_CLASSES and state not in _SCHEMA_STATES)


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _limits(limits_s: Mapping[str, float]) -> Select[Any]:
    return select(
        *(func.set_config(name, f"{int(s * 1000)}ms", True) for name, s in limits_s.items())
    )


_LIMITS: Final = _limits(_LIMITS_S)
_LIMIT_OF_UPGRADES: Final = _limits({"lock_timeout": UPGRADE_LOCK_TIMEOUT_S})
_LIMITS_AGAIN: Final = _limits(_LIMITS_S | {"lock_timeout": LOCK_TIMEOUT_AGAIN_S})
