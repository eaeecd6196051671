"""The daemon, put together: the one place that knows the concrete classes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from orchestrator.api.routes import Context, application
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.attempts import TERMINATE_JOB
from orchestrator.domain.errors import ConfigurationError
from orchestrator.engine.dispatcher import Dispatcher
from orchestrator.engine.loop import run_forever
from orchestrator.engine.partition import Partition
from orchestrator.engine.prober import Prober
from orchestrator.engine.sweeper import Sweeper
from orchestrator.engine.watched import Watched
from orchestrator.services.submission import AccountOffer, Submission
from orchestrator.store.database import Database
from orchestrator.store.lock import only_process
from orchestrator.store.migrate import upgrade
from orchestrator.store.records import StoredRecords
from orchestrator.store.working_set import WorkingSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from orchestrator.settings import Settings

DRAIN_S = 7.0
"""Time that calls under way have to end at a stop; what is left is read first at the next start."""
KEEPALIVE_S = 30.0

log = logging.getLogger(__name__)


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(slots=True)
class PartitionLoops:
    """The loops of one partition, each waking the others when it changed something."""

    partition: Partition
    dispatcher: Dispatcher = field(init=False)
    sweeper: Sweeper = field(init=False)
    prober: Prober = field(init=False)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.partition, on_change=self.wake)
        self.sweeper = Sweeper(self.partition, on_change=self.wake)
        self.prober = Prober(self.partition, on_change=self.wake)

    def wake(self) -> None:
        for loop in (self.dispatcher, self.sweeper, self.prober):
            loop.wake.set()

    async def run(self) -> None:
        """Run the loops until cancelled; then no call starts any more, those under way may end."""
        partition = self.partition
        loops = (self.dispatcher, self.sweeper, self.prober)
        try:
            await asyncio.gather(
                *(run_forever(loop, partition.clock, partition.random) for loop in loops)
            )
        finally:
            ended = await asyncio.gather(self.dispatcher.end(DRAIN_S), self.prober.end(DRAIN_S))
            if not all(ended):
                log.warning("calls of %s were cut off; their jobs are read first", partition.name)


@asynccontextmanager
async def _running(loops: Iterable[PartitionLoops]) -> AsyncIterator[None]:
    """Run every partition's loops; one that dies takes the daemon with it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run(), name=each.partition.name) for each in loops]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@dataclass(frozen=True, slots=True)
class Daemon:
    """A running daemon: where it answers."""

    url: str


@asynccontextmanager
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    """Run the daemon; leaving the context stops it, within ten seconds."""
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stack.enter_context(only_process(settings.database.url))
        revision = await upgrade(settings.database.url)
        log.info("database %s is at schema revision %s", settings.database.url, revision)
        database = await stack.enter_async_context(Database(settings.database.url))
        watched = Watched(clock)
        loops = await _partitions(settings, stack, WorkingSet(database), watched, clock)
        context = _context(settings, StoredRecords(database, clock.now), loops, watched, clock)
        url = await _listen(settings, stack, context)
        await stack.enter_async_context(_running(loops.values()))
        log.info("serving %s, %d partitions", url, len(loops))
        yield Daemon(url)
        log.info("stopping")


async def _partitions(
    settings: Settings,
    stack: AsyncExitStack,
    store: WorkingSet,
    watched: Watched,
    clock: SystemClock,
) -> dict[str, PartitionLoops]:
    """The loops of every partition that the configuration names, one cloud per account."""
    loops: dict[str, PartitionLoops] = {}
    for name, account in settings.accounts.items():
        transport = AiohttpTransport(
            connect_timeout_s=settings.engine.call_timeout_s / 2,
            total_timeout_s=settings.engine.call_timeout_s,
        )
        stack.push_async_callback(transport.close)
        cloud = TencentBatch(
            endpoint=account.endpoint,
            credentials=build_provider(
                account.credentials.provider, account.credentials.options(), clock
            ),
            clock=clock,
            transport=transport,
        )
        for region, partition_name in account.partitions(name).items():
            await store.adopt(account=name, region=region, partition=partition_name)
            if partition_name in loops:
                continue
            loops[partition_name] = PartitionLoops(
                Partition(
                    name=partition_name,
                    cloud=cloud,
                    store=store,
                    clock=clock,
                    random=random.SystemRandom(),
                    quotas=account.quotas.model_dump(),
                    watched=watched,
                    poll=settings.engine.poll.policy(),
                )
            )
    return loops


def _context(
    settings: Settings,
    records: StoredRecords,
    loops: Mapping[str, PartitionLoops],
    watched: Watched,
    clock: SystemClock,
) -> Context:
    submission = Submission(
        records=records,
        accounts={
            name: AccountOffer(
                partitions=account.partitions(name), default_region=account.default_region
            )
            for name, account in settings.accounts.items()
        },
        default_settle_s=settings.engine.settle_s,
        default_give_up_after_s=settings.engine.give_up_after_s,
        now=clock.now,
        random=random.SystemRandom(),
        on_accepted=lambda partition: loops[partition].wake(),
    )

    async def ready() -> dict[str, object]:
        await records.ping()
        troubles = {
            name: each.partition.trouble.code
            for name, each in loops.items()
            if each.partition.trouble is not None
        }
        return {"status": "degraded" if troubles else "ready", "troubles": troubles}

    return Context(
        records=records,
        submission=submission,
        calls_per_s={name: each.partition.quotas[TERMINATE_JOB] for name, each in loops.items()},
        tokens={token.name: token.sha256 for token in settings.auth.tokens},
        now=clock.now,
        watched=watched.note,
        ready=ready,
    )


async def _listen(settings: Settings, stack: AsyncExitStack, context: Context) -> str:
    runner = web.AppRunner(
        application(context), access_log=None, keepalive_timeout=KEEPALIVE_S, shutdown_timeout=2.0
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, settings.server.host, settings.server.port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigurationError(
            [f"server: cannot listen on {settings.server.host}:{settings.server.port}: {error}"]
        ) from error
    host, port = runner.addresses[0][:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
