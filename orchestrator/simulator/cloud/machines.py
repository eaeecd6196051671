"""The CVM machines behind task instances: which there are at a moment, and what they read.

Every instance that holds a machine, or held one, has its own; those of a job with an EnvId are
nodes of the environment.  Nothing is kept per machine: what it reads follows from the range that
its instance lies in, and TerminateInstances cuts the instance out of that range.

Machines are numbered.  A job that is added gets the next numbers for itself, one for every instance
of each run that it may have, so that no two jobs share one, and a machine's id is its number in
disguise: multiplied by a constant that shares no factor with the number of ids, modulo that number,
which makes different numbers different ids and can be undone.  So an id leads to its job by
arithmetic and a bisection.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import pairwise
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.cloud.instance_ranges import OCCUPYING, ExitSchedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.simulator.cloud.instance_ranges import InstanceRange
    from orchestrator.simulator.cloud.job import Job
    from orchestrator.simulator.cloud.job_spec import JobSpec

    Reading = tuple[str, str]

MACHINE_ID: Final = re.compile(r"ins-[a-z0-9]{8}")
PREFIX: Final = "ins-"
ALPHABET: Final = digits + ascii_lowercase
WIDTH: Final = 8
NUMBERS: Final = len(ALPHABET) ** WIDTH
SCATTER: Final = 1_743_500_676_553
GATHER: Final = pow(SCATTER, -1, NUMBERS)
FIRST_NUMBER: Final = 1
"""So that `ins-00000000` is no machine."""
RUN: Final = "RunInstances"
REBOOT: Final = "RebootInstances"
RUNNING: Final = "RUNNING"


@dataclass(frozen=True, slots=True)
class MachineRange:
    """Machines of neighbouring instances of one run that read the same at one moment."""

    job: Job
    run: int
    first: int
    count: int
    state: str
    operation: str
    """The last one, which is still under way in any state but RUNNING."""

    @property
    def end(self) -> int:
        return self.first + self.count


class Fleet:
    """Which job has which machine numbers."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._firsts: list[int] = []
        self.next_number = FIRST_NUMBER
        """The first number that no job has."""

    def add(self, job: Job) -> None:
        """Take in a job whose numbers begin at ``next_number``."""
        self._jobs.append(job)
        self._firsts.append(job.first_machine)
        runs = 1 + job.spec.revivals
        self.next_number = job.first_machine + runs * job.spec.instances

    def find(self, machine_id: str) -> tuple[Job, int, int] | None:
        """The job, its run and the index of the instance; None where no job has the number."""
        code = int(machine_id.removeprefix(PREFIX), len(ALPHABET))
        number = code * GATHER % NUMBERS
        if not FIRST_NUMBER <= number < self.next_number:
            return None
        job = self._jobs[bisect_right(self._firsts, number) - 1]
        return job, *divmod(number - job.first_machine, job.spec.instances)


def machine_id(job: Job, run: int, index: int) -> str:
    """The id of the machine of an instance, over all tasks of the job, in a run."""
    left = (job.first_machine + run * job.spec.instances + index) * SCATTER % NUMBERS
    places = []
    for _ in range(WIDTH):
        left, place = divmod(left, len(ALPHABET))
        places.append(ALPHABET[place])
    return PREFIX + "".join(reversed(places))


def machines(job: Job, now: float) -> Iterator[MachineRange]:
    """Every machine of a job that exists now; the job must have been advanced."""
    for run, spans in enumerate(job.runs):
        for span in spans:
            yield from machines_of(job, run, span, now)


def machine(job: Job, run: int, index: int, now: float) -> MachineRange | None:
    """One machine of a job as it is now; None where it does not exist."""
    for span in job.runs[run] if run < len(job.runs) else ():
        if span.first <= index < span.end:
            for some in machines_of(job, run, span, now):
                if some.first <= index < some.end:
                    return replace(some, first=index, count=1)
    return None


def machines_gone_at(job: Job, now: float) -> float | None:
    """When the last machine went; None while one exists, and where there was none."""
    if any(machines(job, now)):
        return None
    held = [span for run in job.runs for span in run if span.state in OCCUPYING]
    leavings = ((_leaving(job.spec, span), span.count) for span in held)
    return max((leaving.at(count - 1) for leaving, count in leavings if leaving), default=None)


def is_hidden(spec: JobSpec, state: str) -> bool:
    """Whether DescribeTask shows no machine for an instance in this state although there is one."""
    return spec.starting_without_machine and state == "STARTING"


def machines_of(job: Job, run: int, span: InstanceRange, now: float) -> Iterator[MachineRange]:
    """Those that exist, in index order, which is the order in which their instances end."""
    if span.state not in OCCUPYING:
        return
    gone = _reached(_leaving(job.spec, span), span, now)
    ended = max(gone, _reached(span.ending, span, now))
    restarted = max(gone, min(ended, _reached(_restarting(job.spec, span), span, now)))
    bounds = (gone, restarted, ended, span.count)
    for (first, end), reading in zip(pairwise(bounds), _readings(job.spec, span), strict=True):
        if first < end:
            yield MachineRange(job, run, span.first + first, end - first, *reading)


def _readings(spec: JobSpec, span: InstanceRange) -> tuple[Reading, Reading, Reading]:
    """State and last operation after a restart, after the instance has ended, and before that."""
    if span.taken_until is not None:
        taken = ("TERMINATING", "TerminateInstances")
        return taken, taken, taken
    ended = (RUNNING, RUN) if _restarting(spec, span) is None else ("REBOOTING", REBOOT)
    return (
        (RUNNING, REBOOT),
        ended,
        ("PENDING" if is_hidden(spec, span.state) else RUNNING, RUN),
    )


def _leaving(spec: JobSpec, span: InstanceRange) -> ExitSchedule | None:
    """When the machines go, one after the other; None where nothing makes them go."""
    leaving = None
    if span.ending is not None and spec.env_id is None and not span.stays:
        hidden = is_hidden(spec, span.state)
        leaving = _later(span.ending, spec.orphan_s if hidden else spec.machine_linger_s)
    if span.taken_until is None or (leaving and leaving.first_at <= span.taken_until):
        return leaving
    return ExitSchedule("GONE", span.taken_until)


def _restarting(spec: JobSpec, span: InstanceRange) -> ExitSchedule | None:
    """When nodes of an environment have restarted, which they do after a failure."""
    if spec.env_id is None or span.ending is None or span.ending.state != "FAILED":
        return None
    return _later(span.ending, spec.node_restart_s)


def _later(ending: ExitSchedule, by_s: float) -> ExitSchedule:
    return replace(ending, first_at=ending.first_at + by_s)


def _reached(ending: ExitSchedule | None, span: InstanceRange, now: float) -> int:
    return 0 if ending is None else ending.reached(now, span.count)
