"""How much of a job's machines is known: what is yet to be captured, and what was missed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.domain.model.lifecycle import NOT_CALLED, State
from orchestrator.domain.model.machine_capture import Capture

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination


def due(termination: Termination) -> Capture:
    """The capture to go on with."""
    capture = termination.capture
    if capture is None or capture.run != termination.run:
        return Capture(run=termination.run)
    return capture


def reading(termination: Termination, now: datetime) -> Capture:
    """The reading of live instances to go on with, or a new one."""
    reading = termination.reading
    if reading is not None and reading.run == termination.run and reading.ended_at is None:
        return reading
    known = termination.capture.tasks if termination.capture else ()
    return Capture(run=termination.run, tasks=known, began_at=now)


def too_late(termination: Termination) -> bool:
    """Whether no instance is left whose machine could be read."""
    stopped = termination.instances is not None and termination.instances.live == 0
    finished = termination.job_state is not None and termination.job_state.finished
    return termination.state is State.SETTLING or (finished and stopped)


def captured(termination: Termination) -> bool:
    """Whether no capture is to be made before the next call, or the one there was has ended."""
    capture = termination.capture
    captured_run = capture.run if capture is not None and capture.ended_at is not None else 0
    return captured_run >= termination.run


def submission_unread(termination: Termination) -> bool:
    """Whether it is not known how many instances the job was submitted with."""
    capture = termination.capture
    return termination.instances_submitted is None and (capture is None or not capture.tasks)


def missed(termination: Termination) -> str | None:
    """Why not every machine that the job had when it was called is known; None: all are."""
    capture = termination.capture
    if capture is None or capture.run != termination.run:
        return "its machines were not captured"
    if capture.problem is not None:
        return f"capturing its machines failed: {capture.problem.code}: {capture.problem.message}"
    if capture.ended_at is None or capture.counted_at is None:
        return "its machines were not captured to the end"
    if not _counted_before_the_call(termination, capture.counted_at):
        return "its instances were counted only after they had begun to go down"
    nameless = capture.occupying - capture.captured
    reasons = {
        f"{capture.waiting} instances still waited for a machine": capture.waiting > 0,
        f"the machines of {nameless} of {capture.occupying} instances were not shown": nameless > 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _counted_before_the_call(termination: Termination, counted_at: datetime) -> bool:
    if termination.first_sent_at is None:
        return termination.state in NOT_CALLED or termination.terminate_after is not None
    return counted_at <= termination.first_sent_at
