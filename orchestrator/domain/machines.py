"""The machines that task instances run on, as one look at them showed.

The vendor calls them instances, too.  Source: CVM API 2017-03-12, Instance and InstanceStatus
(cloud.tencent.com/document/api/213/15753).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime


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
