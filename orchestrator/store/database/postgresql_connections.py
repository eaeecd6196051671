"""Connections to PostgreSQL: how they are made, closed, and known to be lost."""

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
"""How long a connection to PostgreSQL may take to say goodbye; the driver's own has no end."""
READ_ONLY: Final = "25006"
"""The server was made a standby, or to take no writes: another one is the primary now."""


class Connection(asyncpg.Connection):  # type: ignore[misc]
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


class Connector:
    """Makes connections to whichever of the hosts can be used."""

    def __init__(self, url: PostgresqlUrl) -> None:
        self._url = url
        self._hosts: list[Host | None] = [*url.hosts] or [None]

    async def connect(self, **options: Any) -> Any:
        """Connect to the first host that can be used; the one of last time is tried before others.

        Each may take its time: of the driver's own loop over hosts, one that does not answer takes
        all that there is.
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
        # Of several hosts, another one may be promoted; one standby alone is the wrong host.
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
"""Begins the names of hosts that are sockets, as the one that none is named for."""
_HUNG_UP: Final = ("", "unexpected connection_lost() call")
"""What the driver says where a server hangs up while TLS is begun."""
_SHUT_DOWN: Final = "57P"
"""Begins the SQLSTATEs of a server that is shut down, crashed, starting, or ended a session."""
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
            return "takes no writes"
        case _:
            return f"cannot be used: {error}"


def ends_session(error: BaseException) -> bool:
    """Whether an error leaves a session that must not be used again."""
    # One that does not answer would be asked to roll back, and waited for once more; one that the
    # server is closing would be used again.
    return lost_midway(error) or any(
        isinstance(each, TimeoutError)
        or (getattr(each, "sqlstate", None) or "").startswith((READ_ONLY, _SHUT_DOWN))
        for each in (error, error.__cause__)
    )


def lost_midway(error: BaseException) -> bool:
    """Whether the driver found its session ended between two messages of a statement.

    It then tells of the states of its protocol.
    """
    return any(isinstance(each, asyncpg.InternalClientError) for each in (error, error.__cause__))
