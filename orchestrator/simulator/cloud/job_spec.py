"""Specification of a simulated job: its properties and its behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB_ID: Final = re.compile(r"job-[a-z0-9]{8}")
SUBMITTED_CODES: Final = ("UnsupportedOperation", "ResourceInUse.Job")
REVIVED_STATES: Final = ("RUNNING", "PENDING", "RUNNABLE", "STARTING")
COUNTERS: Final = ("true", "stale", "empty", "none")
DRAIN_S: Final = 10.0
INSTANCE_DRAIN_S: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job. Durations count from when the job is added, unless stated otherwise."""

    job_id: str
    region: str = "ap-guangzhou"
    zone: str = "ap-guangzhou-3"
    name: str = "job"
    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    """Name of the group in the scenario; returned with the ground truth."""
    expect: tuple[str, ...] = ()
    """Final states that a correct orchestrator may report."""

    state: str = "RUNNING"
    """Initial JobState, and the state of every instance that is not in ``mix``."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Shares of each task's instances that are in other states, by state."""
    instances: int = 1
    tasks: int = 1

    drain_s: float = DRAIN_S
    """Time from TerminateJob until the last instance with a machine stops; they stop evenly."""
    instance_drain_s: float = INSTANCE_DRAIN_S
    """Time from TerminateTaskInstance until the instance stops."""
    stuck: int = 0
    """Number of instances that TerminateJob does not stop, but TerminateTaskInstance does."""
    immortal: int = 0
    """Number of instances that neither stops; TerminateInstances on their machines does."""
    failed_early_s: float = 0.0
    """Time that JobState reads FAILED before the last instance stops."""
    lying_counters_s: float = 0.0
    """Time after TerminateJob in which TaskInstanceMetrics counts live instances as FAILED."""
    counters: str = COUNTERS[0]
    """Counts of TaskInstanceMetrics after a TerminateJob and after ``lying_counters_s``: correct
    (``true``), those before the TerminateJob (``stale``), or all zero (``empty``). ``none``: the
    counts are always zero, even before a TerminateJob."""
    counted_max: int | None = None
    """Maximum number of instances that TaskInstanceMetrics counts, finished ones first."""
    finished_word: str | None = None
    """JobState reads this instead of SUCCEED and FAILED."""
    live_word: str | None = None
    """JobState reads this instead of any state of a live job but SUBMITTED."""
    next_action: str | None = None
    """NextAction always reads this."""
    next_action_hidden: bool = False
    """NextAction stays empty while the job is being terminated."""
    again: str = "in_use"
    """TerminateJob on a terminating job: ``in_use`` refuses it, ``ok`` accepts it."""
    submitted_s: float | None = None
    """Time that a SUBMITTED job stays SUBMITTED; None: forever."""
    submitted_code: str = SUBMITTED_CODES[0]
    """Error code of TerminateJob while SUBMITTED; the vendor documents none."""
    succeeds_after_s: float | None = None
    """Counted from the end of SUBMITTED; an earlier TerminateJob prevents it."""
    fails_after_s: float | None = None
    revive_after_s: float | None = None
    """Time from FAILED until another actor calls RetryJobs."""
    revivals: int = 1
    """Number of such revivals."""
    revived_state: str = REVIVED_STATES[0]
    """JobState, and the state of every instance, after a revival."""
    relapse_after_s: float | None = None
    """Time after the job stopped until ``relapse`` instances run again; JobState still reads
    FAILED, with the same EndTime."""
    relapse: int = 1
    vanish_after_s: float | None = None
    """Time after the job finished until another actor calls DeleteJob."""
    hidden_after_s: float = 0.0
    hidden_s: float = 0.0
    """Time in which API calls do not find the job, from ``hidden_after_s`` after it was added."""
    env_id: str | None = None
    """The job runs on nodes of a compute environment, which restart after the instances fail."""
    refuse_env: bool = False
    """TerminateJob and TerminateTaskInstance are refused because of ``env_id``."""
    node_restart_s: float = 0.0
    machine_linger_s: float = 0.0
    """Time that a machine exists after its instance has ended."""
    machines_stay: int = 0
    """Number of machines of each run that are released only by TerminateInstances."""
    starting_without_machine: bool = False
    """STARTING instances show no machine, since their machines are still being created."""
    orphan_s: float = 0.0
    """Time that a machine that was never shown exists after its instance has ended."""
    refuse: str | None = None
    """Error code of every TerminateJob."""
    forbidden: bool = False
    """Every API call that names the job gets UnauthorizedOperation."""
    forbidden_s: float = 0.0
    """Time after the job was added in which ``forbidden`` applies."""
