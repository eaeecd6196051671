"""Detection of revivals: stopped jobs that run again, since RetryJobs revives failed ones.

RetryJobs re-runs the failed instances of FAILED jobs and resets their history; anyone may call it
at any time (RetryJobs in the vendor's SDK for Python, batch/v20170312). A final state never
changes: the job was stopped when it was verified.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.settling import needs_recount, ran_again
from orchestrator.domain.model.termination import Revival

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination


RETERMINATE_MAX: Final = 3
"""Maximum number of times in a row that a revived job is terminated again, where requested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevivalCheck:
    """Result of a read of a job that is watched for revival after its termination has ended.

    ``came_back`` is the read that showed a revival, if it did. ``ends``: the watch is over.
    ``count``: DescribeJobs cannot decide, so the instances must be counted (DescribeJob).
    """

    termination: Termination
    ends: bool = False
    came_back: JobSeen | None = None
    count: bool = False


def check_listed(termination: Termination, seen: JobSeen | None, now: datetime) -> RevivalCheck:
    """Check a watched job as DescribeJobs showed it; ``seen`` is None if it was not listed.

    A job whose EndTime changed ran in between; the watch continues, since it may run again at the
    next read. The instances are counted once at the end of the watch, however late that is, and
    whenever the state or the EndTime leaves a doubt: an instance can run again under a job that
    reads FAILED, and one answer without the job does not prove that it was deleted.
    """
    over = _is_over(termination, now)
    if seen is None:
        return RevivalCheck(termination=termination, count=over)
    if _runs(seen) or (termination.watch.revival is None and ran_again(termination, seen)):
        return RevivalCheck(termination=termination, ends=_runs(seen), came_back=seen)
    return RevivalCheck(termination=termination, count=over or needs_recount(termination, seen))


def check_counted(termination: Termination, seen: JobSeen | None, now: datetime) -> RevivalCheck:
    """Check a watched job as DescribeJob showed it; None: the cloud no longer knows it."""
    if seen is None:
        return RevivalCheck(termination=termination, ends=True)
    live = seen.instances is not None and seen.instances.live > 0
    if _runs(seen) or live:
        return RevivalCheck(termination=termination, ends=True, came_back=seen)
    counted = seen.instances is not None
    return RevivalCheck(termination=termination, ends=counted and _is_over(termination, now))


def check_refused(termination: Termination, now: datetime) -> RevivalCheck:
    """Check a watched job that the account may not read: that may change until the watch ends."""
    return RevivalCheck(termination=termination, ends=_is_over(termination, now))


def _runs(seen: JobSeen) -> bool:
    return seen.state is not None and seen.state.documented and not seen.state.finished


def _is_over(termination: Termination, now: datetime) -> bool:
    began_at, lasts_s = termination.watch.began_at, termination.request.revival_watch_s
    assert began_at is not None
    return now >= began_at + timedelta(seconds=lasts_s)


def revival_of(seen: JobSeen) -> Revival:
    """Return the revival that a read showed."""
    assert seen.state is not None
    live = seen.instances.live if seen.instances is not None else None
    revival = Revival(at=seen.observed_at, job_state=seen.state, instances_live=live)
    return replace(revival, job_end_time=seen.end_time) if revival.ended else revival
