"""Answers that would end a termination, believed only once several over some time say the same.

One answer can be wrong: a read can lag behind SubmitJob by seconds, a permission spreads over
seconds, and a gateway can answer for a back end that it does not reach.  So the first such answer
is only kept, as :class:`Unconfirmed`, with the time at which it would be believed.  An answer that
contradicts it clears it.  A read that fails contradicts nothing: else one that fails now and then
would begin the time anew, for ever.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import CloudErrorKind
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.unconfirmed import DESCRIBE_JOB, DESCRIBE_JOBS, Unconfirmed, Verdict

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Termination

GAP_S: Final = 300.0
"""How long no answer may come before the answers so far count for nothing."""
SEEN_JOB_MISSING_S: Final = 60.0
"""How long a job that was read before must be missing from every answer."""
APPEARS_WITHIN_S: Final = 120.0
"""How long a job that was never read has to appear, for reads can lag behind SubmitJob."""
FORBIDDEN_S: Final = 600.0
"""How long the account must lack a permission."""
UNREADABLE_S: Final = 60.0
"""How long reads past the deadline must fail."""
OUT_OF_REACH_S: Final = 600.0
"""The same where the cloud never had the call: the network, or the account's key."""

_NOT_READ: Final = (CloudErrorKind.NOT_SENT, CloudErrorKind.CREDENTIAL)


def with_answer(
    termination: Termination, verdict: Verdict, source: str, now: datetime, *, window_s: float
) -> Termination:
    """The termination with one more answer for ``verdict``, given by the action ``source``.

    The window begins anew where no answer came for long: nobody asked meanwhile.  It does so too
    where it began in the future: the clock was put back.  Reads that fail change nothing while
    another verdict stands.
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
    termination: Termination, source: str, now: datetime, *, appears_within_s: float
) -> Termination:
    """The termination after an answer by which there is no such job.

    ``appears_within_s`` is the time that a job which was never read has to appear.
    """
    seen = termination.observed_at is not None
    window_s = SEEN_JOB_MISSING_S if seen else appears_within_s
    return with_answer(termination, Verdict.MISSING, source, now, window_s=window_s)


def unreadable(termination: Termination, kind: CloudErrorKind, now: datetime) -> Termination:
    """The termination after a read that failed past its deadline."""
    window_s = OUT_OF_REACH_S if kind in _NOT_READ else UNREADABLE_S
    return with_answer(termination, Verdict.UNREADABLE, DESCRIBE_JOB, now, window_s=window_s)


def after_read(termination: Termination) -> Unconfirmed | None:
    """What stays unconfirmed once the job was read: only that it may not be terminated."""
    known = termination.unconfirmed
    reads = (DESCRIBE_JOB, DESCRIBE_JOBS)
    if known is None or known.verdict is not Verdict.FORBIDDEN:
        return None
    return None if set(known.sources) <= set(reads) else known


NEVER_FOUND: Final = ErrorDetail(
    code="Client.JobNotFound",
    message="DescribeJobs did not list the job whenever it was asked",
    advice="check the job id, the region and the account; a deleted job leaves no record",
)


def record_deleted(termination: Termination) -> ErrorDetail:
    """What a person is told of a job that was read, or called, and whose record is gone."""
    called = termination.acknowledged_at is not None
    before = "its instances were seen to stop" if called else "TerminateJob was acknowledged"
    return ErrorDetail(
        code="Client.JobDeleted",
        message=f"the cloud no longer knows the job: its record was deleted before {before}",
        advice="see in the console that none of its machines is left: the cloud deletes the record "
        "of a finished job only, but nobody saw this one finish",
    )
