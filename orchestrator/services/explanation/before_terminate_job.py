"""Explanations of jobs on which no TerminateJob of their current run is known to act."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from orchestrator.domain.decisions.capture_coverage import captured
from orchestrator.domain.model.termination import PollKind
from orchestrator.services.explanation.phrases import explain_poll, last_error_suffix
from orchestrator.services.explanation.values import Explanation, ExplanationContext

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Rate


def explain_queued(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.request.begins_after(context.now):
        return Explanation(
            waiting_for="its start time (not_before)",
            next_action="poll the job (DescribeJobs), then send TerminateJob",
            next_action_at=termination.request.not_before,
        )
    if termination.schedule.poll_kind is PollKind.SUBMIT_INFO:
        return explain_poll(
            termination,
            context,
            "the number of instances it was submitted with, because it may have finished already",
            "read that number (DescribeJobSubmitInfo), then count its instances (DescribeJob)",
        )
    if termination.job.finished and termination.schedule.poll_kind is PollKind.SINGLE:
        return explain_poll(
            termination,
            context,
            "a count of its instances, because its state is already finished",
            "count them (DescribeJob); send TerminateJob only if it is not proven stopped",
        )
    if termination.schedule.terminate_after is None:
        return explain_poll(
            termination,
            context,
            "a poll of the job before TerminateJob is sent",
            "poll the job, then send TerminateJob",
        )
    return queue_position(termination, termination.schedule.terminate_after, context)


def queue_position(
    termination: Termination, terminate_after: datetime, context: ExplanationContext
) -> Explanation:
    last_error = last_error_suffix(termination)
    if terminate_after > context.now:
        return Explanation(
            waiting_for=f"the time from which TerminateJob may be sent{last_error}",
            next_action="send TerminateJob",
            next_action_at=terminate_after,
        )
    captured_by = terminate_after + timedelta(seconds=context.capture_wait_s)
    if termination.captures.awaited and not captured(termination) and captured_by > context.now:
        return Explanation(
            waiting_for="its machines to be captured before TerminateJob is sent, "
            f"{context.capture_wait_s:g} s at most{last_error}",
            next_action="read its tasks and instances, then send TerminateJob",
            next_action_at=captured_by,
        )
    position = Explanation(
        waiting_for=f"its turn for TerminateJob; jobs ahead of it: {context.jobs_ahead}"
        f"{_allowed_suffix(context.rate)}{last_error}",
        next_action="send TerminateJob",
    )
    if context.rate is None:
        return position
    wait_s = context.jobs_ahead / context.rate.allowed_per_s
    return replace(position, next_action_at=context.now + timedelta(seconds=wait_s))


def _allowed_suffix(rate: Rate | None) -> str:
    """Return the request rate in words; only a replica configured for the partition knows it."""
    if rate is None:
        return ""
    if rate.allowed_per_s < rate.configured_per_s:
        return (
            f"; the cloud accepts {rate.allowed_per_s:.1f} requests a second for now; "
            f"{rate.configured_per_s} are configured"
        )
    return f"; {rate.configured_per_s} requests a second are allowed"


def explain_held(termination: Termination, context: ExplanationContext) -> Explanation:
    return explain_poll(
        termination,
        context,
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "poll the job again (DescribeJobs), then send TerminateJob ahead of other jobs",
    )


def explain_sending(termination: Termination, context: ExplanationContext) -> Explanation:
    if termination.calls.outcome_unknown:
        return explain_poll(
            termination,
            context,
            "a read of the job: it is not known whether its TerminateJob request had effect",
            "read the job (DescribeJob); send TerminateJob again only if the request had no effect",
        )
    return Explanation(
        waiting_for="the cloud's answer to TerminateJob", next_action="record the answer"
    )
