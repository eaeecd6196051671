"""The error tree of the program.

::

    OrchestratorError
    ├── ConfigurationError      the configuration is invalid; lists every mistake
    ├── RequestError            the caller's request cannot be served as it is
    │   ├── InvalidRequest
    │   ├── NotFound
    │   ├── IdempotencyKeyReused
    │   └── NotPossible
    ├── StoreUnavailable        the database is not usable at the moment
    │   └── RowsLocked          another session has locked the rows to be written
    ├── NotDriving              a replica processes none of its partitions
    ├── LeaseLost               another replica drives the partition, or may do so
    ├── IllegalTransition       a bug: an event that the lifecycle table does not allow
    ├── InvariantViolated       a bug: a decision that must not be written
    └── CloudError              a cloud API call failed; ``kind`` says what to do about it
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection


class OrchestratorError(Exception):
    """Root of all exceptions that this program raises on purpose."""


class ConfigurationError(OrchestratorError):
    """The configuration is invalid; ``problems`` lists every mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RequestError(OrchestratorError):
    """A request that cannot be served as it is; the message says what to do."""


class InvalidRequest(RequestError):
    """The request is well-formed, but its content is invalid."""


class NotFound(RequestError):
    """No object has this id."""


class IdempotencyKeyReused(RequestError):
    """The idempotency key belongs to another request."""


class NotPossible(RequestError):
    """The request is not possible in the present state."""


class NotDriving(OrchestratorError):
    """A replica cannot drive its partitions; the message says why."""


class StoreUnavailable(OrchestratorError):
    """The database is not usable at the moment.

    What was to be written is not stored, unless the answer to its commit was lost.
    """


class RowsLocked(StoreUnavailable):
    """Another database session has locked the rows to be written; nothing was stored.

    ``termination_ids``: the terminations that wait for the lock from now on.
    """

    def __init__(self, message: str, termination_ids: Collection[str] = ()) -> None:
        super().__init__(message)
        self.termination_ids = termination_ids


class LeaseLost(OrchestratorError):
    """The partition is, or may be, held by another replica: nothing was written or sent."""


class IllegalTransition(OrchestratorError):
    """The lifecycle table does not contain this transition."""


class InvariantViolated(OrchestratorError):
    """A decision would break an invariant: nothing was written."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"invariant {invariant} violated: {what}")
        self.invariant = invariant


class CloudErrorKind(StrEnum):
    """Meaning of a failed cloud API call for the termination it was made for."""

    THROTTLED = "throttled"
    """Refused by the rate limit before the request reached the back end: not executed."""
    NOT_SENT = "not_sent"
    """The request was never sent, or its reply shows that nothing was done: not executed."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """The request may have been executed: read the job before anything else."""
    STATE_CONFLICT = "state_conflict"
    """The job's present state forbids the request: read the state and decide again."""
    JOB_NOT_FOUND = "job_not_found"
    """The cloud does not know the job, or the job is in another region."""
    REFUSED = "refused"
    """Refused permanently for this job."""
    UNAUTHORIZED = "unauthorized"
    """The account has no permission for this job, or its endpoint does not offer the action.

    Both may change.
    """
    CREDENTIAL = "credential"
    """The credential itself is rejected: every call of the account fails in the same way."""
    CLOCK_SKEW = "clock_skew"
    """The signature's time is too far from the cloud's clock: not executed."""


NOT_EXECUTED: Final = (
    CloudErrorKind.THROTTLED,
    CloudErrorKind.NOT_SENT,
    CloudErrorKind.CREDENTIAL,
    CloudErrorKind.CLOCK_SKEW,
)
"""Failures of calls that had no effect, and that no id in the call can have caused."""
REFUSALS: Final = (CloudErrorKind.REFUSED, CloudErrorKind.UNAUTHORIZED)
"""Failures that a repetition of the same call would meet again."""


class CloudError(OrchestratorError):
    """A cloud API call that failed.

    ``code`` is the vendor's code, or a ``ClientCode`` if no usable reply arrived.
    ``advice`` says what a person can do. ``quota_ceiling`` is the ceiling in calls per second that
    a throttling message named.
    """

    def __init__(
        self,
        kind: CloudErrorKind,
        code: str,
        message: str,
        *,
        request_id: str | None = None,
        advice: str | None = None,
        quota_ceiling: int | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.kind = kind
        self.code = code
        self.message = message
        self.request_id = request_id
        self.advice = advice
        self.quota_ceiling = quota_ceiling

    @property
    def with_advice(self) -> str:
        """Code, message and, if there is one, the advice; for the log."""
        return f"{self}: {self.advice}" if self.advice else str(self)
