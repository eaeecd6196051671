"""The view of one API call on the cloud: the jobs and machines of its region."""

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
"""The possible names of DescribeTask's only filter.

The vendor's sites disagree: cloud.tencent.com/document/api/599/15905 has the first name, and
tencentcloud.com/document/product/599/30555 the second.
"""


class Region:
    """The view of a call at ``now``: the machines and the existing jobs of its region.

    The machines of a vanished job are still visible.
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
        """Accepted names of DescribeTask's filter."""
        self._name = name
        self._jobs = jobs
        self._fleet = fleet

    def jobs(self, job_ids: tuple[str, ...]) -> Iterable[Job]:
        """Return the visible jobs with these ids; without ids, all visible jobs."""
        wanted = dict.fromkeys(job_ids or self._jobs)
        named = (self._jobs[job_id] for job_id in wanted if job_id in self._jobs)
        return (job for job in named if self._is_visible(job))

    def job(self, job_id: str, *, missing: str = "ResourceNotFound.Job") -> Job:
        """Return the job with this id; raise ``ApiError`` if it is forbidden or not visible."""
        self.check_ids([job_id])
        job = self._jobs.get(job_id)
        if job is None or not self._is_visible(job):
            raise ApiError(missing, "The resource is not found.")
        return job

    def check_ids(self, job_ids: Iterable[str]) -> None:
        """Raise ``ApiError`` if an id is malformed or its job is forbidden."""
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
        """Yield every machine that exists in the region."""
        for job in self._jobs.values():
            if self._is_in_region(job):
                yield from machines(job, self.now)

    def machine(self, machine_id: str) -> MachineRange | None:
        """Return the machine with this well-formed id; None if the region has no such machine."""
        found = self._fleet.find(machine_id)
        if found is None or not self._is_in_region(found[0]):
            return None
        return machine(*found, self.now)

    def _is_visible(self, job: Job) -> bool:
        if not self._is_in_region(job):
            return False
        return job.vanished_at(self.now) is None and not job.hidden(self.now)

    def _is_in_region(self, job: Job) -> bool:
        """Return whether the job is in the region, and advance it to ``now`` if so."""
        if job.spec.region != self._name:
            return False
        job.advance(self.now)
        return True
