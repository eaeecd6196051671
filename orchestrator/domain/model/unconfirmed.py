"""Unconfirmed verdicts: they would end a termination, once enough answers agree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

DESCRIBE_JOB: Final = "DescribeJob"
DESCRIBE_JOBS: Final = "DescribeJobs"
ANSWERS_MIN: Final = 3
"""Minimum number of agreeing answers, however far apart they are."""
ANSWERS_WITHOUT_OTHER_SOURCE: Final = 5
"""Number of answers that suffice if DescribeJobs gave none of them."""
FIRST_RETRY_S: Final = 5.0


class Verdict(StrEnum):
    """Verdicts that need confirmation."""

    MISSING = "missing"
    """The cloud does not know the job."""
    FORBIDDEN = "forbidden"
    """The account may not make the request."""
    UNREADABLE = "unreadable"
    """The deadline has passed and the job cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """A verdict with the answers for it so far.

    ``sources`` are the actions that gave it. It is confirmed at ``until`` at the earliest.
    """

    verdict: Verdict
    since: datetime
    last_at: datetime
    until: datetime
    answers: int
    sources: tuple[str, ...]

    def confirms(self, verdict: Verdict, now: datetime) -> bool:
        """Return whether ``verdict`` is confirmed, so that it may end the termination."""
        if verdict is not self.verdict:
            return False
        enough = self.answers >= ANSWERS_MIN
        if self.verdict is Verdict.MISSING and DESCRIBE_JOBS not in self.sources:
            enough = self.answers >= ANSWERS_WITHOUT_OTHER_SOURCE
        return enough and now >= self.until

    def next_read_at(self, now: datetime) -> datetime:
        """Return when to read again: after growing delays, and once more at ``until``."""
        soon = min(timedelta(seconds=FIRST_RETRY_S), (self.until - self.since) / 4)
        if now < self.until:
            return min(now + max(soon, 2 * (now - self.since)), self.until)
        return now + soon
