"""What a decision rested on, as its event keeps it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Final

from orchestrator.domain.chain import timestamp

if TYPE_CHECKING:
    from orchestrator.domain.terminations import Termination

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
