"""The daemon: wait for the database, then serve the REST API and run the engine until stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from random import SystemRandom
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from orchestrator.access import opened_transports
from orchestrator.api.connections import Connections, connections_max
from orchestrator.api.protocol import protocols
from orchestrator.api.routes import application
from orchestrator.composition import Environment, replica
from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.engine.replica.lease_manager import running
from orchestrator.settings import routes
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.database.process_lock import only_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractContextManager
    from random import Random

    from orchestrator.api.routes import Context
    from orchestrator.composition import Replica
    from orchestrator.settings import Settings

KEEPALIVE_S = 30.0
BACKLOG_MAX = 100
"""Most connections in the listen backlog: waiting to be accepted by the API."""
DATABASE_RETRY_S = 2.0
"""Interval of the attempts to use the database at the start."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class SystemClock:
    """The clocks of the operating system."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # Leases need a clock that also counts the time during which the machine was suspended.
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A daemon with an open database that does not serve and has sent nothing to the cloud yet."""

    settings: Settings
    database: Database
    replica: Replica
    random: Random


async def run(
    settings: Settings,
    reread: Callable[[], Settings],
    stop_signal: Callable[[], AbstractContextManager[asyncio.Event]],
) -> None:
    """Start the daemon, and run it until the event of ``stop_signal`` is set.

    ``stop_signal`` is entered once the daemon is prepared: before that, a signal may end the
    process at once.
    """
    with ExitStack() as signals:
        async with prepared(settings, reread) as parts:
            stop = signals.enter_context(stop_signal())
            async with serving(parts):
                await stop.wait()


@asynccontextmanager
async def prepared(
    settings: Settings, reread: Callable[[], Settings] | None = None
) -> AsyncIterator[Prepared]:
    """Wait for the database and upgrade it; the process may be ended meanwhile without harm.

    ``reread`` returns the settings as they are now, so that a key corrected in the configuration
    is used without a restart.
    """
    clock, random, url = SystemClock(), SystemRandom(), settings.database.url
    async with AsyncExitStack() as stack:
        stack.enter_context(only_process(url))
        transports = opened_transports(settings, stack)
        for account, lines in routes(settings, os.environ).items():
            for line in lines:
                log.info("account %s calls %s", account, line)
        log.info("database %s", await _with_database(lambda: upgrade(url)))
        database = await stack.enter_async_context(Database(url, clock.now, random))
        name = f"{socket.gethostname()}-{os.getpid()}"
        env = Environment(settings, database, transports, clock, random, reread)
        made = await _with_database(lambda: replica(name, env))
        yield Prepared(settings, database, made, random)


async def _with_database(work: Callable[[], Awaitable[T]]) -> T:
    """Return the result of ``work``; repeat it while it raises StoreUnavailable."""
    began, reason = time.monotonic(), ""
    while True:
        try:
            result = await work()
        except StoreUnavailable as error:
            if str(error) != reason:
                reason = str(error)
                log.error("the daemon waits for the database: %s", reason)  # noqa: TRY400
            await asyncio.sleep(DATABASE_RETRY_S)
        else:
            if reason:
                waited_s = time.monotonic() - began
                log.warning("the database is available: the daemon waited %.0f s", waited_s)
            return result


@asynccontextmanager
async def serving(parts: Prepared) -> AsyncIterator[str]:
    """Serve the API and run the engine; yields the URL of the API.

    Leaving the context stops both within ten seconds.
    """
    async with AsyncExitStack() as stack:
        url = await _listen(parts.settings, stack, parts.replica.context)
        leases = parts.replica.leases
        await stack.enter_async_context(running(leases, parts.random))
        await stack.enter_async_context(parts.database.listening(leases.on_notification))
        log.info("serving %s", url)
        yield url
        log.info("stopping")


async def _listen(settings: Settings, stack: AsyncExitStack, context: Context) -> str:
    runner = web.AppRunner(application(context), shutdown_timeout=1.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    connections = Connections(connections_max())
    new_protocol = protocols(
        runner, connections, access_log=None, auto_decompress=False, keepalive_timeout=KEEPALIVE_S
    )
    host, port = settings.server.host, settings.server.port
    try:
        listener = await asyncio.get_running_loop().create_server(
            new_protocol, host, port, backlog=max(1, min(BACKLOG_MAX, connections.most // 4))
        )
    except OSError as error:
        raise ConfigurationError([f"server: cannot listen on {host}:{port}: {error}"]) from error
    stack.callback(listener.close)
    host, port = listener.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
