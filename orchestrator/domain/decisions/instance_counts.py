"""Plausibility of instance counts: the known minimum, and counts that contradict it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.domain.model.error_detail import ClientCode, ErrorDetail

if TYPE_CHECKING:
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.termination import Termination

_UNCOUNTED: Final = ErrorDetail(
    code=ClientCode.UNCOUNTED,
    message="the cloud's answer had no instance counters",
    advice="check in the console whether instances of the job are live: without counters it cannot "
    "be proven stopped",
)
_NO_INSTANCES: Final = ErrorDetail(
    code=ClientCode.NO_INSTANCES,
    message="the cloud counts no task instance of the job, in any state",
    advice="check in the console whether the job has instances: without a counted instance it "
    "cannot be proven stopped",
)


def known_instances(termination: Termination) -> int:
    """Return the minimum number of task instances of the job, by everything read about it.

    Sources: DescribeJobSubmitInfo (TaskInstanceNum of all tasks), the counters of the capture, and
    the largest earlier count. The number of instances never decreases.
    """
    counted = termination.drain.counters.total if termination.drain.counters else 0
    submitted, captured = termination.drain.instances_submitted or 0, 0
    if termination.captures.machines is not None:
        submitted = max(
            submitted, sum(task.instances for task in termination.captures.machines.tasks)
        )
        captured = termination.captures.machines.occupying + termination.captures.machines.waiting
    return max(counted, submitted, captured)


def contradiction(termination: Termination, seen: JobSeen) -> ErrorDetail | None:
    """Return why the count of this read proves nothing, or None if it adds up.

    Every task has at least one instance.
    """
    if seen.instances is None:
        return _UNCOUNTED
    total = seen.instances.total
    if not total:
        return _NO_INSTANCES
    known = max(len(seen.tasks or termination.drain.tasks), known_instances(termination))
    if total >= known:
        return None
    return ErrorDetail(
        code=ClientCode.COUNT_TOO_LOW,
        message=f"the cloud counts {total} task instances of the job, but it has at least {known}",
        advice="check in the console whether the others are live: the count cannot prove that they "
        "have stopped",
    )
