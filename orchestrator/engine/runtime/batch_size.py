"""How many ids a call asks for: fewer while one of them may be what makes it fail."""

from __future__ import annotations

from orchestrator.domain.errors import CloudError, CloudErrorKind

FAILURES_THAT_ARE_SUSPECT = 3
"""So many failures in a row of such calls, and one of their ids may be the reason."""
FEWER_AFTER_FAILURES = 10
"""By how much fewer are asked for then: each try costs a pause of the backoff, unlike a refusal."""

REFUSALS = (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED)
NOT_OF_ITS_IDS = (
    CloudErrorKind.THROTTLED,
    CloudErrorKind.NOT_SENT,
    CloudErrorKind.CREDENTIAL,
    CloudErrorKind.CLOCK_SKEW,
)
"""Failures of a call that no id among those asked for can be the reason of."""


class BatchSize:
    """Of the calls of one loop, which asks for the longest due first."""

    def __init__(self, most: int) -> None:
        self.at_once = most
        self._most = most
        self._failures = 0
        """In a row."""

    def worked(self) -> None:
        self._failures = 0
        self.at_once = min(self._most, 2 * self.at_once)

    def failed(self, asked: int, error: CloudError) -> bool:
        """Take note of a call for so many; whether it was for one, which may be the reason."""
        if error.kind in NOT_OF_ITS_IDS:
            return False
        if error.kind in REFUSALS:
            self.at_once = max(1, asked // 2)
            return asked == 1
        self._failures += 1
        if self.at_once == self._most and self._failures < FAILURES_THAT_ARE_SUSPECT:
            return False
        self.at_once = max(1, asked // FEWER_AFTER_FAILURES)
        return asked == 1
