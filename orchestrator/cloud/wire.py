"""Request bodies and answers of Tencent Cloud Batch and CVM, both 2017-03-12, without I/O.

Structures: cloud.tencent.com/document/api/599/15912 and 213/15753; envelope:
cloud.tencent.com/document/api/664/51412.  Whatever an answer lacks or garbles is
OUTCOME_UNKNOWN: an unreadable answer proves nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import catalogue, pieces
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
from orchestrator.domain.model.machine import MachineSeen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.domain.errors import CloudError

JOBS_PER_CALL: Final = 100
"""JobIds in one DescribeJobs, and its largest page: unasked, it would list only 20 of them."""
MACHINES_PER_CALL: Final = 100
"""InstanceIds in one call of CVM; DescribeInstances has the pages of DescribeJobs."""
INSTANCES_PER_CALL: Final = 1000
"""TaskInstances in one DescribeTask at most."""
INSTANCES_BY_DEFAULT: Final = 1
"""TaskInstanceNum of a task that was submitted without one."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of the vendor's products: its name in the signature, and the version of its API."""

    name: str
    version: str


BATCH: Final = Service("batch", "2017-03-12")
CVM: Final = Service("cvm", "2017-03-12")


class Action(StrEnum):
    """The calls that are made."""

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
    """Body of TerminateJob, DescribeJob and DescribeJobSubmitInfo."""
    return _body({"JobId": job_id})


def task_instance_body(job_id: str, *, task_name: str, index: int) -> bytes:
    """Body of TerminateTaskInstance."""
    return _body({"JobId": job_id, "TaskName": task_name, "TaskInstanceIndex": index})


def jobs_body(job_ids: Sequence[str]) -> bytes:
    """Body of DescribeJobs, in one page."""
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
    """Body of DescribeTask; no ``states`` asks for instances in any, and names no filter."""
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
    """Body of DescribeInstances, in one page."""
    return _body({"InstanceIds": list(machine_ids), "Limit": MACHINES_PER_CALL})


def terminate_machine_body(machine_id: str) -> bytes:
    """Body of TerminateInstances."""
    return _body({"InstanceIds": [machine_id]})


def _body(parameters: Mapping[str, object]) -> bytes:
    return json.dumps(parameters, separators=(",", ":")).encode()


# --- answers -------------------------------------------------------------------------------------


def open_envelope(status: int, body: bytes) -> Mapping[str, object]:
    """The ``Response`` object of an answer; raises CloudError.

    An error in the body counts whatever the status or the content type say.
    """
    response = _response(body)
    if response is not None and response.get("Error") is not None:
        raise _vendor_error(response)
    if status != HTTPStatus.OK:
        raise catalogue.error(catalogue.HTTP_STATUS, f"the answer was HTTP {status}")
    if response is None:
        raise pieces.bad_answer("the body is not a JSON object with a Response")
    return response


def cloud_time(headers: Mapping[str, str]) -> datetime | None:
    """The cloud's time by the Date header, to the second."""
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
    """What TerminateJob, TerminateTaskInstance and TerminateInstances answer."""
    return pieces.text(response, "RequestId")


def read_job(response: Mapping[str, object], *, job_id: str, observed_at: datetime) -> JobSeen:
    """What DescribeJob answers about ``job_id``; a lone task's counters are the job's."""
    pieces.require_same(response, "JobId", job_id)
    instances = pieces.counters(response.get("TaskInstanceMetrics"))
    rows = pieces.rows(response, "TaskSet")
    tasks = tuple(
        TaskSeen(
            name=pieces.name(row, "TaskName"),
            state=pieces.state(row.get("TaskState")),
            instances=instances if len(rows) == 1 else None,
        )
        for row in rows
    )
    pieces.require_distinct((task.name for task in tasks), "TaskName")
    return JobSeen(
        observed_at=observed_at,
        job_id=job_id,
        name=pieces.optional_text(response, "JobName"),
        state=pieces.job_state(response.get("JobState")),
        end_time=pieces.optional_text(response, "EndTime"),
        next_action=(
            (pieces.optional_text(response, "NextAction") or "")
            if "NextAction" in response
            else None
        ),
        instances=instances,
        tasks=tasks,
    )


def read_jobs(response: Mapping[str, object], *, observed_at: datetime) -> dict[str, JobSeen]:
    """What DescribeJobs answers, by job id; it carries neither instance counters nor NextAction."""
    seen = [
        JobSeen(
            observed_at=observed_at,
            job_id=pieces.text(row, "JobId"),
            name=pieces.optional_text(row, "JobName"),
            state=pieces.job_state(row.get("JobState")),
            end_time=pieces.optional_text(row, "EndTime"),
        )
        for row in pieces.rows(response, "JobSet")
    ]
    pieces.require_distinct((job.job_id for job in seen), "JobId")
    return {job.job_id: job for job in seen}


def read_submitted(
    response: Mapping[str, object], *, job_id: str, observed_at: datetime
) -> JobSubmitted:
    """What DescribeJobSubmitInfo answers about ``job_id``; there is no job without a task."""
    pieces.require_same(response, "JobId", job_id)
    tasks = tuple(_task_submitted(row) for row in pieces.rows(response, "Tasks"))
    if not tasks:
        raise pieces.bad_answer("Tasks is empty")
    pieces.require_distinct((task.name for task in tasks), "TaskName")
    return JobSubmitted(observed_at=observed_at, job_id=job_id, tasks=tasks)


def read_task(
    response: Mapping[str, object],
    *,
    job_id: str,
    task_name: str,
    states: Sequence[JobState],
    observed_at: datetime,
) -> TaskPage:
    """What DescribeTask answers; the rows come in no particular order.

    With ``states``, rows in any other are left out: the cloud may not have obeyed the filter.
    """
    pieces.require_same(response, "JobId", job_id)
    pieces.require_same(response, "TaskName", task_name)
    rows = [_instance(row) for row in pieces.rows(response, "TaskInstanceSet")]
    if len(rows) > INSTANCES_PER_CALL:
        raise pieces.bad_answer("TaskInstanceSet is longer than a page")
    pieces.require_distinct((row.index for row in rows), "TaskInstanceIndex")
    return TaskPage(
        observed_at=observed_at,
        task=TaskSeen(
            name=task_name,
            state=pieces.state(response.get("TaskState")),
            instances=pieces.counters(response.get("TaskInstanceMetrics")),
        ),
        instances=tuple(row for row in rows if not states or row.state in states),
        rows=len(rows),
        instances_total=pieces.count(response.get("TaskInstanceTotalCount")),
    )


def read_machines(
    response: Mapping[str, object], *, machine_ids: Sequence[str], observed_at: datetime
) -> dict[str, MachineSeen]:
    """What DescribeInstances answers about these machines, by id.

    A page that does not hold all that it counts, or holds others, is unreadable: what it lacks
    would look gone.
    """
    rows = pieces.rows(response, "InstanceSet")
    total = pieces.optional_count(response, "TotalCount")
    if total is None or total > len(rows):
        raise pieces.bad_answer("InstanceSet is shorter than TotalCount says")
    seen = [
        MachineSeen(
            observed_at=observed_at,
            machine_id=pieces.name(row, "InstanceId"),
            state=pieces.machine_state(row.get("InstanceState")),
            name=pieces.optional_text(row, "InstanceName"),
            created_at=pieces.optional_text(row, "CreatedTime"),
        )
        for row in rows
    ]
    pieces.require_distinct((machine.machine_id for machine in seen), "InstanceId")
    if not {machine.machine_id for machine in seen} <= set(machine_ids):
        raise pieces.bad_answer("InstanceSet holds machines that were not asked for")
    return {machine.machine_id: machine for machine in seen}


def _response(body: bytes) -> Mapping[str, object] | None:
    try:
        document: object = json.loads(body, object_hook=_other_threads_may_run)
    except (ValueError, RecursionError):
        return None
    response = document.get("Response") if isinstance(document, dict) else None
    return response if isinstance(response, dict) else None


def _other_threads_may_run(parsed: dict[str, object]) -> dict[str, object]:
    """Change nothing.

    json.loads keeps the interpreter's lock from its begin to its end unless it calls Python.
    """
    return parsed


def _vendor_error(response: Mapping[str, object]) -> CloudError:
    error = response["Error"]
    if not isinstance(error, dict):
        return pieces.bad_answer("Error is not an object")
    return catalogue.error(
        pieces.name(error, "Code"),
        pieces.optional_text(error, "Message") or "",
        request_id=pieces.optional_text(response, "RequestId"),
    )


def _task_submitted(row: Mapping[str, object]) -> TaskSubmitted:
    count = pieces.optional_count(row, "TaskInstanceNum")
    instances = INSTANCES_BY_DEFAULT if count is None else count
    return TaskSubmitted(
        name=pieces.name(row, "TaskName"),
        instances=instances,
        env_id=pieces.optional_text(row, "EnvId"),
    )


def _instance(row: Mapping[str, object]) -> InstanceSeen:
    return InstanceSeen(
        index=pieces.index(row, "TaskInstanceIndex"),
        state=pieces.state(row.get("TaskInstanceState")),
        machine_id=pieces.optional_name(row, "ComputeNodeInstanceId"),
        reason=pieces.optional_text(row, "StateReason")
        or pieces.optional_text(row, "StateDetailedReason"),
    )
