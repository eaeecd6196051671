"""What a call can see of the cloud: the jobs of its region, and what this cloud calls things."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.simulator.cloud.job_spec import JOB_ID
from orchestrator.simulator.cloud.machines import machine, machines
from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator.simulator.cloud.job import Job
    from orchestrator.simulator.cloud.machines import Fleet, MachineRange

STATE: Final = "task-instance-state"
TYPE: Final = "task-instance-type"
FILTER_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "either": frozenset({STATE, TYPE}),
    STATE: frozenset({STATE}),
    TYPE: frozenset({TYPE}),
}
"""The names that a cloud may know the one filter of DescribeTask by.

The vendor's sites disagree: cloud.tencent.com/document/api/599/15905 has the first, and
tencentcloud.com/document/product/599/30555 the second.
"""


class Region:
    """What a call can see at ``now``: the jobs of its region that have not vanished, and machines.

    The machines of a job that has vanished can still be seen.
    """

    def __init__(
        self,
        name: str,
        *,
        jobs: Mapping[str, Job],
        fleet: Fleet,
        instance_filters: frozenset[str],
        now: float,
    ) -> None:
        self.now = now
        self.instance_filters = instance_filters
        """The names that DescribeTask's filter has here."""
        self._name = name
        self._jobs = jobs
        self._fleet = fleet

    def jobs(self, job_ids: tuple[str, ...]) -> Iterable[Job]:
        """The jobs of these ids as far as the call can see them; of no ids, all of them."""
        wanted = dict.fromkeys(job_ids or self._jobs)
        named = (self._jobs[job_id] for job_id in wanted if job_id in self._jobs)
        return (job for job in named if self._sees(job))

    def job(self, job_id: str, *, missing: str = "ResourceNotFound.Job") -> Job:
        """The job of this id; raises ``ApiError`` where the call may not or cannot see it."""
        self.check_ids([job_id])
        job = self._jobs.get(job_id)
        if job is None or not self._sees(job):
            raise ApiError(missing, "The resource is not found.")
        return job

    def check_ids(self, job_ids: Iterable[str]) -> None:
        """Every id must be well formed and none may be forbidden."""
        for job_id in job_ids:
            if not JOB_ID.fullmatch(job_id):
                raise ApiError(
                    "InvalidParameter.JobIdMalformed", f"The job id `{job_id}` is malformed."
                )
            job = self._jobs.get(job_id)
            if job is not None and job.forbidden(self.now):
                raise ApiError(
                    "UnauthorizedOperation", f"You are not authorized to operate on {job_id}."
                )

    def machines(self) -> Iterator[MachineRange]:
        """Every machine that exists in the region."""
        for job in self._jobs.values():
            if self._reaches(job):
                yield from machines(job, self.now)

    def machine(self, machine_id: str) -> MachineRange | None:
        """The machine of this well-formed id; None where the region has none such."""
        found = self._fleet.find(machine_id)
        if found is None or not self._reaches(found[0]):
            return None
        return machine(*found, self.now)

    def _sees(self, job: Job) -> bool:
        return self._reaches(job) and job.vanished_at(self.now) is None and not job.hidden(self.now)

    def _reaches(self, job: Job) -> bool:
        """Whether the job lives in the region; then it is as it should be by now."""
        if job.spec.region != self._name:
            return False
        job.advance(self.now)
        return True
