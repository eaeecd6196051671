"""Composition of a replica: the only module that knows the concrete classes of all layers."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.access import credentials_of
from orchestrator.api.routes import Context
from orchestrator.cloud.gateway import TencentBatch
from orchestrator.domain.ids import new_id
from orchestrator.engine.lease_guard import before_send
from orchestrator.engine.partition import Partition
from orchestrator.engine.replica.lease_manager import LeaseManager
from orchestrator.engine.replica.partition_runner import PartitionRunner
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.engine.runtime.recently_viewed import RecentlyViewed
from orchestrator.engine.runtime.shared_clock import SharedClock
from orchestrator.observability.loop_steps import LoopSteps
from orchestrator.observability.metrics import Metrics
from orchestrator.services.certification import Certification
from orchestrator.services.inspection import Inspection
from orchestrator.services.partitions import Partitions
from orchestrator.services.readiness import Readiness
from orchestrator.services.storage_check import StorageCheck
from orchestrator.services.submission import AccountRoutes, Submission
from orchestrator.store.partition.lease_store import SqlLeaseStore
from orchestrator.store.partition.partition_store import PartitionStore
from orchestrator.store.records.operation_history import SqlHistories
from orchestrator.store.records.queries import SqlRecords
from orchestrator.store.records.unconfigured import StoredUnconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from orchestrator.cloud.credentials import CredentialProvider
    from orchestrator.cloud.transport import Transport
    from orchestrator.engine.lease_guard import Lease
    from orchestrator.engine.ports import Clock
    from orchestrator.settings import Account, Settings
    from orchestrator.store.database.database import Database

log = logging.getLogger(__name__)


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
    recently_viewed = RecentlyViewed(clock)
    calls: Counter[tuple[str, str]] = Counter()
    steps = LoopSteps()
    factories = _partition_factories(env, recently_viewed, calls)
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
    context = _context(env, leases, recently_viewed, calls, steps)
    for waiting in await context.unconfigured.waiting():
        log.warning("%s", waiting.message)
    return Replica(context, leases)


def _partition_factories(
    env: Environment, recently_viewed: RecentlyViewed, calls: Counter[tuple[str, str]]
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
                recently_viewed=recently_viewed,
                poll=env.settings.engine.poll.policy(),
                capture=env.settings.engine.capture_policy(),
                escalation=env.settings.engine.escalation.policy(
                    machines=account.terminate_machines
                ),
                reterminate_max=env.settings.engine.reterminate_max,
                not_found_after_s=env.settings.engine.not_found_after_s,
                refused_after_s=env.settings.engine.refused_after_s,
                count_call=lambda action, outcome: calls.update(((action, outcome),)),
            )

        factories |= dict.fromkeys(account.partitions(name).values(), build)
    return factories


def _context(
    env: Environment,
    leases: LeaseManager,
    recently_viewed: RecentlyViewed,
    calls: Counter[tuple[str, str]],
    steps: LoopSteps,
) -> Context:
    settings, now = env.settings, env.clock.now
    partitions = Partitions(
        {
            partition: account.quotas.TerminateJob
            for name, account in settings.accounts.items()
            for partition in account.partitions(name).values()
        },
        running=leases.running,
    )
    records = SqlRecords(env.database, now)
    unconfigured = StoredUnconfigured(env.database, partitions.configured_per_s, now)
    return Context(
        records=records,
        unconfigured=unconfigured,
        submission=_submission(env, records, leases),
        inspection=Inspection(
            records=records,
            unconfigured=unconfigured,
            partitions=partitions,
            capture_wait_s=settings.engine.capture_policy().wait_s,
            now=now,
            best_effort=BestEffort().leaving_out,
            monotonic=env.clock.monotonic,
        ),
        certification=Certification(histories=SqlHistories(env.database), now=now),
        tokens={token.name: token.sha256 for token in settings.auth.tokens},
        on_viewed=recently_viewed.record,
        ready=Readiness(
            records=records,
            unconfigured=unconfigured,
            partitions=partitions,
            engine=leases,
            check_storage=StorageCheck(records, env.clock.monotonic),
        ).report,
        metrics=Metrics(
            violations=env.database.violations,
            calls=calls,
            ended=env.database.ended,
            steps=steps,
            live=records.live,
            now=now,
        ).exposition,
    )


def _submission(env: Environment, records: SqlRecords, leases: LeaseManager) -> Submission:
    engine = env.settings.engine
    return Submission(
        records=records,
        accounts={
            name: AccountRoutes(
                partitions=account.partitions(name), default_region=account.default_region
            )
            for name, account in env.settings.accounts.items()
        },
        default_settle_s=engine.settle_s,
        default_give_up_after_s=engine.give_up_after_s,
        revival_watch_s=engine.revival_watch_s,
        now=env.clock.now,
        random=env.random,
        on_accepted=leases.on_notification,
    )
