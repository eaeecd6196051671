"""Number of ids in one API call: smaller while one id may be the reason that the call fails."""

from __future__ import annotations

from orchestrator.domain.errors import CloudError, CloudErrorKind

SUSPECT_AFTER_FAILURES = 3
"""After this many failures in a row of such calls, one of their ids may be the reason."""
SHRINK_FACTOR = 10
"""Divisor of the batch size after such a failure.

It is large because each further try costs a pause of the backoff; a refusal costs none.
"""

REFUSALS = (CloudErrorKind.UNAUTHORIZED, CloudErrorKind.REFUSED)
NOT_CAUSED_BY_IDS = (
    CloudErrorKind.THROTTLED,
    CloudErrorKind.NOT_SENT,
    CloudErrorKind.CREDENTIAL,
    CloudErrorKind.CLOCK_SKEW,
)
"""Failures that no id in the call can have caused."""


class BatchSize:
    """Number of ids that one loop may put into its next call, the longest due first."""

    def __init__(self, most: int) -> None:
        self.at_once = most
        self._most = most
        self._failures = 0
        """In a row."""

    def worked(self) -> None:
        """Double the size, up to its maximum, after a call that worked."""
        self._failures = 0
        self.at_once = min(self._most, 2 * self.at_once)

    def failed(self, asked: int, error: CloudError) -> bool:
        """Record that a call with ``asked`` ids failed, and shrink the size if an id may be why.

        Return whether the call had one id only and that id may be the reason.
        """
        if error.kind in NOT_CAUSED_BY_IDS:
            return False
        if error.kind in REFUSALS:
            self.at_once = max(1, asked // 2)
            return asked == 1
        self._failures += 1
        if self.at_once == self._most and self._failures < SUSPECT_AFTER_FAILURES:
            return False
        self.at_once = max(1, asked // SHRINK_FACTOR)
        return asked == 1
