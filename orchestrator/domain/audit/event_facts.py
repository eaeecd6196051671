"""Facts of an event: the observations that its decision was based on."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

from orchestrator.domain.audit.hash_chain import timestamp
from orchestrator.domain.decisions.capture_coverage import missed

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Revival, Termination

OBSERVATIONS: Final = (
    "job_state",
    "job_end_time",
    "job_next_action",
    "observed_at",
    "instances_observed_at",
    "acknowledged_at",
    "instances",
    "error_code",
)


def observations(termination: Termination) -> dict[str, object]:
    """Return what is known of the job and when it was observed; unknown values are left out.

    ``job_state``, ``job_end_time`` and ``job_next_action`` ('' if nothing was pending) are the
    cloud's JobState, EndTime and NextAction at ``observed_at``. ``instances`` holds its eight
    counters at ``instances_observed_at`` (cloud.tencent.com/document/api/599/15912).
    ``acknowledged_at`` is the last time at which a TerminateJob request was acknowledged or was
    observed to have had effect; a job that reads FAILED after a request of unknown outcome counts
    as such. ``error_code`` is the code of the last error.
    """
    job, drain = termination.job, termination.drain
    known = {
        "job_state": job.state,
        "job_end_time": job.end_time,
        "job_next_action": job.next_action,
        "observed_at": job.observed_at,
        "instances_observed_at": drain.counted_at,
        "acknowledged_at": termination.calls.acknowledged_at,
        "instances": drain.counters and asdict(drain.counters),
        "error_code": termination.problem and termination.problem.code,
    }
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in known.items()
        if value is not None
    }


def machines(termination: Termination) -> dict[str, object]:
    """Return what is known of the job's machines, under the name ``machines``.

    The result is empty if no TerminateJob request was made for the job. ``total`` machines of the
    job's own were captured. At ``observed_at``, ``gone`` of them were gone and ``up`` were up (CVM
    DescribeInstances, cloud.tencent.com/document/api/213/15728). ``listed`` says whether
    DescribeInstances listed at least one of them, then or before. ``not_captured`` says why more
    machines may exist. ``hidden`` is the error code if DescribeInstances was refused. ``nodes``
    belong to compute environments; DescribeInstances is not called for them.
    """
    if not termination.calls.run:
        return {}
    known, capture = termination.machines, termination.captures.machines
    return {
        "machines": {
            "total": known.total,
            "up": known.up,
            "gone": known.gone,
            "nodes": capture.nodes if capture else 0,
            "listed": known.listed,
            "not_captured": missed(termination),
            "hidden": known.problem and known.problem.code,
            "observed_at": known.observed_at and timestamp(known.observed_at),
        }
    }


def of_revival(revival: Revival) -> dict[str, object]:
    """Return the facts of the event of a revival."""
    known = {
        "job_state": revival.job_state,
        "job_end_time": revival.job_end_time,
        "instances_live": revival.instances_live,
        "observed_at": timestamp(revival.at),
        "reterminated_by": revival.reterminated_by,
    }
    return {name: value for name, value in known.items() if value is not None}
