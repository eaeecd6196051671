"""What a count of task instances is worth: how many there must be, and when a count denies that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.error_detail import ErrorDetail

if TYPE_CHECKING:
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination

_UNCOUNTED: Final = ErrorDetail(
    code="Client.Uncounted",
    message="the cloud's answer had no instance counters",
    advice="see in the console whether instances of the job are live: without counters it cannot "
    "be proven stopped",
)
_NO_INSTANCES: Final = ErrorDetail(
    code="Client.NoInstances",
    message="the cloud counts no task instance of the job, in any state",
    advice="see in the console whether the job has instances: without one that is counted it "
    "cannot be proven stopped",
)


def known_instances(termination: Termination) -> int:
    """How many task instances the job has at least, by all that was read of it.

    Sources: DescribeJobSubmitInfo (TaskInstanceNum of all tasks), the counters of the capture, and
    the largest count before.  Instances never become fewer.
    """
    counted = termination.instances.total if termination.instances else 0
    submitted, captured = termination.instances_submitted or 0, 0
    if termination.capture is not None:
        submitted = max(submitted, sum(task.instances for task in termination.capture.tasks))
        captured = termination.capture.occupying + termination.capture.waiting
    return max(counted, submitted, captured)


def contradiction(termination: Termination, seen: JobSeen) -> ErrorDetail | None:
    """Why the count of this read proves nothing; None: it adds up.

    Every task has one instance at least.
    """
    if seen.instances is None:
        return _UNCOUNTED
    total = seen.instances.total
    if not total:
        return _NO_INSTANCES
    known = max(len(seen.tasks or termination.tasks), known_instances(termination))
    if total >= known:
        return None
    return ErrorDetail(
        code="Client.CountTooLow",
        message=f"the cloud counts {total} task instances of the job, but it has {known} at least",
        advice="see in the console whether the others are live: the count cannot prove that they "
        "have stopped",
    )
