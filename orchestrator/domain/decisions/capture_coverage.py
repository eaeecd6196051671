"""Coverage of a job's machines: what is still to be captured, and what the capture missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import PENDING_STATES, State

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination


def capture_to_continue(termination: Termination) -> InstanceScan:
    """Return the capture of the current run to continue, or a new one."""
    capture = termination.captures.machines
    if capture is None or capture.run != termination.calls.run:
        return InstanceScan(run=termination.calls.run)
    return capture


def rescan(termination: Termination, now: datetime) -> InstanceScan:
    """Return the read of live instances to continue, or a new one."""
    captures, run = termination.captures, termination.calls.run
    if captures.rescan and captures.rescan.run == run and captures.rescan.ended_at is None:
        return captures.rescan
    tasks = captures.machines.tasks if captures.machines else ()
    return InstanceScan(run=run, tasks=tasks, began_at=now)


def too_late(termination: Termination) -> bool:
    """Return whether no instance is left whose machine could be read."""
    stopped = termination.drain.counters is not None and termination.drain.counters.live == 0
    finished = termination.job.finished
    return termination.state is State.SETTLING or (finished and stopped)


def captured(termination: Termination) -> bool:
    """Return whether the next TerminateJob needs no capture, or its capture has ended."""
    capture = termination.captures.machines
    captured_run = capture.run if capture is not None and capture.ended_at is not None else 0
    return captured_run >= termination.calls.run


def submit_info_unread(termination: Termination) -> bool:
    """Return whether the number of submitted instances is unknown."""
    capture = termination.captures.machines
    return termination.drain.instances_submitted is None and (capture is None or not capture.tasks)


def missed(termination: Termination) -> str | None:
    """Return why machines that the job had at TerminateJob may be unknown; None: all are known."""
    capture = termination.captures.machines
    if capture is None or capture.run != termination.calls.run:
        return "its machines were not captured"
    if capture.problem is not None:
        return f"capturing its machines failed: {capture.problem.code}: {capture.problem.message}"
    if capture.ended_at is None or capture.counted_at is None:
        return "the capture of its machines did not finish"
    if not _counted_before_the_call(termination, capture.counted_at):
        return "its instances may have been counted only after the job had begun to stop"
    nameless = capture.occupying - capture.captured
    reasons = {
        f"{capture.waiting} instances were still waiting for a machine": capture.waiting > 0,
        f"the machines of {nameless} of {capture.occupying} instances were not shown": nameless > 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _counted_before_the_call(termination: Termination, counted_at: datetime) -> bool:
    if termination.calls.first_sent_at is None:
        return (
            termination.state in PENDING_STATES or termination.schedule.terminate_after is not None
        )
    return counted_at <= termination.calls.first_sent_at
