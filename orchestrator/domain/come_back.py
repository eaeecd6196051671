"""Whether a job that was down came back: RetryJobs revives those that failed.

RetryJobs re-runs the failed instances of FAILED jobs and resets their history; anybody may call it
at any time (RetryJobs in the vendor's SDK for Python, batch/v20170312).  A termination that has
ended stays as it ended: that it was down was true then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.chain import timestamp
from orchestrator.domain.looks import ran_again

if TYPE_CHECKING:
    from orchestrator.domain.jobs import JobSeen
    from orchestrator.domain.terminations import Revival, Termination


KEEP_DOWN_MAX: Final = 3
"""How many times in a row a job that comes back is brought down again, where that is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLook:
    """What a look at a job whose termination has ended makes of its come-back watch.

    ``came_back`` is how the job was seen, if it came back; with ``ends`` it is looked at no more.
    """

    termination: Termination
    ends: bool
    came_back: JobSeen | None = None


def watch_look(termination: Termination, seen: JobSeen | None) -> WatchLook:
    """A look at a watched job; None: the cloud did not list it, so it was deleted.

    The watch ends with a look at its end or after it, however late that is.  One whose EndTime
    changed ran in between; it is watched on, for it may be running again at the next look.
    """
    if seen is None:
        return WatchLook(termination=termination, ends=True)
    assert termination.finished_at is not None
    until = termination.finished_at + timedelta(seconds=termination.come_back_watch_s)
    ends = seen.observed_at >= until
    runs = seen.state is not None and not seen.state.finished
    if runs or (termination.revival is None and ran_again(termination, seen)):
        return WatchLook(termination=termination, ends=runs or ends, came_back=seen)
    return WatchLook(termination=termination, ends=ends)


def facts(revival: Revival) -> dict[str, object]:
    """What the event of a revival tells."""
    told = {
        "job_state": revival.job_state,
        "job_end_time": revival.job_end_time,
        "observed_at": timestamp(revival.at),
        "brought_down_again_by": revival.brought_down_again_by,
    }
    return {name: value for name, value in told.items() if value is not None}
