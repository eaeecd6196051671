"""Events that shorten the waits of a partition's loops.

A loop that misses one still checks for work after IDLE_MAX_S, while its partition has work.
"""

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
    """One event for each loop, set when there may be more for it to do."""

    calls: asyncio.Event = field(default_factory=asyncio.Event)
    batch_polls: asyncio.Event = field(default_factory=asyncio.Event)
    single_polls: asyncio.Event = field(default_factory=asyncio.Event)
    captures: asyncio.Event = field(default_factory=asyncio.Event)
    machines: asyncio.Event = field(default_factory=asyncio.Event)
    escalations: asyncio.Event = field(default_factory=asyncio.Event)
    revivals: asyncio.Event = field(default_factory=asyncio.Event)
    set_aside: asyncio.Event = field(default_factory=asyncio.Event)

    def all(self) -> None:
        """Wake every loop, after a change from outside the partition's loops."""
        for each in fields(self):
            getattr(self, each.name).set()

    def on_request(self) -> None:
        """Wake the loops that make the first polls, and those that read instances for a client."""
        self.batch_polls.set()
        self.single_polls.set()
        self.captures.set()

    def on_decision(self, before: Termination, after: Termination) -> None:
        """Wake the loops that have something to do because of this decision."""
        old, new = before.schedule, after.schedule
        if new.terminate_after not in (None, old.terminate_after):
            self.calls.set()
        if (new.poll_kind, new.next_poll_at) != (old.poll_kind, old.next_poll_at):
            (self.batch_polls if new.poll_kind is PollKind.BATCH else self.single_polls).set()
        escalated = after.escalation.started_at != before.escalation.started_at
        progressed = (
            after.escalation.started_at is not None
            and after.drain.last_progress_at != before.drain.last_progress_at
        )
        if after.calls.run != before.calls.run or escalated or progressed:
            self.captures.set()
        if after.state is State.SETTLING and after.machines.total:
            began = before.state is not State.SETTLING
            confirms = new.confirm_from != old.confirm_from
            # The last count is made when machines may be confirmed.
            counted = after.drain.counted_at != before.drain.counted_at
            if began or confirms or counted:
                self.machines.set()
        if after.state in PROVEN_STATES and after.request.revival_watch_s:
            self.revivals.set()
