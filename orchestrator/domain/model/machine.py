"""Machines that task instances run on: as one read showed them, and their counts for a job.

The vendor calls them instances, too. Source: CVM API 2017-03-12, Instance and InstanceStatus
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
    def is_terminating(self) -> bool:
        """True if the machine is being destroyed or was never created, so it will not run again.

        By InstanceStatus, SHUTDOWN is stopped and to be destroyed, TERMINATING is being destroyed,
        and LAUNCH_FAILED was not created. A SHUTDOWN machine may be in the recycle bin, from where
        a person can restore it (tencentcloud.com/document/product/213/4931). STOPPED is only shut
        down: anyone can start it.
        """
        return self in (
            MachineState.SHUTDOWN,
            MachineState.TERMINATING,
            MachineState.LAUNCH_FAILED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSeen:
    """A machine as DescribeInstances showed it.

    ``observed_at`` is when the request was sent. ``state`` is None if this version does not know
    the state.
    """

    observed_at: datetime
    machine_id: str
    state: MachineState | None = None
    name: str | None = None
    created_at: str | None = None

    @property
    def is_terminating(self) -> bool:
        """True if the state is known and the machine will not run again."""
        return self.state is not None and self.state.is_terminating


class MachineStatus(StrEnum):
    """Status of a captured machine by the last read."""

    UP = "up"
    MISSING = "missing"
    """Not listed; its instance was STARTING, so the machine may be too new to be listed."""
    TERMINATED = "terminated"
    """Listed as being destroyed."""
    GONE = "gone"
    """No longer listed."""
    NODE = "node"
    """Never read: a node of a compute environment outlives the job."""

    @property
    def is_gone(self) -> bool:
        """True if the machine is known to have stopped for good."""
        return self in (MachineStatus.TERMINATED, MachineStatus.GONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedMachine:
    """A machine that an instance had.

    ``starting``: the instance was STARTING at its last read. ``stopped_at``: when no instance of
    the job was live any more.
    """

    termination_seq: int
    region: str
    task: str
    instance_index: int
    machine_id: str
    starting: bool
    status: MachineStatus | None
    stopped_at: datetime | None


def classify_machine(
    machine: CapturedMachine, seen: MachineSeen | None, now: datetime, *, starting_watch_s: float
) -> MachineStatus | None:
    """Return the status after this read; ``seen`` is None if the machine was not listed.

    Until the job has stopped, a read can only prove that a machine is up. A machine in creation
    that was never listed may be listed later: it counts as gone after ``starting_watch_s``.
    """
    if seen is not None and (machine.stopped_at is None or not seen.is_terminating):
        return MachineStatus.UP
    if seen is not None:
        return MachineStatus.TERMINATED
    if machine.stopped_at is None:
        return machine.status
    watched_s = (now - machine.stopped_at).total_seconds()
    just_created = machine.starting and machine.status is not MachineStatus.UP
    if just_created and watched_s < starting_watch_s:
        return MachineStatus.MISSING
    return MachineStatus.GONE


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCounts:
    """Number of captured machines of a job, and of those that are known to be gone.

    Nodes of compute environments are not counted. ``listed``: at least one machine was shown once,
    so a machine that is not shown is gone, and not hidden from the credential.
    """

    total: int = 0
    up: int = 0
    gone: int = 0
    listed: bool = False
    observed_at: datetime | None = None
    all_observed_at: datetime | None = None
    """Every machine was read at this time or later; None: one never was, or it is not known."""
    problem: ErrorDetail | None = None
    """Reason why the machines cannot be read."""

    @property
    def remaining(self) -> int:
        """Number of machines that may still be up, or 0 if the machines cannot be read."""
        return 0 if self.problem is not None else self.total - self.gone

    @property
    def readable(self) -> bool:
        """True if there are machines and DescribeInstances may be called for them."""
        return self.total > 0 and self.problem is None

    def read_since(self, time: datetime) -> bool:
        """Return whether every machine was read at ``time`` or later."""
        return self.all_observed_at is not None and self.all_observed_at >= time


NO_MACHINES: Final = MachineCounts()
