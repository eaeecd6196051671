"""Looks captured machines up in CVM, a hundred at once, until they are gone."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions import problem_of
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.machines import sight_of
from orchestrator.domain.problems import Problem
from orchestrator.engine.backoff import Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.machines import CapturedMachine
    from orchestrator.engine.partition import Partition

MACHINES_PER_CALL = 100
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0

_NOT_LOOKED_UP = Problem(
    code="Client.NoCvmEndpoint",
    message="the account has no endpoint of CVM",
    advice="configure the account's cvm_endpoint to have machines looked up",
)

log = logging.getLogger(__name__)


class MachineSweeper:
    """One partition's DescribeInstances calls."""

    def __init__(self, partition: Partition) -> None:
        self.name = f"machine sweeper of {partition.name}"
        self.wake = partition.wakes.machines
        self._partition = partition
        self._pacer = partition.pacers["DescribeInstances"]
        self._at_once = MACHINES_PER_CALL
        self._backoff = Backoff(
            partition.clock, partition.random, base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )

    async def step(self) -> float:
        """Look the next machines up; returns the seconds until more may be."""
        partition = self._partition
        wait_s = max(self._pacer.wait_s(), self._backoff.wait_s())
        if wait_s > 0:
            return wait_s
        now = partition.clock.now()
        seen_before = now - timedelta(seconds=partition.poll.settling_s)
        due = await partition.store.instances.machines_due(now, seen_before, self._at_once)
        if not due:
            return math.inf
        if not partition.cloud.sees_machines:
            await partition.store.instances.machines_hidden(due[0], _NOT_LOOKED_UP)
            return 0.0
        try:
            seen = await self._pacer.send(
                self._pacer.take(),
                lambda: partition.cloud.describe_machines(
                    region=due[0].region, machine_ids=[machine.machine_id for machine in due]
                ),
            )
        except CloudError as error:
            return await self._on_failure(due, error)
        if self._backoff.failures:
            log.warning("%s works again", self.name)
        self._backoff.worked()
        self._at_once = min(MACHINES_PER_CALL, 2 * self._at_once)
        now, watch_s = partition.clock.now(), partition.capture.starting_watch_s
        sights = [
            (
                machine,
                sight_of(machine, seen.get(machine.machine_id), now, starting_watch_s=watch_s),
            )
            for machine in due
        ]
        await partition.store.instances.machines_seen(sights, now)
        partition.wakes.sweeps.set()
        return 0.0

    async def _on_failure(self, due: Sequence[CapturedMachine], error: CloudError) -> float:
        """Back off; where one machine may have spoilt the call for all, ask for fewer."""
        partition = self._partition
        if error.kind in (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED):
            if len(due) == 1:
                await partition.store.instances.machines_hidden(due[0], problem_of(error))
            self._at_once = max(1, len(due) // 2)
            return 0.0
        if error.kind is CloudErrorKind.THROTTLED:
            return 0.0
        if not self._backoff.failures:
            log.warning("%s: %s: %s", self.name, error, error.advice or "")
        return self._backoff.failed()
