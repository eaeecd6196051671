"""What a look proves.

Levels: 0 accepted by us, 1 the cloud acknowledged our call, 2 the job reads SUCCEED or FAILED,
3 no instance is live and the counters add up, 4 every machine that the job had when it was called
is gone, 5 all that still so after the settle window.  Each holds all below it: without the
machines' ids from before the call, or the permission to look them up, 3 is the highest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.domain.coverage import missed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.domain.jobs import JobSeen, JobState
    from orchestrator.domain.terminations import Termination

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


def proves_down(termination: Termination, seen: JobSeen) -> bool:
    """Whether this look shows a finished job with no live instance and nothing pending.

    The job's state alone is no proof: it can read FAILED while other instances still drain.
    """
    state = state_seen(termination, seen)
    return (
        state is not None
        and state.finished
        and not seen.next_action
        and _counters_add_up(termination, seen)
        and seen.instances is not None
        and seen.instances.live == 0
    )


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


def _counters_add_up(termination: Termination, seen: JobSeen) -> bool:
    """Every task has an instance at least, and instances never become fewer."""
    if seen.instances is None:
        return False
    known = termination.instances.total if termination.instances else 0
    return seen.instances.total >= max(1, len(seen.tasks or termination.tasks), known)
