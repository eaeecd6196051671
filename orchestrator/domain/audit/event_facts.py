"""What a decision rested on, as its event keeps it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

from orchestrator.domain.audit.hash_chain import timestamp
from orchestrator.domain.decisions.capture_coverage import missed

if TYPE_CHECKING:
    from orchestrator.domain.model.termination import Revival, Termination

_AS_THEY_ARE: Final = (
    "job_state",
    "job_end_time",
    "job_next_action",
    "observed_at",
    "instances_observed_at",
    "acknowledged_at",
)
OBSERVATIONS: Final = (*_AS_THEY_ARE, "instances", "error_code")


def observations(termination: Termination) -> dict[str, object]:
    """What is known of the job, and when that was so; what is not known is left out.

    ``job_state``, ``job_end_time`` and ``job_next_action`` ('' where nothing was pending) are the
    cloud's JobState, EndTime and NextAction as at ``observed_at``; ``instances`` its eight counters
    as at ``instances_observed_at`` (cloud.tencent.com/document/api/599/15912).  A call was
    acknowledged, or seen to be acted on, last at ``acknowledged_at``; what last went wrong has
    ``error_code``.
    """
    known = {name: getattr(termination, name) for name in _AS_THEY_ARE} | {
        "instances": termination.instances and asdict(termination.instances),
        "error_code": termination.problem and termination.problem.code,
    }
    return {
        name: timestamp(value) if isinstance(value, datetime) else value
        for name, value in known.items()
        if value is not None
    }


def machines(termination: Termination) -> dict[str, object]:
    """What is known of the job's machines, as ``machines``; nothing of one that was never called.

    ``total`` were captured of those that are the job's own, ``gone`` are gone and ``up`` were seen
    up as at ``observed_at`` (CVM DescribeInstances, cloud.tencent.com/document/api/213/15728); one
    of them at least was ``listed`` then or before.  ``not_captured`` says why more may exist,
    ``hidden`` is the code by which looking them up was refused.  ``nodes`` belong to compute
    environments and are not looked up.
    """
    if not termination.run:
        return {}
    known, capture = termination.machines, termination.capture
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
    """What the event of a revival tells."""
    known = {
        "job_state": revival.job_state,
        "job_end_time": revival.job_end_time,
        "instances_live": revival.instances_live,
        "observed_at": timestamp(revival.at),
        "reterminated_by": revival.reterminated_by,
    }
    return {name: value for name, value in known.items() if value is not None}
