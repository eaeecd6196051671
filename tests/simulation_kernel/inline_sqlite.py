"""aiosqlite without threads: a call is done at once, and its answer arrives some turns later."""

from __future__ import annotations

import sqlite3
from collections import defaultdict, deque
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import aiosqlite.core

from tests.simulation_kernel.loop import REPLICA

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from tests.simulation_kernel.loop import SimulatedLoop

    Call = tuple[asyncio.Future[Any] | None, Callable[[], Any]]


AT_ONCE = ("cursor", "close", "fetchall", "rollback")
"""Statements that change nothing others can read, and would only take turns."""


class InlineSqlite:
    """Connections of a simulation; leaving its ``with`` block closes the loop, too.

    A call takes no virtual time.  Where SQLite would wait for a lock, for as long as the timeout
    given at connect, the call waits in virtual time until a transaction ends.  SQLite's own lock
    decides, so no second lock can be left behind; the seed decides which waiting call is next.  A
    transaction that began with a read waits for no lock, as in SQLite.

    A kill closes the connections of the replica, which rolls back.  ``drop`` does that to a paused
    replica, as a server does to a session that idles in a transaction.
    """

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self._connections: defaultdict[str | None, list[_Connection]] = defaultdict(list)
        self._waiting: list[_Connection] = []
        self._patch = mock.patch.object(aiosqlite.core, "Connection", self._connection)

    def __enter__(self) -> Self:
        self._patch.start()
        self.loop.on_kill.append(self.drop)
        return self

    def __exit__(self, *_: object) -> None:
        # First, so that ``finally`` blocks that run late do not meet the real aiosqlite.
        self.loop.close()
        self._patch.stop()
        for connections in self._connections.values():
            for connection in connections:
                connection.drop()

    def connections_of(self, replica: str | None) -> list[sqlite3.Connection]:
        """Open connections."""
        mine = self._connections[replica]
        return [each.raw for each in mine if each.raw is not None and _is_open(each.raw)]

    def drop(self, replica: str | None) -> None:
        """Roll back and close its connections: the next call on any raises OperationalError."""
        for connection in self._connections.pop(replica, ()):
            connection.drop()
        self.wake()

    def wait(self, connection: _Connection) -> None:
        self._waiting.append(connection)

    def wake(self) -> None:
        """Retry the calls that wait, each in its own replica: a paused one delays no other."""
        waiting, self._waiting = self._waiting, []
        for connection in waiting:
            self.loop.call_soon(connection.work, context=connection.context)

    def _connection(
        self, connector: Callable[[], sqlite3.Connection], iter_chunk_size: int
    ) -> _Connection:
        connection = _Connection(self, connector, iter_chunk_size)
        self._connections[REPLICA.get()].append(connection)
        return connection


class _Connection(aiosqlite.core.Connection):
    """A connection whose calls are done where its thread would have received them."""

    def __init__(
        self,
        sqlite: InlineSqlite,
        connector: Callable[[], sqlite3.Connection],
        iter_chunk_size: int,
    ) -> None:
        super().__init__(partial(self._open, connector), iter_chunk_size)
        self._thread: Any = SimpleNamespace(start=lambda: None)
        self._tx: Any = SimpleNamespace(put_nowait=self._put)
        self._sqlite = sqlite
        self._replica = REPLICA.get()
        self.context = copy_context()
        self.raw: sqlite3.Connection | None = None
        self._calls: deque[Call] = deque()
        self._dropped = False
        self._changes = 0
        """``total_changes`` of ``raw`` when its last transaction ended."""
        self._timeout_s = 0.0
        self._gives_up: asyncio.TimerHandle | None = None
        """Whether the first of the calls waits for a lock."""

    def __del__(self) -> None:
        """Do not warn about being left open: a killed replica closes nothing."""

    @property
    def in_transaction(self) -> bool:
        # The end of a transaction that was rolled back by a drop has to fail.
        return self._dropped or super().in_transaction

    def _open(self, connector: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
        self.raw = connector()
        ((timeout_ms,),) = self.raw.execute("PRAGMA busy_timeout")
        self._timeout_s = timeout_ms / 1000
        self.raw.execute("PRAGMA busy_timeout = 0")
        return self.raw

    def drop(self) -> None:
        self._dropped = True
        if self.raw is not None:
            if not self._is_idle():
                # A close alone keeps the lock for as long as any cursor is open.
                self.raw.rollback()
            self.raw.close()

    def _put(self, call: Call) -> None:
        self._calls.append(call)
        self.work()

    def work(self) -> None:
        """Do the calls in their order, up to one that has to wait."""
        # A killed replica makes no call and gets no answer.
        while self._calls and self._sqlite.loop.is_alive(self._replica):
            future, function = self._calls[0]
            idle = self._is_idle()
            result: Any = None
            error: Exception | None = None
            try:
                result = function()
            except Exception as raised:  # noqa: BLE001 - raised where the call is awaited
                error = raised
            if _is_busy(error) and self._waits(idle=idle):
                self._sqlite.wait(self)
                return
            self._calls.popleft()
            if self._gives_up is not None:
                self._gives_up.cancel()
                self._gives_up = None
            if self._dropped and isinstance(error, sqlite3.ProgrammingError):
                error = _lost(function)
            if future is not None:
                self._answer(future, function, result, error)
            if self._is_idle() and not idle:
                self._sqlite.wake()

    def _waits(self, *, idle: bool) -> bool:
        """Return whether a call that has just met a lock waits, or continues to."""
        loop = self._sqlite.loop
        if self._gives_up is None:
            if not idle or self._timeout_s == 0:
                return False
            self._gives_up = loop.call_later(self._timeout_s, self.work)
        return loop.time() < self._gives_up.when()

    def _answer(
        self,
        future: asyncio.Future[Any],
        function: Callable[[], Any],
        result: Any,
        error: Exception | None,
    ) -> None:
        # In a later turn, so that a replica can be stopped between a call and its answer.
        if error is None and self._is_unseen(function):
            future.set_result(result)
        elif error is None:
            self._sqlite.loop.call_soon(aiosqlite.core.set_result, future, result)
        else:
            self._sqlite.loop.call_soon(aiosqlite.core.set_exception, future, error)

    def _is_unseen(self, function: Callable[[], Any]) -> bool:
        """Return whether it changed nothing that others can read."""
        name = _name(function)
        if name == "commit" and self.raw is not None:
            before, self._changes = self._changes, self.raw.total_changes
            return before == self._changes
        return name in AT_ONCE or (name == "execute" and _sql(function) == "BEGIN")

    def _is_idle(self) -> bool:
        """Return whether it is in no transaction."""
        return self.raw is None or not _is_open(self.raw) or not self.raw.in_transaction


def _is_open(raw: sqlite3.Connection) -> bool:
    try:
        return raw.in_transaction is not None
    except sqlite3.ProgrammingError:
        return False


def _name(function: Callable[[], Any]) -> str:
    return function.func.__name__ if isinstance(function, partial) else ""


def _sql(function: Callable[[], Any]) -> str:
    args = function.args if isinstance(function, partial) else ()
    return next((each for each in args if isinstance(each, str)), "")


def _lost(function: Callable[[], Any]) -> Exception | None:
    """Return the error of a call on a dropped connection; None: no error, it closes a cursor."""
    if _name(function) == "close":
        return None
    # The words by which SQLAlchemy recognises a lost connection.
    return sqlite3.OperationalError("connection closed by the other side")


def _is_busy(error: Exception | None) -> bool:
    # Not SQLITE_BUSY_SNAPSHOT, for which waiting does not help.
    return isinstance(error, sqlite3.OperationalError) and (
        getattr(error, "sqlite_errorname", None) == "SQLITE_BUSY"
    )
