"""What a job of a scenario is and will do."""

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
    """One job.  Durations count from when it is added, where nothing else is said."""

    job_id: str
    region: str = "ap-guangzhou"
    zone: str = "ap-guangzhou-3"
    name: str = "job"
    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    label: str | None = None
    """The group's name in the scenario, handed back with the truth."""
    expect: tuple[str, ...] = ()
    """The final states a correct orchestrator may give it."""

    state: str = "RUNNING"
    """JobState at first, and the state of every instance that ``mix`` does not name."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Shares of each task's instances that are in another state."""
    instances: int = 1
    tasks: int = 1

    drain_s: float = DRAIN_S
    """From TerminateJob until the last instance with a machine is down; they go evenly."""
    instance_drain_s: float = INSTANCE_DRAIN_S
    """The same for TerminateTaskInstance."""
    stuck: int = 0
    """So many instances stay up after TerminateJob; TerminateTaskInstance brings them down."""
    immortal: int = 0
    """So many stay up after both, until TerminateInstances takes their machines."""
    failed_early_s: float = 0.0
    """JobState reads FAILED so long before the last instance is down."""
    lying_counters_s: float = 0.0
    """After TerminateJob, for so long, TaskInstanceMetrics counts live instances as FAILED."""
    counters: str = COUNTERS[0]
    """What TaskInstanceMetrics counts after a TerminateJob, and after ``lying_counters_s``: what
    is ``true``, what was so before it (``stale``), or nothing at all (``empty``).  ``none``:
    nothing is ever counted, before a TerminateJob either."""
    counted_max: int | None = None
    """TaskInstanceMetrics counts this many instances at most, finished ones first."""
    finished_word: str | None = None
    """JobState reads this instead of SUCCEED and FAILED."""
    live_word: str | None = None
    """JobState reads this instead of any state of a live job but SUBMITTED."""
    next_action: str | None = None
    """NextAction reads this at all times."""
    next_action_hidden: bool = False
    """NextAction stays empty while the job is being terminated."""
    again: str = "in_use"
    """TerminateJob on a terminating job: ``in_use`` refuses it, ``ok`` accepts it."""
    submitted_s: float | None = None
    """How long a SUBMITTED job stays so; None for ever."""
    submitted_code: str = SUBMITTED_CODES[0]
    """The code that TerminateJob gives meanwhile; the vendor documents none."""
    succeeds_after_s: float | None = None
    """Counted from when it stops being SUBMITTED; a TerminateJob before that prevents it."""
    fails_after_s: float | None = None
    revive_after_s: float | None = None
    """RetryJobs by another actor, so long after it failed."""
    revivals: int = 1
    """How often that happens."""
    revived_state: str = REVIVED_STATES[0]
    """JobState then, and the state of every instance."""
    relapse_after_s: float | None = None
    """So long after the job went down, ``relapse`` instances run again; JobState still reads
    FAILED, with the same EndTime."""
    relapse: int = 1
    vanish_after_s: float | None = None
    """DeleteJob by another actor, so long after it finished."""
    hidden_after_s: float = 0.0
    hidden_s: float = 0.0
    """No call finds the job for this long, beginning ``hidden_after_s`` after it was added."""
    env_id: str | None = None
    """The job runs on nodes of a compute environment, which restart after the instances fail."""
    refuse_env: bool = False
    """TerminateJob and TerminateTaskInstance are refused because of ``env_id``."""
    node_restart_s: float = 0.0
    machine_linger_s: float = 0.0
    """A machine lives on so long after its instance has ended."""
    machines_stay: int = 0
    """So many machines of each run are not given back, until TerminateInstances takes them."""
    starting_without_machine: bool = False
    """STARTING instances show no machine, for theirs are still being created."""
    orphan_s: float = 0.0
    """So long after its instance has ended, a machine lives on that was never shown."""
    refuse: str | None = None
    """The code that every TerminateJob gets."""
    forbidden: bool = False
    """Any call that names the job gets UnauthorizedOperation."""
    forbidden_s: float = 0.0
    """The same, but only for so long after it was added."""
