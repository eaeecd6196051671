"""The machines that task instances run on: as one look showed them, and what is known of a job's.

The vendor calls them instances, too.  Source: CVM API 2017-03-12, Instance and InstanceStatus
(cloud.tencent.com/document/api/213/15753).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.error_detail import ErrorDetail


class MachineState(StrEnum):
    """State of a CVM instance."""

    PENDING = "PENDING"
    LAUNCH_FAILED = "LAUNCH_FAILED"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    STARTING = "STARTING"
    STOPPING = "STOPPING"
    REBOOTING = "REBOOTING"
    SHUTDOWN = "SHUTDOWN"
    TERMINATING = "TERMINATING"
    ENTER_RESCUE_MODE = "ENTER_RESCUE_MODE"
    RESCUE_MODE = "RESCUE_MODE"
    EXIT_RESCUE_MODE = "EXIT_RESCUE_MODE"
    ENTER_SERVICE_LIVE_MIGRATE = "ENTER_SERVICE_LIVE_MIGRATE"
    SERVICE_LIVE_MIGRATE = "SERVICE_LIVE_MIGRATE"
    EXIT_SERVICE_LIVE_MIGRATE = "EXIT_SERVICE_LIVE_MIGRATE"

    @property
    def going(self) -> bool:
        """Whether it is on its way out, or never came: of itself it will not run again.

        By InstanceStatus, SHUTDOWN is stopped and to be destroyed, TERMINATING is being destroyed,
        and LAUNCH_FAILED was not created.  One that is SHUTDOWN may wait in the recycle bin, from
        where a person can bring it back (tencentcloud.com/document/product/213/4931).  STOPPED is
        only shut down: anybody can start it.
        """
        return self in (
            MachineState.SHUTDOWN,
            MachineState.TERMINATING,
            MachineState.LAUNCH_FAILED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSeen:
    """One machine as DescribeInstances showed it.

    ``observed_at`` is when the call was sent.  ``state`` is None for one that this version does not
    know.
    """

    observed_at: datetime
    machine_id: str
    state: MachineState | None = None
    name: str | None = None
    created_at: str | None = None

    @property
    def going(self) -> bool:
        return self.state is not None and self.state.going


class MachineStatus(StrEnum):
    """What the last look at a captured machine showed."""

    UP = "up"
    MISSING = "missing"
    """Not listed; its instance was STARTING, so it may only just be created."""
    TERMINATED = "terminated"
    """Listed as on its way out."""
    GONE = "gone"
    """Not listed any more."""
    NODE = "node"
    """Never looked at: a node of a compute environment outlives the job."""

    @property
    def over(self) -> bool:
        """Whether it is known not to run any more."""
        return self in (MachineStatus.TERMINATED, MachineStatus.GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedMachine:
    """A machine that an instance had, as far as it is known.

    ``starting``: its instance was STARTING when it was read last.  ``stopped_at``: when no instance
    of its job was live any more.
    """

    termination_seq: int
    region: str
    task: str
    instance_index: int
    machine_id: str
    starting: bool
    sight: MachineStatus | None
    stopped_at: datetime | None


def sight_of(
    machine: CapturedMachine, seen: MachineSeen | None, now: datetime, *, starting_watch_s: float
) -> MachineStatus | None:
    """What this look shows; ``seen`` is None where the machine was not listed.

    While the job is not down, only that a machine is up is certain.  One that was being created and
    was never listed may be listed later: it counts as gone once ``starting_watch_s`` have passed.
    """
    if seen is not None and (machine.stopped_at is None or not seen.going):
        return MachineStatus.UP
    if seen is not None:
        return MachineStatus.TERMINATED
    if machine.stopped_at is None:
        return machine.sight
    watched_s = (now - machine.stopped_at).total_seconds()
    just_created = machine.starting and machine.sight is not MachineStatus.UP
    if just_created and watched_s < starting_watch_s:
        return MachineStatus.MISSING
    return MachineStatus.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCounts:
    """How many machines of a job were captured, and how many of them are known to be gone.

    Nodes of compute environments are not among them.  ``listed``: one of them was shown at least
    once, so that another one that is not shown is gone, and not hidden from the credential.
    """

    total: int = 0
    up: int = 0
    gone: int = 0
    listed: bool = False
    observed_at: datetime | None = None
    all_observed_at: datetime | None = None
    """Each of them was looked up then or later; None: one never was, or it is not known."""
    problem: ErrorDetail | None = None
    """Why they cannot be looked at."""

    @property
    def left(self) -> int:
        """How many may still be up, as far as anybody can find out."""
        return 0 if self.problem is not None else self.total - self.gone

    @property
    def readable(self) -> bool:
        """Whether there are any, and DescribeInstances may be called for them."""
        return self.total > 0 and self.problem is None

    def read_since(self, time: datetime) -> bool:
        """Whether each of them was looked up at ``time`` or later."""
        return self.all_observed_at is not None and self.all_observed_at >= time


NO_MACHINES: Final = MachineCounts()
