"""The daemon's answers, as far as they are read here; the rest is kept for ``--json``."""

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
    """What is left of jobs that have ended: ``live`` instances of ``jobs_live`` jobs."""

    jobs_live: int
    live: int
    jobs_not_counted: int


class Instances(_Answer):
    """Task instances of the jobs that have been counted so far."""

    total: int
    live: int
    stopped: int
    jobs_not_counted: int
    left_by_final_state: dict[str, Left] = {}

    @property
    def all_stopped(self) -> bool:
        return not (self.live or self.jobs_not_counted)


class QuotaUse(_Answer):
    """Calls a second of an action; None allowed: the account is configured no longer.

    ``allowed_per_s`` is less than ``configured_per_s`` while the cloud refuses more.
    """

    action: str
    allowed_per_s: float | None
    configured_per_s: int | None
    used_per_s: float


class Eta(_Answer):
    """It is so by then in half and in 90 % of all cases."""

    p50: datetime
    p90: datetime


class Progress(_Answer):
    """How far an operation is; ``jobs`` has the total and a count for each state.

    ``eta``: when the last instance is down; ``verified_eta``: when all jobs are verified.
    ``settle_until``: when the last settle window that runs is over.
    ``revived`` jobs came back after they were down.
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
    """What a person asked for."""

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
        """Whether every job was proven down, and none was seen to come back since."""
        return self.outcome == Outcome.VERIFIED and not self.progress.revived

    @property
    def total(self) -> int:
        return self.progress.jobs.get(TOTAL, 0)

    @property
    def done(self) -> int:
        return sum(self.progress.jobs.get(state, 0) for state in FINAL_STATES)

    @property
    def left(self) -> int:
        """Jobs that have ended with instances live, or not counted."""
        left = self.progress.instances.left_by_final_state.values()
        return sum(each.jobs_live + each.jobs_not_counted for each in left)

    @property
    def settles_only(self) -> bool:
        """Whether settle windows are all that is waited for."""
        return 0 < self.progress.jobs.get(State.SETTLING, 0) == self.total - self.done

    @property
    def elapsed_s(self) -> float | None:
        return elapsed_s(self.created_at, self.finished_at or datetime.now(UTC))

    def jobs_by_state(self) -> dict[str, int]:
        """The states that have jobs, in the order of the lifecycle."""
        return {
            state: jobs for state, jobs in self.progress.jobs.items() if jobs and state != TOTAL
        }

    def states_to_tell(self) -> list[str]:
        """The states of jobs that are not down, or did not end well."""
        return [state for state in self.jobs_by_state() if state not in PROVEN_STATES]


class OperationPage(_Answer):
    """A part of a list of operations."""

    operations: list[Operation]
    next_page_token: str | None


class Failure(_Answer):
    """What last went wrong with a job."""

    code: str
    message: str
    advice: str | None


class Termination(_Answer):
    """One job being brought down."""

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
    """A part of a list of terminations."""

    terminations: list[Termination]
    next_page_token: str | None


class Mistake(_Answer):
    """One entry of a problem's ``errors``."""

    field: str = ""
    message: str


class Problem(_Answer):
    """An error answer (RFC 9457)."""

    type: str = ""
    title: str
    detail: str = ""
    errors: list[Mistake] = []


class Readiness(BaseModel):
    """What /readyz says of a daemon that is ready; ``troubles``: of what, and which."""

    status: str
    troubles: dict[str, str] = {}
