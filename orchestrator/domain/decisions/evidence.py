"""Evidence levels and what a read proves.

0: the request was accepted by this program; TerminateJob was not acknowledged, although the cloud
may act on one whose reply was lost, or on that of another client. 1: the cloud acknowledged
TerminateJob. 2: the job reads SUCCEED or FAILED. 3: moreover, no instance is live and the counters
add up; a job whose state the vendor does not document reaches 3 without 2. 4: moreover, every
machine that the job had when TerminateJob was sent is gone. 5: all of this was read again after the
settle window. A job whose
TerminateJob was never acknowledged may have 2 to 5 without 1. Without the machine ids from before
TerminateJob, or without permission for DescribeInstances, 3 is the highest level.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.capture_coverage import missed
from orchestrator.domain.decisions.instance_counts import contradiction

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSeen, JobState
    from orchestrator.domain.model.termination import Termination

ACKNOWLEDGED: Final = 1
JOB_FINISHED: Final = 2
NO_INSTANCE_LIVE: Final = 3
MACHINES_GONE: Final = 4
READ_AGAIN: Final = 5
MEANINGS: Final[Mapping[int, str]] = {
    0: "the request was accepted; TerminateJob was not acknowledged",
    ACKNOWLEDGED: "the cloud acknowledged TerminateJob",
    JOB_FINISHED: "the job reads SUCCEED or FAILED",
    NO_INSTANCE_LIVE: "the job does not run, and a count that adds up showed no live instance",
    MACHINES_GONE: "every machine that the job had when TerminateJob was sent is gone as well",
    READ_AGAIN: "all of this was read again after the settle window",
}


def proves_stopped(termination: Termination, seen: JobSeen) -> bool:
    """Return whether this read proves that the job has stopped.

    It must show a finished job, no live instance, counters that add up, and no pending termination.
    The job's state alone proves nothing: it can read FAILED while other instances still drain. If
    the vendor does not document the state, the counters decide.
    """
    state = state_seen(termination, seen)
    return (
        state is not None
        and (state.finished or not state.documented)
        and not seen.terminating
        and contradiction(termination, seen) is None
        and seen.instances is not None
        and seen.instances.live == 0
    )


def all_read_again(termination: Termination, settle_until: datetime) -> bool:
    """Return whether everything proven was read again at or after the end of the settle window.

    That is the instance counters and every captured machine.
    """
    counted_at, machines = termination.drain.counted_at, termination.machines
    counted = counted_at is not None and counted_at >= settle_until
    return counted and machines_gone(termination) and machines.read_since(settle_until)


def machines_gone(termination: Termination) -> bool:
    """Return whether every machine of the job is known, was read and is gone.

    Nodes of a compute environment restart and stay, so a job with such nodes never qualifies.
    """
    capture, machines = termination.captures.machines, termination.machines
    return (
        capture is not None
        and missed(termination) is None
        and capture.nodes == 0
        and machines.listed
        and machines.gone == machines.total > 0
    )


def state_seen(termination: Termination, seen: JobSeen) -> JobState | None:
    """Return the job state after this read; a read without a state leaves the known one."""
    return seen.state or termination.job.state
