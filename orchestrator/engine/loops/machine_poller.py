"""Polls of captured machines in CVM, up to 100 a call (DescribeInstances), until they are gone."""

from __future__ import annotations

import logging
import math
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.decision import problem_of
from orchestrator.domain.errors import REFUSALS, CloudError, CloudErrorKind
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.machine import classify_machine
from orchestrator.engine.paced_calls import PacedCalls
from orchestrator.engine.runtime.faulty_ids import BatchSize
from orchestrator.engine.runtime.loop import LoopKind
from orchestrator.engine.runtime.retry_timer import RetryTimer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.domain.model.machine import CapturedMachine
    from orchestrator.engine.partition import Partition

MACHINES_PER_CALL = 100
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 60.0
APART_BASE_S, APART_MAX_S = 5.0, 120.0
"""Shortest and longest time for which a machine that alone made a call fail is left out of polls.

It begins once other machines can be polled.
"""

_NO_CVM_ENDPOINT = ErrorDetail(
    code=ClientCode.NO_CVM_ENDPOINT,
    message="the account has no endpoint of CVM",
    advice="configure the account's cvm_endpoint to have machines read",
)

log = logging.getLogger(__name__)


class MachinePoller:
    """Loop that polls the captured machines of one partition."""

    kind = LoopKind.MACHINE_POLLER

    def __init__(self, partition: Partition) -> None:
        self.name = f"machine poller of {partition.name}"
        self.wake = partition.wakeups.machines
        self._partition = partition
        self._calls = PacedCalls(
            partition, "DescribeInstances", base_s=BACKOFF_BASE_S, max_s=BACKOFF_MAX_S
        )
        self._batch = BatchSize(MACHINES_PER_CALL)
        self._apart: dict[str, RetryTimer] = {}
        """Machines that alone made a call fail, until a call with their id works."""
        self._logged: str | None = None
        """Error code of the failure that was logged last; None: the calls work."""

    async def step(self) -> float:
        """Poll the next machines; return the seconds until more may be polled.

        Infinite if no machine is due: one that becomes due is found after IDLE_MAX_S.
        """
        partition = self._partition
        if (wait_s := self._calls.wait_s()) > 0:
            return wait_s
        now = partition.clock.now()
        seen_before = now - timedelta(seconds=partition.poll.settling_interval_s)
        apart = [id_ for id_, timer in self._apart.items() if timer.wait_s() > 0]
        due = await partition.store.instances.machines_due(
            now, seen_before, self._batch.at_once, without=apart
        )
        if not due:
            return math.inf
        if not partition.cloud.sees_machines:
            await partition.store.instances.record_machines_invisible(due[0], _NO_CVM_ENDPOINT)
            return 0.0
        try:
            seen = await self._calls.send(
                lambda: partition.cloud.describe_machines(
                    region=due[0].region, machine_ids=[machine.machine_id for machine in due]
                )
            )
        except CloudError as error:
            await self._on_failure(due, error)
            return self._calls.pause_s()
        if self._logged is not None:
            log.warning("%s works again", self.name)
        self._logged = None
        self._batch.worked()
        for machine in due:
            self._apart.pop(machine.machine_id, None)
        now, watch_s = partition.clock.now(), partition.capture.starting_watch_s
        statuses = [
            (
                machine,
                classify_machine(
                    machine, seen.get(machine.machine_id), now, starting_watch_s=watch_s
                ),
            )
            for machine in due
        ]
        await partition.store.instances.machines_seen(statuses, now)
        partition.wakeups.batch_polls.set()
        return 0.0

    async def _on_failure(self, due: Sequence[CapturedMachine], error: CloudError) -> None:
        """Ask for fewer machines if one of them may be why the call failed; log what is new."""
        alone = self._batch.failed(len(due), error)
        if error.kind in REFUSALS:
            if alone:
                instances = self._partition.store.instances
                await instances.record_machines_invisible(due[0], problem_of(error))
        elif error.kind is not CloudErrorKind.THROTTLED:
            if error.code != self._logged:
                self._logged = error.code
                log.warning(
                    "%s: DescribeInstances fails and is tried again; jobs whose machines are not "
                    "read are verified only at their deadline: %s",
                    self.name,
                    error,
                )
            if alone:
                self._set_apart(due[0].machine_id, error)

    def _set_apart(self, machine_id: str, error: CloudError) -> None:
        """Leave a machine out of polls during the pause of the loop and some time after it."""
        clock, random = self._partition.clock, self._partition.random
        timer = self._apart.setdefault(
            machine_id, RetryTimer(clock, random, base_s=APART_BASE_S, max_s=APART_MAX_S)
        )
        apart_s = timer.failed(after_s=self._calls.pause_s())
        log.warning(
            "%s: DescribeInstances fails for machine %s, which is polled again in %.0f s: %s",
            self.name,
            machine_id,
            apart_s,
            error,
        )
