"""The response of DescribeJobSubmitInfo: a job as it was submitted.

See cloud.tencent.com/document/api/599/15910; the structures are those of 599/15912.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.simulator.api.documents import tag_list, task_name

if TYPE_CHECKING:
    from orchestrator.simulator.cloud.job import Job
    from orchestrator.simulator.cloud.job_spec import JobSpec

INTERRUPTED: Final = "FAILED_INTERRUPTED"


def submit_info(job: Job) -> dict[str, object]:
    """Return the job as it was submitted; it never changes."""
    spec = job.spec
    return {
        "JobId": spec.job_id,
        "JobName": spec.name,
        "JobDescription": "",
        "Priority": spec.priority,
        "Tasks": [_task(job, task) for task in range(spec.tasks)],
        "Dependences": [],
        "Tags": tag_list(spec.tags),
    }


def _task(job: Job, task: int) -> dict[str, object]:
    first, end = job.task_range(task)
    keeps_machines = job.spec.state == INTERRUPTED or INTERRUPTED in job.spec.mix
    return {
        "Application": {"DeliveryForm": "LOCAL", "Command": "sleep 86400"},
        "TaskName": task_name(task),
        "TaskInstanceNum": end - first,
        **_environment(job.spec),
        "FailedAction": "INTERRUPT" if keeps_machines else "TERMINATE",
        "MaxRetryCount": 0,
        "Timeout": 86400,
    }


def _environment(spec: JobSpec) -> dict[str, object]:
    """Return exactly one of EnvId and ComputeEnv, as the vendor requires of a task."""
    if spec.env_id is not None:
        return {"EnvId": spec.env_id}
    machine = {"InstanceType": "S5.MEDIUM4", "ImageId": "img-example1", "InstanceName": spec.name}
    return {"ComputeEnv": {"EnvType": "MANAGED", "EnvData": machine}}
