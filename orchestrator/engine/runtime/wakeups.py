"""What shortens the waits of a partition's loops; each would look again anyway, only later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from orchestrator.domain.model.lifecycle import PROVEN_STATES, State
from orchestrator.domain.model.termination import PollKind

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination


@dataclass(slots=True)
class WakeupEvents:
    """An event for each loop, set when there may be more for it to do."""

    calls: asyncio.Event = field(default_factory=asyncio.Event)
    sweeps: asyncio.Event = field(default_factory=asyncio.Event)
    looks: asyncio.Event = field(default_factory=asyncio.Event)
    captures: asyncio.Event = field(default_factory=asyncio.Event)
    machines: asyncio.Event = field(default_factory=asyncio.Event)
    escalations: asyncio.Event = field(default_factory=asyncio.Event)
    revivals: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self) -> None:
        """Wake every loop: something came from outside."""
        for each in fields(self):
            getattr(self, each.name).set()

    def decided(self, before: Termination, after: Termination) -> None:
        """Wake the loops that a decision gives something to do."""
        if after.terminate_after not in (None, before.terminate_after):
            self.calls.set()
        if (after.poll_kind, after.next_poll_at) != (before.poll_kind, before.next_poll_at):
            (self.sweeps if after.poll_kind is PollKind.BATCH else self.looks).set()
        escalated = after.escalation_started_at != before.escalation_started_at
        moved = (
            after.escalation_started_at is not None
            and after.last_progress_at != before.last_progress_at
        )
        if after.run != before.run or escalated or moved:
            self.captures.set()
        if after.state is State.SETTLING and after.machines.total:
            began = before.state is not State.SETTLING
            confirms = after.confirm_from != before.confirm_from
            # The last count is made when machines may be confirmed.
            counted = after.instances_observed_at != before.instances_observed_at
            if began or confirms or counted:
                self.machines.set()
        if after.state in PROVEN_STATES and after.revival_watch_s:
            self.revivals.set()
