"""Models of the daemon's responses. Members that no model names are kept for ``--json``."""

from datetime import UTC, datetime
from typing import Final

from pydantic import BaseModel, ConfigDict

from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.model.lifecycle import FINAL_STATES, PROVEN_STATES, State
from orchestrator.domain.model.operation import Outcome

TOTAL: Final = "total"


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class Left(_Answer):
    """Remaining instances of ended terminations: ``live`` instances in ``jobs_live`` jobs."""

    jobs_live: int
    live: int
    jobs_not_counted: int


class Instances(_Answer):
    """Task instances of the jobs that were counted so far."""

    total: int
    live: int
    stopped: int
    jobs_not_counted: int
    left_by_final_state: dict[str, Left] = {}

    @property
    def all_stopped(self) -> bool:
        return not (self.live or self.jobs_not_counted)


class QuotaUse(_Answer):
    """API calls per second of one action.

    ``allowed_per_s`` is less than ``configured_per_s`` while the cloud refuses more. Both are None
    if the account is no longer configured.
    """

    action: str
    allowed_per_s: float | None
    configured_per_s: int | None
    used_per_s: float


class Eta(_Answer):
    """Times at which an event has happened with 50 % and with 90 % probability."""

    p50: datetime
    p90: datetime


class Progress(_Answer):
    """Progress of an operation; ``jobs`` has the total and a count for each state.

    ``eta``: when the last instance has stopped. ``verified_eta``: when all jobs are verified.
    ``settle_until``: when the last running settle window ends.
    ``revived``: number of jobs that run again after they had stopped.
    """

    jobs: dict[str, int]
    instances: Instances
    quota: QuotaUse
    eta: Eta | None = None
    verified_eta: Eta | None = None
    settle_until: datetime | None = None
    stalled_since: datetime | None = None
    revived: int = 0
    observed_at: datetime | None


class Operation(_Answer):
    """One request to terminate jobs, and its progress."""

    id: str
    account: str
    region: str
    state: str
    outcome: str | None
    reason: str
    requested_by: str
    created_at: datetime
    finished_at: datetime | None
    progress: Progress

    @property
    def finished(self) -> bool:
        return self.finished_at is not None

    @property
    def stays_stopped(self) -> bool:
        """True if every job is proven stopped and no revival was observed."""
        return self.outcome == Outcome.VERIFIED and not self.progress.revived

    @property
    def total(self) -> int:
        return self.progress.jobs.get(TOTAL, 0)

    @property
    def done(self) -> int:
        return sum(self.progress.jobs.get(state, 0) for state in FINAL_STATES)

    @property
    def left(self) -> int:
        """Number of ended jobs with live or uncounted instances."""
        left = self.progress.instances.left_by_final_state.values()
        return sum(each.jobs_live + each.jobs_not_counted for each in left)

    @property
    def only_settling(self) -> bool:
        """True if every job that has not ended is in its settle window."""
        return 0 < self.progress.jobs.get(State.SETTLING, 0) == self.total - self.done

    @property
    def elapsed_s(self) -> float | None:
        return elapsed_s(self.created_at, self.finished_at or datetime.now(UTC))

    def jobs_by_state(self) -> dict[str, int]:
        """Return the number of jobs in each state that has any, in lifecycle order."""
        return {
            state: jobs for state, jobs in self.progress.jobs.items() if jobs and state != TOTAL
        }

    def states_to_report(self) -> list[str]:
        """Return the states of jobs that are not proven stopped: still open, or ended otherwise."""
        return [state for state in self.jobs_by_state() if state not in PROVEN_STATES]


class OperationPage(_Answer):
    """One page of a list of operations."""

    operations: list[Operation]
    next_page_token: str | None


class Failure(_Answer):
    """The last error of a termination."""

    code: str
    message: str
    advice: str | None


class Termination(_Answer):
    """The termination of one job."""

    id: str
    job_id: str
    job_name: str | None
    state: str
    evidence: int
    waiting_for: str | None
    next_action: str | None
    next_action_at: datetime | None
    error: Failure | None


class TerminationPage(_Answer):
    """One page of a list of terminations."""

    terminations: list[Termination]
    next_page_token: str | None


class Mistake(_Answer):
    """One entry of ``errors`` in an error response."""

    field: str = ""
    message: str


class Problem(_Answer):
    """An error response (RFC 9457)."""

    type: str = ""
    title: str
    detail: str = ""
    errors: list[Mistake] = []


class Readiness(BaseModel):
    """Response of ``/readyz`` while the daemon is ready; ``troubles``: the reason by place."""

    status: str
    troubles: dict[str, str] = {}
