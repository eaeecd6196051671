"""Connections to PostgreSQL: opening, closing, and detecting that one is lost."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import asyncpg

from orchestrator.store.database.passfile import password_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.store.database.postgresql_url import Host, PostgresqlUrl

CLOSING_S = 0.2
"""Time to close a connection to PostgreSQL properly; the driver itself sets no limit."""
READ_ONLY: Final = "25006"
"""SQLSTATE of a server that became a standby, or read-only: another server is the primary now."""


class Connection(asyncpg.Connection):  # type: ignore[misc]
    """Connection that does not wait a second time after a timed-out pre-ping."""

    _silent = False

    async def fetchrow(self, *args: Any, **more: Any) -> Any:
        """Fetch a row; the pre-ping of the pool does so, in a transaction."""
        try:
            return await super().fetchrow(*args, **more)
        except TimeoutError:
            self._silent = True
            raise

    async def execute(self, *args: Any, **more: Any) -> Any:
        """Execute a statement; raises TimeoutError at once if the pre-ping had no answer.

        The pre-ping then rolls back anyway, and the driver would wait as long again for the server
        to cancel the query. All other writes wait behind that.
        """
        if self._silent:
            raise TimeoutError
        return await super().execute(*args, **more)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Close within ``CLOSING_S``: after that the driver aborts the connection."""
        with suppress(TimeoutError):
            await super().close(timeout=min(timeout or CLOSING_S, CLOSING_S))


class Connector:
    """Opens connections to the first of the hosts that can be used."""

    def __init__(self, url: PostgresqlUrl) -> None:
        self._url = url
        self._hosts: list[Host | None] = [*url.hosts] or [None]

    async def connect(self, **options: Any) -> Any:
        """Connect to the first host that can be used, beginning with the one used last.

        Each host has the whole timeout: in the driver's own loop over hosts, one host that does not
        answer uses up the time of all.
        """
        failed = []
        for host in [*self._hosts]:
            try:
                connection = await self._connect_to(host, options)
            except _NEXT_HOST as error:
                standby = isinstance(error, asyncpg.TargetServerAttributeNotMatched)
                if len(self._hosts) == 1 and not standby:
                    raise
                failed.append(f"{host} {_why_not(error)}")
            else:
                self._hosts.remove(host)
                self._hosts.insert(0, host)
                return connection
        # With several hosts, another one may be promoted; a single standby is the wrong host.
        raise (OSError if len(self._hosts) > 1 else ConnectionError)("; ".join(failed))

    async def _connect_to(self, host: Host | None, options: Mapping[str, Any]) -> Any:
        url = self._url
        name = host.name if host else os.environ.get("PGHOST") or _SOCKET
        port = host.port if host else None

        def password() -> str | None:
            return url.password or password_for(name, port, url.database, url.user)

        try:
            return await asyncpg.connect(
                f"postgresql:///?{urlencode(url.tls)}" if url.tls else None,
                host=host and host.name,
                port=port,
                user=url.user,
                password=password,
                database=url.database,
                target_session_attrs=url.target,
                **options,
            )
        except ConnectionError as error:
            if str(error) in _HUNG_UP:
                raise ConnectionResetError("it closes connections as they are made") from error
            raise


_SOCKET: Final = "/"
"""First character of a host that is a socket, as the default host is."""
_HUNG_UP: Final = ("", "unexpected connection_lost() call")
"""Messages of the driver if a server closes the connection while TLS is negotiated."""
_SHUT_DOWN: Final = "57P"
"""Prefix of the SQLSTATEs of a server that shuts down, crashed, starts, or ended a session."""
_NEXT_HOST: Final = (
    OSError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)


def _why_not(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "does not answer"
        case asyncpg.TargetServerAttributeNotMatched():
            return "accepts no writes"
        case _:
            return f"cannot be used: {error}"


def ends_session(error: BaseException) -> bool:
    """Return whether an error leaves a session that must not be used again."""
    # A session that does not answer would be asked to roll back, with another wait. A session that
    # the server is closing would be used again.
    return lost_midway(error) or any(
        isinstance(each, TimeoutError)
        or (getattr(each, "sqlstate", None) or "").startswith((READ_ONLY, _SHUT_DOWN))
        for each in (error, error.__cause__)
    )


def lost_midway(error: BaseException) -> bool:
    """Return whether the session ended between two messages of a statement.

    asyncpg then raises an error about the states of its protocol.
    """
    return any(isinstance(each, asyncpg.InternalClientError) for each in (error, error.__cause__))
