"""What SQLite and PostgreSQL do differently; nothing else in the store knows on which it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
from sqlalchemy import Integer, event, func, literal, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    OperationalError,
)
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, ReturnTypeFromArgs

from orchestrator.store.schema import UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement
    from sqlalchemy.engine import URL, Connection, ExceptionContext
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import ConnectionPoolEntry
    from sqlalchemy.sql.compiler import SQLCompiler

READERS = 4
"""Connections that read."""
BUSY_TIMEOUT_S = 2.0
"""How long a transaction on SQLite waits for a lock that another process holds."""
CONNECT_TIMEOUT_S = 3.0
STATEMENT_TIMEOUT_S = 5.0
LOCK_TIMEOUT_S = 4.0
CLOSING_S = 0.2
"""How long a connection to PostgreSQL may take to say goodbye; the driver's own has no end."""
IDLE_TIMEOUT_S = 3.0
"""How long a transaction on PostgreSQL may do nothing: less than others wait for its locks.

A replica that is paused within one holds up the others for so long.
"""
STALLED_CHECK_S = 0.5
"""How often a replica looks for transactions that do nothing and that the server does not end."""

log = logging.getLogger(__name__)


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

    def check(self) -> None:
        """Raise OSError when nobody would ever see what is being written now."""

    def why_unavailable(self, error: Exception) -> str | None:
        """Why nothing can be written now; None where the error is of one write alone."""

    def is_conflict(self, error: Exception) -> bool:
        """Whether another transaction was in the way."""

    def may_retry(self, error: Exception) -> bool:
        """Whether a transaction that failed before its commit may succeed at once if run again."""

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

        Raises OSError where the database is damaged.
        """

    async def notify(self, connection: AsyncConnection, notice: str) -> None:
        """Tell all replicas, when this transaction commits."""

    async def listen(self, on_notice: Callable[[str], None], heard: Callable[[], None]) -> None:
        """Pass on what replicas tell, until the connection is lost; ``heard``: there is one.

        Meanwhile what a replica has left locked in the middle of a statement is freed.
        """


def database_url(given: str) -> str:
    """What SQLAlchemy is given for the URL that a person gave; raises ValueError.

    PostgreSQL's is that of its own tools (postgresql.org, libpq, "Connection URIs"), with one host
    and sslmode the only parameter.
    """
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):  # of the whole, of the port
        raise ValueError(_FORMS) from None
    match url.drivername:
        case "sqlite" | "sqlite+aiosqlite" if url.database and url.database != ":memory:":
            return f"sqlite+aiosqlite:///{given.partition(':///')[2]}"
        case "postgresql" | "postgres" | "postgresql+asyncpg" if url.database:
            query = dict(url.query)
            ssl = query.pop("sslmode", query.pop("ssl", None))
            if query:
                raise ValueError(f"{', '.join(query)}: only sslmode can be given")
            made = url.set(drivername="postgresql+asyncpg", query={"ssl": ssl} if ssl else {})
            return made.render_as_string(hide_password=False)
        case _:
            raise ValueError(_FORMS)


_FORMS: Final = "must be sqlite:///PATH of a file, or postgresql://USER:PASSWORD@HOST:PORT/NAME"


def dialect_of(url: str) -> Dialect:
    """How to speak to the database at ``url``."""
    parsed = make_url(url)
    return Sqlite(parsed) if parsed.get_backend_name() == "sqlite" else Postgresql(parsed)


class greatest(ReturnTypeFromArgs[Any]):  # noqa: N801 - named as the SQL function
    """The largest of its arguments."""

    inherit_cache = True


@compiles(greatest, "sqlite")
def _greatest_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    return f"max({compiler.process(element.clauses, **kw)})"


class whole_seconds(FunctionElement[int]):  # noqa: N801 - named as a SQL function
    """From the second of its arguments to the first, rounded down; both are times."""

    type = Integer()
    inherit_cache = True


@compiles(whole_seconds)
def _whole_seconds(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    until, since = (compiler.process(each, **kw) for each in element.clauses)
    return f"CAST(floor(extract(epoch FROM {until} - {since})) AS INTEGER)"


@compiles(whole_seconds, "sqlite")
def _whole_seconds_in_sqlite(
    element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any
) -> str:
    until, since = (compiler.process(each, **kw) for each in element.clauses)
    # A day is told to some 50 microseconds only.
    return f"CAST(round((julianday({until}) - julianday({since})) * 86400, 3) AS INTEGER)"


class moved_by(FunctionElement[Any]):  # noqa: N801 - as SQL functions are called
    """A time moved by whole seconds; None stays None."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, column: ColumnElement[datetime], by_s: int) -> None:
        super().__init__(column, literal(by_s, Integer()))


@compiles(moved_by)
def _moved_by(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    time, by_s = (compiler.process(each, **kw) for each in element.clauses)
    return f"({time} + make_interval(secs => {by_s}))"


@compiles(moved_by, "sqlite")
def _moved_by_in_sqlite(element: FunctionElement[Any], compiler: SQLCompiler, **kw: Any) -> str:
    time, by_s = (compiler.process(each, **kw) for each in element.clauses)
    # What SQLite computes has milliseconds at most: the fraction is kept as it is.
    whole = f"strftime('%Y-%m-%d %H:%M:%S', substr({time}, 1, 19), {by_s} || ' seconds')"
    return f"({whole} || substr({time}, 20))"


_PRAGMAS: Final = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
"""


class Sqlite:
    """A file: WAL with full durability, one process.

    One connection does all writing and checkpointing, for releases 3.7.0 to 3.51.2 have a race
    that can lose commits with more than one (sqlite.org, news of release 3.51.3); the readers are
    query-only.
    """

    shared = False

    def __init__(self, url: URL) -> None:
        self._url = url
        self.name = url.database or ""
        self._path = Path(self.name)
        self._files: dict[str, os.stat_result] = {}
        self.writers = self._engine()
        self.readers = self._engine(query_only=True)

        @event.listens_for(self.readers.sync_engine, "handle_error")
        def connect_anew(context: ExceptionContext) -> None:
            # Else one that found another file in the place goes on to read that.
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    def upgrader(self) -> AsyncEngine:
        return self._engine()

    def _engine(self, *, query_only: bool = False) -> AsyncEngine:
        engine = create_async_engine(
            self._url,
            **_pool(READERS if query_only else 1),
            connect_args={"timeout": BUSY_TIMEOUT_S},
        )

        pragmas = _PRAGMAS + ("PRAGMA query_only = ON;" if query_only else "")

        @event.listens_for(engine.sync_engine, "connect")
        def on_connect(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
            # Else the driver begins transactions by itself, DEFERRED, and a read that turns into
            # a write loses updates.
            connection.isolation_level = None
            connection.run_async(lambda raw: raw.executescript(pragmas))
            if not query_only:
                # It may make a -wal anew.
                self._files.pop("-wal", None)

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN" if query_only else "BEGIN IMMEDIATE")

        return engine

    def check(self) -> None:
        """Find the files in their place, as they were when they were first seen."""
        for suffix, if_deleted in _IF_DELETED.items():
            path = self._path.with_name(self._path.name + suffix)
            try:
                found = path.stat()
                # SQLite makes the -wal as it begins to write, and keeps it until the end.
                same = os.path.samestat(found, self._files.setdefault(suffix, found))
            except FileNotFoundError:
                same = suffix not in self._files
            if not same:
                raise OSError(
                    f"{path} is not the file any more that was opened: "
                    f"move that back before the daemon ends; if it was deleted, {if_deleted}"
                )

    def why_unavailable(self, error: Exception) -> str | None:
        match error:
            case OSError():
                return str(error)
            case DatabaseError(orig=orig) if (
                type(error) in (OperationalError, DatabaseError)
                # A statement that SQLite does not understand.
                and getattr(orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
            ):
                return str(orig)
            case _:
                return None

    def is_conflict(self, _error: Exception) -> bool:
        return False

    def may_retry(self, _error: Exception) -> bool:
        return False

    def advice(self, error: DBAPIError | OSError) -> str:
        if isinstance(error, OSError):
            return _DAMAGED
        # The lowest byte is the kind of error, the others tell more of it.
        kind = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return _SQLITE_ADVICE.get(
            kind, "give the path of a database of this program, or of a file that it may create"
        )

    async def clock(self, _connection: AsyncConnection) -> None:
        return None

    async def order_commits(self, _connection: AsyncConnection) -> None:
        """BEGIN IMMEDIATE has done it."""

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        # BEGIN IMMEDIATE keeps the others off.  What is damaged would be met some day, or never.
        found = (await connection.execute(text("PRAGMA quick_check(1)"))).scalar_one()
        if found != "ok":
            raise OSError(f"it is damaged: {found}")

    async def notify(self, _connection: AsyncConnection, _notice: str) -> None:
        """There is one replica, which knows."""

    async def listen(self, _on_notice: Callable[[str], None], _heard: Callable[[], None]) -> None:
        await asyncio.Event().wait()


_DISK: Final = "see whether its disk is full or failing"
_DAMAGED: Final = "restore a backup, or save what can be read with the sqlite3 shell's .recover"
_SQLITE_ADVICE: Final = {
    sqlite3.SQLITE_BUSY: "another process holds its write lock: end that one, and start again",
    sqlite3.SQLITE_FULL: _DISK,
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
}
_IF_DELETED: Final = {
    "": "restart it on a backup",
    "-wal": "end it with SIGTERM, which saves what it holds, and start it again",
}


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Where nothing answers, is waited for once only."""

    _silent = False

    async def fetchrow(self, *args: Any, **more: Any) -> Any:
        """The question of the pool's pre-ping, which is asked in a transaction."""
        try:
            return await super().fetchrow(*args, **more)
        except TimeoutError:
            self._silent = True
            raise

    async def execute(self, *args: Any, **more: Any) -> Any:
        """Raise TimeoutError at once where that question has found no answer.

        The pre-ping then rolls back all the same, and the driver would wait as long once more: for
        the server to have cancelled the question.  All other writes wait behind that.
        """
        if self._silent:
            raise TimeoutError
        return await super().execute(*args, **more)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Take a moment, no more: the driver aborts it then."""
        with suppress(TimeoutError):
            await super().close(timeout=min(timeout or CLOSING_S, CLOSING_S))


class Postgresql:
    """A server that any number of replicas share, also behind a transaction-mode pooler.

    So nothing outlives a transaction: prepared statements have no name, and timeouts are set by
    each transaction for itself.
    """

    shared = True

    def __init__(self, url: URL) -> None:
        self._url = url
        self.name = url.render_as_string()
        self.writers = self._limited(1)
        self.readers = self._limited(READERS).execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )

    def upgrader(self) -> AsyncEngine:
        return self._engine(1, dict.fromkeys(_LIMITS_S, 0.0))

    def _limited(self, connections: int) -> AsyncEngine:
        return self._engine(connections, _LIMITS_S, command_timeout=STATEMENT_TIMEOUT_S)

    def _engine(
        self, connections: int, limits_s: Mapping[str, float], **connect: object
    ) -> AsyncEngine:
        engine = create_async_engine(
            self._url,
            **_pool(connections),
            # A connection that the server has closed is replaced before anything depends on it.
            pool_pre_ping=True,
            connect_args={
                "connection_class": _Connection,
                "timeout": CONNECT_TIMEOUT_S,
                "server_settings": {"application_name": _APPLICATION},
                "statement_cache_size": 0,
                "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": lambda: "",
                **connect,
            },
        )
        limits = select(
            *(func.set_config(name, f"{int(s * 1000)}ms", True) for name, s in limits_s.items())
        )

        @event.listens_for(engine.sync_engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.execute(limits)

        @event.listens_for(engine.sync_engine, "handle_error")
        def give_up(context: ExceptionContext) -> None:
            # Else one that does not answer is asked to roll back, and waited for once more; and
            # one that the server is closing is used again.
            lost = (TimeoutError, asyncpg.InternalClientError)
            error = context.original_exception
            if isinstance(error, lost) or isinstance(error.__cause__, lost):
                context.is_disconnect = True

        return engine

    def check(self) -> None:
        """A connection has one server for as long as it lives."""

    def why_unavailable(self, error: Exception) -> str | None:
        match error:
            case DBAPIError() if _sqlstate(error)[:2] in _OF_THE_STATEMENT:
                return None
            case InterfaceError() if not error.connection_invalidated:
                return None
            case DBAPIError(orig=orig):
                return str(orig).rpartition(">: ")[2]
            case TimeoutError():
                return "it does not answer"
            case OSError():
                return str(error)
            case _:
                return None

    def is_conflict(self, error: Exception) -> bool:
        return isinstance(error, DBAPIError) and _sqlstate(error) in _CONFLICTS

    def may_retry(self, error: Exception) -> bool:
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        return lost or self.is_conflict(error)

    def advice(self, error: DBAPIError | OSError) -> str:
        state = _sqlstate(error) if isinstance(error, DBAPIError) else ""
        return _POSTGRESQL_ADVICE.get(state, "see whether the server runs and can be reached")

    async def clock(self, connection: AsyncConnection) -> datetime:
        now: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
        return now

    async def order_commits(self, connection: AsyncConnection) -> None:
        await connection.execute(select(func.pg_advisory_xact_lock(_COMMITS)))

    async def before_upgrade(self, connection: AsyncConnection) -> None:
        await connection.execute(select(func.pg_advisory_xact_lock(_UPGRADES)))

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
                while not lost.is_set():
                    # It also shows that there is a connection: a network that swallows everything
                    # closes none.
                    for row in await raw.fetch(
                        _END_STALLED, _APPLICATION, IDLE_TIMEOUT_S, timeout=STATEMENT_TIMEOUT_S
                    ):
                        log.warning("ended session %d, whose client stood still", row["pid"])
                    with suppress(TimeoutError):
                        async with asyncio.timeout(STALLED_CHECK_S):
                            await lost.wait()
        finally:
            await engine.dispose()


CHANNEL: Final = "orchestrator"
_APPLICATION: Final = "orchestrator"
_COMMITS, _UPGRADES = 0x7465726D01, 0x7465726D02
"""Keys of advisory locks, which all users of a database share: "term" and a number."""
_LIMITS_S: Final = {
    "statement_timeout": STATEMENT_TIMEOUT_S,
    "lock_timeout": LOCK_TIMEOUT_S,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT_S,
}
# The driver has a statement parsed, and binds it once the answer is there.  Of a client that is
# paused in between, the server waits for the rest of the statement for ever: no limit of its own
# applies (seen with 15.18: cancels are held back, and the transaction does not count as idle).
_END_STALLED: Final = """
WITH stalled AS MATERIALIZED (
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND usename = current_user AND application_name = $1
AND state = 'active' AND wait_event = 'ClientRead'
AND query_start < clock_timestamp() - make_interval(secs => $2)
)
SELECT pid FROM stalled WHERE pg_terminate_backend(pid)
"""
_OF_THE_STATEMENT: Final = ("0A", "21", "22", "23", "42")
"""Classes of SQLSTATE that tell of one statement: PostgreSQL's manual, appendix A."""
_CONFLICTS: Final = (
    "40001",  # another transaction came first
    "40P01",  # each of two waited for the other
    "23505",  # another replica stored the same meanwhile, and can be seen now
)
_POSTGRESQL_ADVICE: Final = {
    "25006": "name the primary server in the URL, not a standby",
    "28000": "see the user of the URL, and what the server's pg_hba.conf lets in",
    "28P01": "see the user and the password of the URL",
    "3D000": "create that database, or name another one in the URL",
    "42501": "let the user create tables in it",
    "53300": "let the server have more connections, or other clients fewer",
}


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _pool(connections: int) -> dict[str, Any]:
    # Readers wait in Database.read: on Python 3.11 and SQLAlchemy 2.0.46 the pool's own queue
    # swallows a cancellation now and then.  The last one used has most statements prepared.
    overflow = 0 if connections == 1 else -1
    return {"pool_size": connections, "max_overflow": overflow, "pool_use_lifo": True}
