"""The daemon, put together: the one place that knows the concrete classes."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from aiohttp import web

from orchestrator.api.protocol import protocols
from orchestrator.api.routes import Context, application
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.domain.attempts import TERMINATE_JOB
from orchestrator.domain.errors import ConfigurationError
from orchestrator.engine.partition import Partition
from orchestrator.engine.running import PartitionLoops, running
from orchestrator.engine.watched import Watched
from orchestrator.services.submission import AccountOffer, Submission
from orchestrator.store.database import Database
from orchestrator.store.lock import only_process
from orchestrator.store.migrate import upgrade
from orchestrator.store.records import StoredRecords
from orchestrator.store.working_set import WorkingSet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orchestrator.settings import Settings

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
        await stack.enter_async_context(running(loops.values()))
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
        quotas={n: each.partition.pacers[TERMINATE_JOB].quota for n, each in loops.items()},
        tokens={token.name: token.sha256 for token in settings.auth.tokens},
        now=clock.now,
        watched=watched.note,
        ready=ready,
    )


async def _listen(settings: Settings, stack: AsyncExitStack, context: Context) -> str:
    runner = web.AppRunner(application(context), shutdown_timeout=1.5)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    made = protocols(runner, access_log=None, auto_decompress=False, keepalive_timeout=KEEPALIVE_S)
    host, port = settings.server.host, settings.server.port
    try:
        listener = await asyncio.get_running_loop().create_server(made, host, port)
    except OSError as error:
        raise ConfigurationError([f"server: cannot listen on {host}:{port}: {error}"]) from error
    stack.callback(listener.close)
    host, port = listener.sockets[0].getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
