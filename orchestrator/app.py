"""Composition of the daemon: the only module that knows the concrete classes of all layers."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import SystemRandom
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web

from orchestrator.access import credentials_of, opened_transports
from orchestrator.api.connections import Connections, connections_max
from orchestrator.api.protocol import protocols
from orchestrator.api.routes import Context, application
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.domain.errors import ConfigurationError, StoreUnavailable
from orchestrator.domain.ids import new_id
from orchestrator.domain.pacing.quota import Rate
from orchestrator.engine.partition import Partition
from orchestrator.engine.replica.lease_manager import LeaseManager, running
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.engine.runtime.rate_limiter import before_send
from orchestrator.engine.runtime.recent_readers import RecentReaders
from orchestrator.engine.runtime.shared_clock import SharedClock
from orchestrator.observability.loop_steps import LoopSteps
from orchestrator.observability.metrics import Metrics
from orchestrator.services.certification import Certification
from orchestrator.services.inspection import Inspection
from orchestrator.services.storage_check import StorageCheck
from orchestrator.services.submission import AccountRoutes, Submission
from orchestrator.settings import routes
from orchestrator.store.database.database import Database
from orchestrator.store.database.migrations import upgrade
from orchestrator.store.database.process_lock import only_process
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.operation_history import SqlHistories
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.records.unconfigured import StoredUnconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from random import Random

    from orchestrator.cloud.credentials import CredentialProvider
    from orchestrator.cloud.transport import Transport
    from orchestrator.engine.lease import Lease
    from orchestrator.engine.ports import Clock
    from orchestrator.settings import Account, Settings

KEEPALIVE_S = 30.0
SET_ASIDE_SHOWN = 10
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
class Daemon:
    """A running daemon; ``url`` is the address of its REST API."""

    url: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A daemon with an open database that does not serve and has sent nothing to the cloud yet."""

    settings: Settings
    database: Database
    replica: Replica
    random: Random


@asynccontextmanager
async def daemon(
    settings: Settings, reread: Callable[[], Settings] | None = None
) -> AsyncIterator[Daemon]:
    """Run the daemon; leaving the context stops it within ten seconds."""
    async with prepared(settings, reread) as parts, serving(parts) as running_daemon:
        yield running_daemon


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
async def serving(parts: Prepared) -> AsyncIterator[Daemon]:
    """Serve the API and run the engine until the context is left."""
    async with AsyncExitStack() as stack:
        url = await _listen(parts.settings, stack, parts.replica.context)
        leases = parts.replica.leases
        await stack.enter_async_context(running(leases, parts.random))
        await stack.enter_async_context(parts.database.listening(leases.on_notification))
        log.info("serving %s", url)
        yield Daemon(url)
        log.info("stopping")


@dataclass(frozen=True, slots=True)
class Environment:
    """Dependencies of a replica; the only source of time and random numbers."""

    settings: Settings
    database: Database
    transports: Mapping[str, Transport]
    """By account."""
    clock: Clock
    random: Random
    reread: Callable[[], Settings] | None = None


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica without its network listener: the API's context, and the leases of its engine."""

    context: Context
    leases: LeaseManager


async def replica(name: str, env: Environment) -> Replica:
    """Build a replica; first reassign the terminations of regions whose endpoint host changed."""
    lease_store = SqlLeaseStore(env.database)
    for account_name, account in env.settings.accounts.items():
        for region, partition in account.partitions(account_name).items():
            await lease_store.reassign_region(
                account=account_name, region=region, partition=partition
            )
    clock = SharedClock(env.clock)
    clock.set(await lease_store.now(), read_at=clock.monotonic())
    env = replace(env, clock=clock)
    watched = RecentReaders(clock)
    calls: Counter[tuple[str, str]] = Counter()
    steps = LoopSteps()
    factories = _partition_factories(env, watched, calls)
    leases = LeaseManager(
        lease_store,
        env.settings.engine.lease.policy(),
        factories.keys(),
        make_runner=lambda lease: PartitionRunner(
            factories[lease.fence.partition](lease), on_step=steps.record
        ),
        new_id=lambda: new_id(name, env.random),
        clock=clock,
        on_step=steps.record,
    )
    context = _context(env, leases, watched, calls, steps)
    for waiting in await context.unconfigured.waiting():
        log.warning("%s", waiting.message)
    return Replica(context, leases)


def _partition_factories(
    env: Environment, watched: RecentReaders, calls: Counter[tuple[str, str]]
) -> dict[str, Callable[[Lease], Partition]]:
    """Return a factory for each configured partition, by name; an account has one credential.

    ``calls`` counts the API calls of all partitions, by action and outcome.
    """
    factories: dict[str, Callable[[Lease], Partition]] = {}
    for name, account in env.settings.accounts.items():
        transport = env.transports[name]
        credentials = credentials_of(name, env.settings, env.clock, transport, env.reread)

        def build(
            lease: Lease,
            account: Account = account,
            credentials: CredentialProvider = credentials,
            transport: Transport = transport,
        ) -> Partition:
            return Partition(
                lease=lease,
                cloud=TencentBatch(
                    endpoint=account.endpoint,
                    cvm_endpoint=account.cvm_endpoint,
                    credentials=credentials,
                    clock=env.clock,
                    transport=transport,
                    before_send=before_send,
                ),
                store=PartitionStore(env.database, lease.fence),
                clock=env.clock,
                random=env.random,
                quotas=account.quotas.model_dump(),
                watched=watched,
                poll=env.settings.engine.poll.policy(),
                capture=env.settings.engine.capture_policy(),
                escalation=env.settings.engine.escalation.policy(
                    machines=account.terminate_machines
                ),
                reterminate_max=env.settings.engine.reterminate_max,
                appears_within_s=env.settings.engine.appears_within_s,
                permitted_within_s=env.settings.engine.permitted_within_s,
                count_call=lambda action, outcome: calls.update(((action, outcome),)),
            )

        factories |= dict.fromkeys(account.partitions(name).values(), build)
    return factories


def _context(
    env: Environment,
    leases: LeaseManager,
    watched: RecentReaders,
    calls: Counter[tuple[str, str]],
    steps: LoopSteps,
) -> Context:
    settings, now = env.settings, env.clock.now
    configured_per_s = {
        partition: account.quotas.TerminateJob
        for name, account in settings.accounts.items()
        for partition in account.partitions(name).values()
    }
    records = SqlRecords(env.database, now)
    unconfigured = StoredUnconfigured(env.database, configured_per_s, now)
    submission = Submission(
        records=records,
        accounts={
            name: AccountRoutes(
                partitions=account.partitions(name), default_region=account.default_region
            )
            for name, account in settings.accounts.items()
        },
        default_settle_s=settings.engine.settle_s,
        default_give_up_after_s=settings.engine.give_up_after_s,
        revival_watch_s=settings.engine.revival_watch_s,
        now=now,
        random=env.random,
        on_accepted=leases.on_notification,
    )

    check_storage = StorageCheck(records, env.clock.monotonic)

    async def ready() -> dict[str, object]:
        await check_storage()
        leases.require_driving()
        troubles = {
            **{each.place: each.message for each in await unconfigured.waiting()},
            **leases.failing(),
            **{
                place: f"{code}, at replica {other}"
                if (other := elsewhere(place, holder))
                else code
                for place, (code, holder) in (await records.troubles()).items()
            },
        }
        count, ids = await records.set_aside(SET_ASIDE_SHOWN)
        return {
            "status": "degraded" if troubles or count else "ready",
            "troubles": troubles,
            "set_aside": {"terminations": count, "ids": ids},
        }

    def elsewhere(partition: str, holder: str | None) -> str | None:
        return None if partition in leases.running else holder

    def rate(partition: str, allowed_per_s: float | None) -> Rate | None:
        configured = configured_per_s.get(partition)
        if configured is None:
            return None
        return Rate(configured, min(allowed_per_s or configured, configured))

    return Context(
        records=records,
        unconfigured=unconfigured,
        submission=submission,
        inspection=Inspection(
            records=records,
            unconfigured=unconfigured,
            rate=rate,
            elsewhere=elsewhere,
            capture_wait_s=settings.engine.capture_policy().wait_s,
            now=now,
            best_effort=BestEffort().leaving_out,
        ),
        certification=Certification(histories=SqlHistories(env.database), now=now),
        tokens={token.name: token.sha256 for token in settings.auth.tokens},
        watched=watched.record,
        ready=ready,
        metrics=Metrics(
            violations=env.database.violations,
            calls=calls,
            ended=env.database.ended,
            steps=steps,
            live=records.live,
            now=now,
        ).exposition,
    )


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
