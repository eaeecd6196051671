"""What a look proves.

Levels: 0 accepted by us, 1 the cloud acknowledged our call, 2 the job reads SUCCEED or FAILED,
3 no instance is live and the counters add up, 4 every machine that the job had when it was called
is gone, 5 all that still so after the settle window.  Each holds all below it: without the
machines' ids from before the call, or the permission to look them up, 3 is the highest.
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
SETTLED: Final = 5
MEANINGS: Final[Mapping[int, str]] = {
    0: "accepted; nothing is known of what became of it",
    ACKNOWLEDGED: "the cloud acknowledged TerminateJob",
    JOB_FINISHED: "the job reads SUCCEED or FAILED",
    NO_INSTANCE_LIVE: "the job is finished, and no instance was live at a count that adds up",
    MACHINES_GONE: "every machine that it had when it was called is gone as well",
    SETTLED: "all that was still so after the settle window",
}


def proves_stopped(termination: Termination, seen: JobSeen) -> bool:
    """Whether this read shows a finished job with no live instance that is not being terminated.

    The job's state alone is no proof: it can read FAILED while other instances still drain.  Where
    it is a word that the vendor does not document, the counters decide.
    """
    state = state_seen(termination, seen)
    return (
        state is not None
        and (state.finished or not state.known)
        and not seen.terminating
        and contradiction(termination, seen) is None
        and seen.instances is not None
        and seen.instances.live == 0
    )


def proves_settled(termination: Termination, settle_until: datetime) -> bool:
    """Whether all that was proven was read again at the end of the settle window or later.

    That is the instance counters, and every machine that was captured.
    """
    counted_at, machines = termination.instances_observed_at, termination.machines
    counted = counted_at is not None and counted_at >= settle_until
    return counted and machines_gone(termination) and machines.read_since(settle_until)


def machines_gone(termination: Termination) -> bool:
    """Whether every machine of the job is known, was looked up and is gone.

    Nodes of a compute environment restart and stay.
    """
    capture, machines = termination.capture, termination.machines
    return (
        capture is not None
        and missed(termination) is None
        and capture.nodes == 0
        and machines.listed
        and machines.gone == machines.total > 0
    )


def state_seen(termination: Termination, seen: JobSeen) -> JobState | None:
    """The job state after this look; a look that carried none leaves the one known before."""
    return seen.state or termination.job_state
