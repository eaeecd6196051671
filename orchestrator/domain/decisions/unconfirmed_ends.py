"""Confirmation of answers that would end a termination: several must agree over some time.

One answer can be wrong: a read can lag behind SubmitJob by seconds, a new permission takes seconds
to spread, and a gateway can answer for a back end that it does not reach. So the first such answer
is only stored, as :class:`Unconfirmed`, with the earliest time at which it may be believed. An
answer that contradicts it clears it. A read that fails for another reason than a lack of permission
contradicts nothing: otherwise intermittent failures would restart the window forever.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail
from orchestrator.domain.model.unconfirmed import DESCRIBE_JOB, DESCRIBE_JOBS, Unconfirmed, Verdict

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination

GAP_S: Final = 300.0
"""Gap without an answer, or the window if longer, after which earlier answers do not count."""
SEEN_JOB_MISSING_S: Final = 60.0
"""Time for which a job that was read before must be missing from every answer."""
NOT_FOUND_AFTER_S: Final = 120.0
"""Time that a job which was never read has to appear: reads can lag behind SubmitJob."""
REFUSED_AFTER_S: Final = 600.0
"""Time for which the account must lack a permission."""
UNREADABLE_S: Final = 60.0
"""Time for which reads past the deadline must fail."""
OUT_OF_REACH_S: Final = 600.0
"""The same if no request could be sent, or if the credential was rejected or not available."""

_NOT_READ: Final = (CloudErrorKind.NOT_SENT, CloudErrorKind.CREDENTIAL)


def with_answer(
    termination: Termination, verdict: Verdict, source: str, now: datetime, *, window_s: float
) -> Termination:
    """Return the termination with one more answer for ``verdict``, given by the action ``source``.

    The window restarts after a long gap without answers, during which nothing was asked, and if it
    began in the future, since the clock was set back. UNREADABLE changes nothing while another
    verdict stands; the other two replace each other.
    """
    window = timedelta(seconds=window_s)
    gap = max(window, timedelta(seconds=GAP_S))
    known = termination.unconfirmed
    if known is not None and not known.since <= now <= known.last_at + gap:
        known = None
    if known is None or known.verdict is not verdict:
        if known is not None and verdict is Verdict.UNREADABLE:
            return termination
        known = Unconfirmed(
            verdict=verdict, since=now, last_at=now, until=now + window, answers=0, sources=()
        )
    return replace(
        termination,
        unconfirmed=replace(
            known,
            last_at=now,
            answers=known.answers + 1,
            sources=tuple(sorted({*known.sources, source})),
        ),
    )


def missing(
    termination: Termination, source: str, now: datetime, *, not_found_after_s: float
) -> Termination:
    """Return the termination after an answer that shows no such job.

    ``not_found_after_s`` is the time that a job which was never read has to appear.
    """
    read_before = termination.job.observed_at is not None
    window_s = SEEN_JOB_MISSING_S if read_before else not_found_after_s
    return with_answer(termination, Verdict.MISSING, source, now, window_s=window_s)


def unreadable(termination: Termination, kind: CloudErrorKind, now: datetime) -> Termination:
    """Return the termination after a read that failed past its deadline."""
    window_s = OUT_OF_REACH_S if kind in _NOT_READ else UNREADABLE_S
    return with_answer(termination, Verdict.UNREADABLE, DESCRIBE_JOB, now, window_s=window_s)


def after_read(termination: Termination) -> Unconfirmed | None:
    """Return what stays unconfirmed after a read of the job: a forbidden TerminateJob only."""
    known = termination.unconfirmed
    reads = (DESCRIBE_JOB, DESCRIBE_JOBS)
    if known is None or known.verdict is not Verdict.FORBIDDEN:
        return None
    return None if set(known.sources) <= set(reads) else known


NEVER_FOUND: Final = ErrorDetail(
    code=ClientCode.JOB_NOT_FOUND,
    message="no poll by DescribeJobs listed the job",
    advice="check the job id, the region and the account; a deleted job leaves no record",
)


def record_deleted(termination: Termination) -> ErrorDetail:
    """Return the error of a job whose record is gone although it was read or acknowledged."""
    called = termination.calls.acknowledged_at is not None
    before = "its instances were observed stopped" if called else "TerminateJob was acknowledged"
    return ErrorDetail(
        code=ClientCode.JOB_DELETED,
        message=f"the cloud no longer knows the job: its record was deleted before {before}",
        advice="check in the console that none of its machines is left: the cloud deletes records "
        "of finished jobs only, but the instances of this one were not observed stopped",
    )
