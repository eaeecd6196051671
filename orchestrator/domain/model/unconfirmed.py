"""A verdict that would end a termination, with the answers for it so far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

DESCRIBE_JOB: Final = "DescribeJob"
DESCRIBE_JOBS: Final = "DescribeJobs"
ANSWERS_MIN: Final = 3
"""Answers that must agree, however long they are apart."""
ANSWERS_WITHOUT_OTHER_SOURCE: Final = 5
"""Answers that are enough where only one of DescribeJob and DescribeJobs can be asked."""
FIRST_RETRY_S: Final = 5.0


class Verdict(StrEnum):
    """What the answers say."""

    MISSING = "missing"
    """The cloud does not know the job."""
    FORBIDDEN = "forbidden"
    """The account may not make the call."""
    UNREADABLE = "unreadable"
    """The deadline has passed and the job cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unconfirmed:
    """A verdict with the answers for it so far.

    ``sources`` are the actions that gave it.  It is believed from ``until`` on at the earliest.
    """

    verdict: Verdict
    since: datetime
    last_at: datetime
    until: datetime
    answers: int
    sources: tuple[str, ...]

    def confirms(self, verdict: Verdict, now: datetime) -> bool:
        """Whether this verdict may end the termination."""
        if verdict is not self.verdict:
            return False
        enough = self.answers >= ANSWERS_MIN
        if self.verdict is Verdict.MISSING and DESCRIBE_JOBS not in self.sources:
            enough = self.answers >= ANSWERS_WITHOUT_OTHER_SOURCE
        return enough and now >= self.until

    def next_read_at(self, now: datetime) -> datetime:
        """When to ask again: after longer and longer, and once more at ``until``."""
        soon = min(timedelta(seconds=FIRST_RETRY_S), (self.until - self.since) / 4)
        if now < self.until:
            return min(now + max(soon, 2 * (now - self.since)), self.until)
        return now + soon
