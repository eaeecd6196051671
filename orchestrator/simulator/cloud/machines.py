"""The CVM machines of task instances: which exist at a moment, and their state.

Every instance that holds or held a machine has its own machine. The machines of a job with an EnvId
are nodes of the environment. Nothing is stored per machine: its state follows from the range of its
instance, and TerminateInstances cuts the instance out of that range.

Machines are numbered. A new job gets the next free numbers, one for every instance of each run that
it can have, so that no two jobs share a number. A machine's id is its number multiplied by a
constant that is coprime with the number of ids, modulo that number. The mapping is unique and
invertible, so a job is found from a machine id by arithmetic and a bisection.
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
"""Not 0, so that `ins-00000000` is not a machine."""
RUN: Final = "RunInstances"
REBOOT: Final = "RebootInstances"
RUNNING: Final = "RUNNING"


@dataclass(frozen=True, slots=True)
class MachineRange:
    """Machines of neighbouring instances of one run that have one state at one moment."""

    job: Job
    run: int
    first: int
    count: int
    state: str
    operation: str
    """The last operation; in any state other than RUNNING it is still in progress."""

    @property
    def end(self) -> int:
        return self.first + self.count


class Fleet:
    """The machine numbers of all jobs."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._firsts: list[int] = []
        self.next_number = FIRST_NUMBER
        """The first free number."""

    def add(self, job: Job) -> None:
        """Add a job whose numbers begin at ``next_number``."""
        self._jobs.append(job)
        self._firsts.append(job.first_machine)
        runs = 1 + job.spec.revivals
        self.next_number = job.first_machine + runs * job.spec.instances

    def find(self, machine_id: str) -> tuple[Job, int, int] | None:
        """Return the job, its run and the instance index of a machine; None if it has no job."""
        code = int(machine_id.removeprefix(PREFIX), len(ALPHABET))
        number = code * GATHER % NUMBERS
        if not FIRST_NUMBER <= number < self.next_number:
            return None
        job = self._jobs[bisect_right(self._firsts, number) - 1]
        return job, *divmod(number - job.first_machine, job.spec.instances)


def machine_id(job: Job, run: int, index: int) -> str:
    """Return the machine id of an instance of a run; the index runs over all tasks of the job."""
    left = (job.first_machine + run * job.spec.instances + index) * SCATTER % NUMBERS
    places = []
    for _ in range(WIDTH):
        left, place = divmod(left, len(ALPHABET))
        places.append(ALPHABET[place])
    return PREFIX + "".join(reversed(places))


def machines(job: Job, now: float) -> Iterator[MachineRange]:
    """Yield the machines of a job that exist now; the job must be advanced to ``now``."""
    for run, spans in enumerate(job.runs):
        for span in spans:
            yield from machines_of(job, run, span, now)


def machine(job: Job, run: int, index: int, now: float) -> MachineRange | None:
    """Return one machine of a job at ``now``; None if it does not exist."""
    for span in job.runs[run] if run < len(job.runs) else ():
        if span.first <= index < span.end:
            for each in machines_of(job, run, span, now):
                if each.first <= index < each.end:
                    return replace(each, first=index, count=1)
    return None


def machines_gone_at(job: Job, now: float) -> float | None:
    """Return when the last machine was released; None while one exists or if there was none."""
    if any(machines(job, now)):
        return None
    held = [span for run in job.runs for span in run if span.state in OCCUPYING]
    releases = ((_release_schedule(job.spec, span), span.count) for span in held)
    return max((release.at(count - 1) for release, count in releases if release), default=None)


def is_hidden(spec: JobSpec, state: str) -> bool:
    """Return whether DescribeTask hides the existing machine of an instance in this state."""
    return spec.starting_without_machine and state == "STARTING"


def machines_of(job: Job, run: int, span: InstanceRange, now: float) -> Iterator[MachineRange]:
    """Yield the existing machines of a range in index order, in which their instances end."""
    if span.state not in OCCUPYING:
        return
    gone = _reached(_release_schedule(job.spec, span), span, now)
    ended = max(gone, _reached(span.ending, span, now))
    restarted = max(gone, min(ended, _reached(_restart_schedule(job.spec, span), span, now)))
    bounds = (gone, restarted, ended, span.count)
    for (first, end), reading in zip(pairwise(bounds), _readings(job.spec, span), strict=True):
        if first < end:
            yield MachineRange(job, run, span.first + first, end - first, *reading)


def _readings(spec: JobSpec, span: InstanceRange) -> tuple[Reading, Reading, Reading]:
    """Return state and last operation after a restart, after the instance's end, and before it."""
    if span.released_at is not None:
        terminating = ("TERMINATING", "TerminateInstances")
        return terminating, terminating, terminating
    ended = (RUNNING, RUN) if _restart_schedule(spec, span) is None else ("REBOOTING", REBOOT)
    return (
        (RUNNING, REBOOT),
        ended,
        ("PENDING" if is_hidden(spec, span.state) else RUNNING, RUN),
    )


def _release_schedule(spec: JobSpec, span: InstanceRange) -> ExitSchedule | None:
    """Return when the machines are released one after the other; None if nothing releases them."""
    release = None
    if span.ending is not None and spec.env_id is None and not span.machine_stays:
        hidden = is_hidden(spec, span.state)
        release = _delayed(span.ending, spec.orphan_s if hidden else spec.machine_linger_s)
    if span.released_at is None or (release and release.first_at <= span.released_at):
        return release
    return ExitSchedule("GONE", span.released_at)


def _restart_schedule(spec: JobSpec, span: InstanceRange) -> ExitSchedule | None:
    """Return when nodes of an environment have restarted after a failed instance, else None."""
    if spec.env_id is None or span.ending is None or span.ending.state != "FAILED":
        return None
    return _delayed(span.ending, spec.node_restart_s)


def _delayed(ending: ExitSchedule, by_s: float) -> ExitSchedule:
    return replace(ending, first_at=ending.first_at + by_s)


def _reached(ending: ExitSchedule | None, span: InstanceRange, now: float) -> int:
    return 0 if ending is None else ending.reached(now, span.count)
