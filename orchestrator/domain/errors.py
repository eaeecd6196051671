"""The one error tree.

::

    OrchestratorError
    ├── ConfigurationError      the configuration cannot be used; lists every mistake
    ├── RequestError            the caller's request cannot be served as it stands
    │   ├── InvalidRequest
    │   ├── NotFound
    │   ├── Conflict
    │   └── NotPossible
    ├── StoreUnavailable        the database cannot be used now
    │   └── RowsLocked          another session has locked what is to be written
    ├── NotDriving              a replica cannot drive what it should
    ├── LeaseLost               another replica drives the partition, or may
    ├── IllegalTransition       a bug: an event that the lifecycle table does not allow
    ├── InvariantViolated       a bug: a decision that must not be written
    └── CloudError              a cloud call did not succeed; ``kind`` says what follows from it
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class OrchestratorError(Exception):
    """Root of everything this program raises on purpose."""


class ConfigurationError(OrchestratorError):
    """The configuration cannot be used."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class RequestError(OrchestratorError):
    """A request that cannot be served as it stands; the message says what to do."""


class InvalidRequest(RequestError):
    """The request is well-formed and says something that cannot be done."""


class NotFound(RequestError):
    """Nothing has this id."""


class Conflict(RequestError):
    """The request contradicts what is stored."""


class NotPossible(RequestError):
    """What is asked for is not possible as things are."""


class NotDriving(OrchestratorError):
    """A replica cannot drive what it should, and the message says why."""


class StoreUnavailable(OrchestratorError):
    """The database cannot be used now; nothing was stored."""


class RowsLocked(StoreUnavailable):
    """Another session of the database has locked what was to be written; nothing was stored.

    ``termination_ids``: the terminations that wait for it from now on.
    """

    def __init__(self, message: str, termination_ids: Collection[str] = ()) -> None:
        super().__init__(message)
        self.termination_ids = termination_ids


class LeaseLost(OrchestratorError):
    """The partition is not this replica's any more, or may not be: nothing was written or sent."""


class IllegalTransition(OrchestratorError):
    """The lifecycle table has no such transition."""


class InvariantViolated(OrchestratorError):
    """A decision would break an invariant: nothing was written."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"invariant {invariant} violated: {what}")
        self.invariant = invariant


class CloudErrorKind(StrEnum):
    """What a failed cloud call means for the termination it was made for."""

    THROTTLED = "throttled"
    """Refused by the rate limit before it reached the back end: not executed."""
    NOT_SENT = "not_sent"
    """The request never left, or was turned away before it was read: not executed."""
    OUTCOME_UNKNOWN = "outcome_unknown"
    """It may have been executed: read the job before anything else."""
    STATE_CONFLICT = "state_conflict"
    """The job's present state forbids it: read the state and decide again."""
    JOB_NOT_FOUND = "job_not_found"
    """The cloud does not know the job (or it lives in another region)."""
    REFUSED = "refused"
    """Refused for good for this job."""
    UNAUTHORIZED = "unauthorized"
    """The account may not do this to this job, or its endpoint does not offer it: that may change.
    """
    CREDENTIAL = "credential"
    """The credential itself is not accepted: every call of the account fails alike."""
    CLOCK_SKEW = "clock_skew"
    """The signature's time is too far from the cloud's clock: not executed."""


class CloudError(OrchestratorError):
    """A cloud call that did not succeed.

    ``code`` is the vendor's code (or our own ``Client.*`` where no answer came), ``advice`` says
    what a person can do, ``quota_ceiling`` is the calls-per-second ceiling that a throttling
    message named.
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
        super().__init__(f"{code}: {message}")
        self.kind = kind
        self.code = code
        self.message = message
        self.request_id = request_id
        self.advice = advice
        self.quota_ceiling = quota_ceiling
