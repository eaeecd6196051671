"""Builders of terminations and observations for the tests of the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from orchestrator.domain.decisions.decision import Policy
from orchestrator.domain.decisions.escalation import EscalationPolicy
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import InstanceCounters, JobSeen, JobState, TaskSeen
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineCounts
from orchestrator.domain.model.observation import CallFailed
from orchestrator.domain.model.termination import Schedule, Termination, TerminationRequest
from orchestrator.domain.pacing.polling import PollPolicy
from tests.support.termination_fields import with_fields

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
POLICY = Policy(poll=PollPolicy(), escalation=EscalationPolicy(), batch_interval_s=1.0, jitter=0.0)
STOPPED = InstanceCounters(failed=10)
LIVE = InstanceCounters(running=4, failed=6)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def termination(state: State = State.QUEUED, **changes: Any) -> Termination:
    new = Termination(
        id="trm_1",
        account="main",
        region="ap-guangzhou",
        partition="main@host",
        job_id="job-1",
        request=TerminationRequest(created_at=NOW, settle_s=30.0, give_up_after_s=3600.0),
        state=state,
        schedule=Schedule(next_poll_at=NOW),
    )
    return with_fields(new, **changes)


def call_failed(error: CloudError) -> CallFailed:
    """Return a failed TerminateJob request of a job that was due for it."""
    return CallFailed(error, termination(terminate_after=NOW, run=1))


def batch_read(
    state: JobState | None, *, at: datetime = NOW, end_time: str | None = None
) -> JobSeen:
    """Return a job as DescribeJobs shows it."""
    return JobSeen(observed_at=at, job_id="job-1", state=state, end_time=end_time)


def read(
    state: JobState | None,
    instances: InstanceCounters | None = STOPPED,
    *,
    next_action: str = "",
    at: datetime = NOW,
) -> JobSeen:
    """Return a job as DescribeJob shows it."""
    return JobSeen(
        observed_at=at,
        job_id="job-1",
        state=state,
        next_action=next_action,
        instances=instances,
        tasks=(TaskSeen(name="t1", state=state),),
    )


def machines(total: int = 4, gone: int = 4, **known: Any) -> dict[str, Any]:
    """Return the fields of a job whose machines were all captured before TerminateJob."""
    capture = InstanceScan(run=1, occupying=total, captured=total, counted_at=NOW, ended_at=NOW)
    values: dict[str, Any] = {"listed": True, "observed_at": NOW, "all_observed_at": later(9000)}
    values |= known
    return {
        "run": 1,
        "first_sent_at": NOW,
        "capture": capture,
        "machines": MachineCounts(total=total, gone=gone, **values),
    }


def error(kind: CloudErrorKind) -> CloudError:
    return CloudError(kind, "Some.Code", "what happened", advice="do this")
