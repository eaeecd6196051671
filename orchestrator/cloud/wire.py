"""Request bodies and replies of Tencent Cloud Batch and CVM, both version 2017-03-12, without I/O.

Structures: cloud.tencent.com/document/api/599/15912 and 213/15753; envelope:
cloud.tencent.com/document/api/664/51412. A reply with a missing or invalid field raises CloudError
of kind OUTCOME_UNKNOWN: an unreadable reply proves nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import error_codes, fields
from orchestrator.domain.bounds import possible
from orchestrator.domain.model.batch_job import (
    InstanceSeen,
    JobSeen,
    JobState,
    JobSubmitted,
    TaskPage,
    TaskSeen,
    TaskSubmitted,
)
from orchestrator.domain.model.error_detail import ClientCode
from orchestrator.domain.model.machine import MachineSeen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.domain.errors import CloudError

JOBS_PER_CALL: Final = 100
"""Most JobIds in one DescribeJobs request, and its largest page; the default page lists only 20."""
MACHINES_PER_CALL: Final = 100
"""Most InstanceIds in one CVM request; DescribeInstances has the page sizes of DescribeJobs."""
INSTANCES_PER_CALL: Final = 1000
"""Most task instances in one DescribeTask reply."""
INSTANCES_BY_DEFAULT: Final = 1
"""TaskInstanceNum of a task that was submitted without it."""


@dataclass(frozen=True, slots=True)
class Service:
    """A product of the vendor: its name in signatures, and the version of its API."""

    name: str
    version: str


BATCH: Final = Service("batch", "2017-03-12")
CVM: Final = Service("cvm", "2017-03-12")


class Action(StrEnum):
    """The API actions that are called."""

    TERMINATE_JOB = "TerminateJob"
    TERMINATE_TASK_INSTANCE = "TerminateTaskInstance"
    DESCRIBE_JOB = "DescribeJob"
    DESCRIBE_JOBS = "DescribeJobs"
    DESCRIBE_JOB_SUBMIT_INFO = "DescribeJobSubmitInfo"
    DESCRIBE_TASK = "DescribeTask"
    DESCRIBE_INSTANCES = "DescribeInstances"
    TERMINATE_INSTANCES = "TerminateInstances"

    @property
    def service(self) -> Service:
        return CVM if self in (Action.DESCRIBE_INSTANCES, Action.TERMINATE_INSTANCES) else BATCH


# --- requests ------------------------------------------------------------------------------------


def job_body(job_id: str) -> bytes:
    """Return the body of TerminateJob, DescribeJob and DescribeJobSubmitInfo."""
    return _body({"JobId": job_id})


def task_instance_body(job_id: str, *, task_name: str, index: int) -> bytes:
    """Return the body of TerminateTaskInstance."""
    return _body({"JobId": job_id, "TaskName": task_name, "TaskInstanceIndex": index})


def jobs_body(job_ids: Sequence[str]) -> bytes:
    """Return the body of DescribeJobs, for all ids in one page."""
    return _body({"JobIds": list(job_ids), "Limit": JOBS_PER_CALL})


def task_body(
    job_id: str,
    *,
    task_name: str,
    offset: int,
    limit: int,
    states: Sequence[JobState],
    state_filter: str,
) -> bytes:
    """Return the body of DescribeTask; without ``states`` it has no filter."""
    body: dict[str, object] = {
        "JobId": job_id,
        "TaskName": task_name,
        "Offset": offset,
        "Limit": limit,
    }
    if states:
        body["Filters"] = [{"Name": state_filter, "Values": list(states)}]
    return _body(body)


def machines_body(machine_ids: Sequence[str]) -> bytes:
    """Return the body of DescribeInstances, for all ids in one page."""
    return _body({"InstanceIds": list(machine_ids), "Limit": MACHINES_PER_CALL})


def terminate_machine_body(machine_id: str) -> bytes:
    """Return the body of TerminateInstances."""
    return _body({"InstanceIds": [machine_id]})


def _body(parameters: Mapping[str, object]) -> bytes:
    return json.dumps(parameters, separators=(",", ":")).encode()


# --- replies -------------------------------------------------------------------------------------


def open_envelope(status: int, body: bytes) -> Mapping[str, object]:
    """Return the ``Response`` object of a reply; raise CloudError.

    An ``Error`` in the body counts, whatever the HTTP status and the content type are.
    """
    response = _response(body)
    if response is not None and response.get("Error") is not None:
        raise _vendor_error(response)
    if status != HTTPStatus.OK:
        raise error_codes.error(ClientCode.HTTP_STATUS, f"the reply was HTTP {status}")
    if response is None:
        raise fields.bad_answer("the body is not a JSON object with a Response")
    return response


def cloud_time(headers: Mapping[str, str]) -> datetime | None:
    """Return the cloud's time from the Date header, to the second; None without a valid one."""
    for name, value in headers.items():
        if name.lower() == "date":
            try:
                at = parsedate_to_datetime(value)
            except (ArithmeticError, LookupError, TypeError, ValueError):
                return None
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            return at if possible(at) else None
    return None


def read_request_id(response: Mapping[str, object]) -> str:
    """Read the reply to TerminateJob, TerminateTaskInstance and TerminateInstances."""
    return fields.text(response, "RequestId")


def read_job(response: Mapping[str, object], *, job_id: str, observed_at: datetime) -> JobSeen:
    """Read the reply to DescribeJob; the counters of a job of one task are that task's, too."""
    fields.require_same(response, "JobId", job_id)
    instances = fields.counters(response.get("TaskInstanceMetrics"))
    rows = fields.rows(response, "TaskSet")
    tasks = tuple(
        TaskSeen(
            name=fields.name(row, "TaskName"),
            state=fields.state(row.get("TaskState")),
            instances=instances if len(rows) == 1 else None,
        )
        for row in rows
    )
    fields.require_distinct((task.name for task in tasks), "TaskName")
    return JobSeen(
        observed_at=observed_at,
        job_id=job_id,
        name=fields.optional_text(response, "JobName"),
        state=fields.job_state(response.get("JobState")),
        end_time=fields.optional_text(response, "EndTime"),
        next_action=(
            (fields.optional_text(response, "NextAction") or "")
            if "NextAction" in response
            else None
        ),
        instances=instances,
        tasks=tasks,
    )


def read_jobs(response: Mapping[str, object], *, observed_at: datetime) -> dict[str, JobSeen]:
    """Read the reply to DescribeJobs, by job id; it has no instance counters and no NextAction."""
    seen = [
        JobSeen(
            observed_at=observed_at,
            job_id=fields.text(row, "JobId"),
            name=fields.optional_text(row, "JobName"),
            state=fields.job_state(row.get("JobState")),
            end_time=fields.optional_text(row, "EndTime"),
        )
        for row in fields.rows(response, "JobSet")
    ]
    fields.require_distinct((job.job_id for job in seen), "JobId")
    return {job.job_id: job for job in seen}


def read_submitted(
    response: Mapping[str, object], *, job_id: str, observed_at: datetime
) -> JobSubmitted:
    """Read the reply to DescribeJobSubmitInfo; one without tasks is invalid: every job has one."""
    fields.require_same(response, "JobId", job_id)
    tasks = tuple(_task_submitted(row) for row in fields.rows(response, "Tasks"))
    if not tasks:
        raise fields.bad_answer("Tasks is empty")
    fields.require_distinct((task.name for task in tasks), "TaskName")
    return JobSubmitted(observed_at=observed_at, job_id=job_id, tasks=tasks)


def read_task(
    response: Mapping[str, object],
    *,
    job_id: str,
    task_name: str,
    states: Sequence[JobState],
    observed_at: datetime,
) -> TaskPage:
    """Read the reply to DescribeTask; its rows have no defined order.

    Rows in states other than ``states`` are dropped: the cloud may have ignored the filter.
    """
    fields.require_same(response, "JobId", job_id)
    fields.require_same(response, "TaskName", task_name)
    rows = [_instance(row) for row in fields.rows(response, "TaskInstanceSet")]
    if len(rows) > INSTANCES_PER_CALL:
        raise fields.bad_answer("TaskInstanceSet is longer than a page")
    fields.require_distinct((row.index for row in rows), "TaskInstanceIndex")
    return TaskPage(
        observed_at=observed_at,
        task=TaskSeen(
            name=task_name,
            state=fields.state(response.get("TaskState")),
            instances=fields.counters(response.get("TaskInstanceMetrics")),
        ),
        instances=tuple(row for row in rows if not states or row.state in states),
        rows=len(rows),
        instances_total=fields.count(response.get("TaskInstanceTotalCount")),
    )


def read_machines(
    response: Mapping[str, object], *, machine_ids: Sequence[str], observed_at: datetime
) -> dict[str, MachineSeen]:
    """Read the reply to DescribeInstances about ``machine_ids``, by machine id.

    A page with fewer rows than TotalCount, or with other machines, is invalid: a machine missing
    from it would count as gone.
    """
    rows = fields.rows(response, "InstanceSet")
    total = fields.optional_count(response, "TotalCount")
    if total is None or total > len(rows):
        raise fields.bad_answer("InstanceSet is shorter than TotalCount says")
    seen = [
        MachineSeen(
            observed_at=observed_at,
            machine_id=fields.name(row, "InstanceId"),
            state=fields.machine_state(row.get("InstanceState")),
            name=fields.optional_text(row, "InstanceName"),
            created_at=fields.optional_text(row, "CreatedTime"),
        )
        for row in rows
    ]
    fields.require_distinct((machine.machine_id for machine in seen), "InstanceId")
    if not {machine.machine_id for machine in seen} <= set(machine_ids):
        raise fields.bad_answer("InstanceSet has machines that were not requested")
    return {machine.machine_id: machine for machine in seen}


def _response(body: bytes) -> Mapping[str, object] | None:
    try:
        document: object = json.loads(body, object_hook=_release_gil)
    except (ValueError, RecursionError):
        return None
    response = document.get("Response") if isinstance(document, dict) else None
    return response if isinstance(response, dict) else None


def _release_gil(parsed: dict[str, object]) -> dict[str, object]:
    """Return ``parsed`` unchanged.

    json.loads holds the interpreter's lock until it ends, unless it calls a Python function.
    """
    return parsed


def _vendor_error(response: Mapping[str, object]) -> CloudError:
    error = response["Error"]
    if not isinstance(error, dict):
        return fields.bad_answer("Error is not an object")
    return error_codes.error(
        fields.name(error, "Code"),
        fields.optional_text(error, "Message") or "",
        request_id=fields.optional_text(response, "RequestId"),
    )


def _task_submitted(row: Mapping[str, object]) -> TaskSubmitted:
    count = fields.optional_count(row, "TaskInstanceNum")
    instances = INSTANCES_BY_DEFAULT if count is None else count
    return TaskSubmitted(
        name=fields.name(row, "TaskName"),
        instances=instances,
        env_id=fields.optional_text(row, "EnvId"),
    )


def _instance(row: Mapping[str, object]) -> InstanceSeen:
    return InstanceSeen(
        index=fields.index(row, "TaskInstanceIndex"),
        state=fields.state(row.get("TaskInstanceState")),
        machine_id=fields.optional_name(row, "ComputeNodeInstanceId"),
        reason=fields.optional_text(row, "StateReason")
        or fields.optional_text(row, "StateDetailedReason"),
    )
