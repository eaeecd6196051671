"""The actions of the service Batch: their effect on jobs, and their responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.simulator.api import documents
from orchestrator.simulator.api.paging import check_page
from orchestrator.simulator.api.submit_info import submit_info
from orchestrator.simulator.cloud.instance_ranges import STATES
from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.simulator.api.parameters import Arguments, Filter
    from orchestrator.simulator.cloud.job import Job
    from orchestrator.simulator.cloud.region import Region

    Document = Mapping[str, object]
    Action = Callable[[Region, Arguments], Document]

JOB_IDS_MAX: Final = 100
JOBS_LIMIT: Final = 20
JOBS_LIMIT_MAX: Final = 100
INSTANCES_LIMIT: Final = 100
INSTANCES_LIMIT_MAX: Final = 1000
JOB_FILTERS: Final[Mapping[str, Callable[[Job, float], Iterable[str]]]] = {
    "job-id": lambda job, _: [job.spec.job_id],
    "job-name": lambda job, _: [job.spec.name],
    "job-state": lambda job, now: [job.shown_state(now)],
    "zone": lambda job, _: [job.spec.zone],
    "tag-key": lambda job, _: job.spec.tags.keys(),
    "tag-value": lambda job, _: job.spec.tags.values(),
}
TAG: Final = "tag:"
"""Prefix of a tag key in a filter name; such a filter matches the value of that tag."""


def terminate_job(region: Region, arguments: Arguments) -> Document:
    region.job(arguments.job_id).terminate(region.now)
    return {}


def terminate_task_instance(region: Region, arguments: Arguments) -> Document:
    missing = "ResourceNotFound.TaskInstance"
    job = region.job(arguments.job_id, missing=missing)
    task = documents.task_number(arguments.task_name, job)
    if task is None:
        raise ApiError(missing, "The task is not found.")
    first, end = job.task_range(task)
    if not 0 <= arguments.task_instance_index < end - first:
        raise ApiError(missing, "The task instance is not found.")
    job.terminate_instance(first + arguments.task_instance_index, region.now)
    return {}


def describe_job(region: Region, arguments: Arguments) -> Document:
    return documents.job_document(region.job(arguments.job_id), region.now)


def describe_job_submit_info(region: Region, arguments: Arguments) -> Document:
    return submit_info(region.job(arguments.job_id))


def describe_jobs(region: Region, arguments: Arguments) -> Document:
    """Return a page of the named jobs or of those that match the filters; omit unknown ids."""
    if arguments.job_ids and arguments.filters:
        raise ApiError(
            "InvalidParameter.InvalidParameterCombination",
            "JobIds and Filters must not be given together.",
        )
    limit = JOBS_LIMIT if arguments.limit is None else arguments.limit
    check_page(arguments.offset, limit)
    if len(arguments.job_ids) > JOB_IDS_MAX or limit > JOBS_LIMIT_MAX:
        raise ApiError("InvalidParameterValue.LimitExceeded", "At most 100 jobs can be requested.")
    region.check_ids(arguments.job_ids)
    _check_filters(region, arguments.filters)
    found = [
        job
        for job in region.jobs(arguments.job_ids)
        if all(_passes(job, one, region.now) for one in arguments.filters)
    ]
    page = found[arguments.offset : arguments.offset + limit]
    return {
        "JobSet": [documents.job_view(job, region.now) for job in page],
        "TotalCount": len(found),
    }


def describe_task(region: Region, arguments: Arguments) -> Document:
    job = region.job(arguments.job_id)
    task = documents.task_number(arguments.task_name, job)
    if task is None:
        raise ApiError("ResourceNotFound.Task", "The task is not found.")
    limit = INSTANCES_LIMIT if arguments.limit is None else arguments.limit
    check_page(arguments.offset, limit)
    if limit > INSTANCES_LIMIT_MAX:
        raise ApiError("InvalidParameterValue", "Limit must not be more than 1000.")
    states = frozenset(STATES)
    for one in arguments.filters:
        if one.name not in region.instance_filters:
            raise _bad_filter(one)
        states &= one.values
    return documents.task_document(
        job, task, region.now, states=states, offset=arguments.offset, limit=limit
    )


ACTIONS: Final[Mapping[str, Action]] = {
    "TerminateJob": terminate_job,
    "TerminateTaskInstance": terminate_task_instance,
    "DescribeJob": describe_job,
    "DescribeJobSubmitInfo": describe_job_submit_info,
    "DescribeJobs": describe_jobs,
    "DescribeTask": describe_task,
}


def _check_filters(region: Region, filters: Iterable[Filter]) -> None:
    for one in filters:
        if one.name not in JOB_FILTERS and not one.name.startswith(TAG):
            raise _bad_filter(one)
        if len(one.values) > JOB_IDS_MAX:
            raise ApiError("InvalidParameterValue.LimitExceeded", "Too many values of a filter.")
        if one.name == "job-id":
            region.check_ids(one.values)


def _passes(job: Job, one: Filter, now: float) -> bool:
    if one.name.startswith(TAG):
        return job.spec.tags.get(one.name.removeprefix(TAG)) in one.values
    return not one.values.isdisjoint(JOB_FILTERS[one.name](job, now))


def _bad_filter(one: Filter) -> ApiError:
    return ApiError("InvalidParameterValue.InvalidFilter", f"The filter `{one.name}` is invalid.")
