"""Decoding of hand-written replies: fields are read, and missing ones are never invented."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tencentcloud.batch.v20170312 import models

from orchestrator.cloud import wire
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import (
    InstanceCounters,
    InstanceSeen,
    JobSeen,
    JobState,
    JobSubmitted,
    TaskPage,
    TaskSeen,
    TaskSubmitted,
)
from orchestrator.domain.model.machine import MachineSeen, MachineState
from tests.support.clock import NOON

COUNTERS: dict[str, object] = {
    "SubmittedCount": 1,
    "PendingCount": 2,
    "RunnableCount": 3,
    "StartingCount": 4,
    "RunningCount": 5,
    "SucceedCount": 6,
    "FailedInterruptedCount": 7,
    "FailedCount": 8,
}
READ_COUNTERS = InstanceCounters(
    submitted=1,
    pending=2,
    runnable=3,
    starting=4,
    running=5,
    succeed=6,
    failed_interrupted=7,
    failed=8,
)
JOB: dict[str, object] = {
    "JobId": "job-1",
    "JobName": "render",
    "Zone": "ap-guangzhou-3",
    "JobState": "RUNNING",
    "CreateTime": "2026-03-01T10:00:00Z",
    "EndTime": None,
    "TaskSet": [{"TaskName": "t1", "TaskState": "RUNNING"}, {"TaskName": "t2"}],
    "TaskInstanceMetrics": COUNTERS,
    "NextAction": "TERMINATING",
    "RequestId": "r-1",
}
TASK: dict[str, object] = {
    "JobId": "job-1",
    "TaskName": "t1",
    "TaskState": "RUNNING",
    "TaskInstanceTotalCount": 2,
    "TaskInstanceSet": [
        {
            "TaskInstanceIndex": 1,
            "TaskInstanceState": "FAILED",
            "ComputeNodeInstanceId": "",
            "StateReason": "",
            "StateDetailedReason": "killed",
        },
        {
            "TaskInstanceIndex": 0,
            "TaskInstanceState": "STARTING",
            "ComputeNodeInstanceId": "ins-1",
            "StateReason": "waits",
        },
    ],
    "TaskInstanceMetrics": COUNTERS,
    "RequestId": "r-1",
}

SUBMITTED: dict[str, object] = {
    "JobId": "job-1",
    "JobName": "render",
    "JobDescription": "",
    "Priority": 1,
    "Tasks": [
        {
            "TaskName": "t1",
            "TaskInstanceNum": 20,
            "Application": {"Command": "echo", "DeliveryForm": "LOCAL"},
            "ComputeEnv": {"EnvType": "MANAGED", "EnvData": {"InstanceType": "S1.SMALL1"}},
            "EnvId": None,
            "FailedAction": "INTERRUPT",
        },
        {"TaskName": "t2", "EnvId": "env-1"},
    ],
    "Dependences": [{"StartTask": "t1", "EndTask": "t2"}],
    "Tags": None,
    "RequestId": "r-1",
}


def read_job(**changes: object) -> JobSeen:
    return wire.read_job(JOB | changes, job_id="job-1", observed_at=NOON)


def read_task(*states: JobState, **changes: object) -> TaskPage:
    return wire.read_task(
        TASK | changes, job_id="job-1", task_name="t1", states=states, observed_at=NOON
    )


def without(document: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in document.items() if name != key}


# --- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "model", "expected"),
    [
        (wire.job_body("job-1"), models.TerminateJobRequest, {"JobId": "job-1"}),
        (wire.job_body("job-1"), models.DescribeJobRequest, {"JobId": "job-1"}),
        (wire.job_body("job-1"), models.DescribeJobSubmitInfoRequest, {"JobId": "job-1"}),
        (
            wire.task_instance_body("job-1", task_name="t", index=3),
            models.TerminateTaskInstanceRequest,
            {"JobId": "job-1", "TaskName": "t", "TaskInstanceIndex": 3},
        ),
        (
            wire.jobs_body(["job-1", "job-2"]),
            models.DescribeJobsRequest,
            {"JobIds": ["job-1", "job-2"], "Limit": 100},
        ),
        (
            wire.task_body("job-1", task_name="t", offset=0, limit=1, states=(), state_filter="f"),
            models.DescribeTaskRequest,
            {"JobId": "job-1", "TaskName": "t", "Offset": 0, "Limit": 1},
        ),
        (
            wire.task_body(
                "job-1",
                task_name="t",
                offset=1000,
                limit=1000,
                states=(JobState.STARTING, JobState.RUNNING),
                state_filter="task-instance-type",
            ),
            models.DescribeTaskRequest,
            {
                "JobId": "job-1",
                "TaskName": "t",
                "Offset": 1000,
                "Limit": 1000,
                "Filters": [
                    {"Name": "task-instance-type", "Values": ["STARTING", "RUNNING"]},
                ],
            },
        ),
    ],
)
def test_request_body_is_what_the_vendors_model_knows(body, model, expected) -> None:
    """The vendor's request model accepts each body and knows all its fields."""
    document = json.loads(body)

    assert document == expected
    model()._deserialize(document)  # an unknown field is a warning, which fails the test


# --- envelope ------------------------------------------------------------------------------------


def failure(status: int, body: bytes) -> CloudError:
    with pytest.raises(CloudError) as caught:
        wire.open_envelope(status, body)
    return caught.value


@pytest.mark.parametrize("status", [200, 400, 500, 503])
def test_error_in_the_body_counts_whatever_the_status(status) -> None:
    """The HTTP status of a gateway does not hide the error of the service."""
    body = {
        "Response": {"Error": {"Code": "ResourceNotFound.Job", "Message": "m"}, "RequestId": "r"}
    }

    error = failure(status, json.dumps(body).encode())

    assert (error.code, error.message, error.request_id) == ("ResourceNotFound.Job", "m", "r")
    assert error.kind is CloudErrorKind.JOB_NOT_FOUND


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b'{"Response": {"RequestId"', b"\xff\xfe\xfd", b"[]", b"null", b"{}"),
        *(b'{"Response": null}', b'{"Response": []}', b'{"Response": {"Error": []}}'),
        *(b'{"Response": {"Error": {}}}', b'{"Response": {"Error": {"Code": 3}}}', b"[" * 100_000),
    ],
)
def test_unreadable_answer_proves_nothing(body) -> None:
    """A body without a readable error is not a success."""
    error = failure(200, body)

    assert (error.kind, error.code) == (CloudErrorKind.OUTCOME_UNKNOWN, "Client.BadAnswer")


@pytest.mark.parametrize("body", [b"", b"Bad Gateway", b'{"Response": {"RequestId": "r"}}'])
def test_status_other_than_200_without_an_error_proves_nothing(body) -> None:
    """A 502 with a body that looks like success is a failure of the gateway."""
    error = failure(502, body)

    assert (error.kind, error.code) == (CloudErrorKind.OUTCOME_UNKNOWN, "Client.HttpStatus")
    assert "502" in error.message


@given(st.binary())
def test_no_body_breaks_the_codec(body) -> None:
    """Every body is a reply or raises CloudError."""
    assert isinstance(failure(200, body), CloudError)


def test_null_error_is_no_error() -> None:
    """Some serialisers write absent members as null; that is not an error."""
    body = b'{"Response": {"Error": null, "RequestId": "r-1"}}'

    assert wire.read_request_id(wire.open_envelope(200, body)) == "r-1"


def test_acknowledgement_without_a_request_id_is_none() -> None:
    """The RequestId is the only content of a reply to TerminateJob."""
    with pytest.raises(CloudError, match=r"Client\.BadAnswer: RequestId is missing"):
        wire.read_request_id(wire.open_envelope(200, b'{"Response": {}}'))


@pytest.mark.parametrize(
    "headers",
    [
        {"Date": "Sun, 01 Mar 2026 12:00:00 GMT"},
        {"date": "Sun, 01 Mar 2026 12:00:00 -0000"},
        {"DATE": "Sun, 01 Mar 2026 20:00:00 +0800"},
    ],
)
def test_cloud_time_is_read_from_the_date_header(headers) -> None:
    """The header name has any letter case; like NOON, the time is aware."""
    assert wire.cloud_time(headers) == NOON


@pytest.mark.parametrize(
    "date",
    [
        *("", "x", "\0", "soon", "Sun, 99 Mar 2026 99:99:99 GMT"),
        *("Sun, 01 Mar 1815 12:00:00 +2359", "Sun, 01 Mar 9999 12:00:00 -2359"),
        "Sun, 01 Mar 99999999999999999999 12:00:00 GMT",
        "Sun, 01 Mar 2026 12:00:00 +99999999999999999999",
    ],
)
def test_a_date_that_cannot_be_says_nothing_of_the_cloud_s_clock(date: str) -> None:
    assert wire.cloud_time({"Date": date}) is None
    assert wire.cloud_time({}) is None


# --- DescribeJob ---------------------------------------------------------------------------------


def test_job_is_read_with_all_that_it_carries() -> None:
    """State, name, all eight counters, tasks, NextAction, and the time of the request."""
    seen = read_job()

    assert (seen.job_id, seen.name, seen.state) == ("job-1", "render", JobState.RUNNING)
    assert (seen.observed_at, seen.end_time, seen.next_action) == (NOON, None, "TERMINATING")
    assert seen.instances == READ_COUNTERS
    assert seen.tasks == (TaskSeen(name="t1", state=JobState.RUNNING), TaskSeen(name="t2"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a\ud800b", "a?b"), ("a\0b", "a?b"), ("é☃𝄞", "é☃𝄞"), ("x" * 10_000, "x" * 4000)],
)
def test_text_that_no_database_takes_is_made_such_as_one_does(name: str, expected: str) -> None:
    """The name of one job must not prevent the observations from being stored."""
    assert read_job(JobName=name).name == expected


def test_lone_task_has_the_counters_of_its_job() -> None:
    """The counters of a job with one task are those of the task."""
    (task,) = read_job(TaskSet=[{"TaskName": "t1", "TaskState": "RUNNING"}]).tasks
    assert task.instances == READ_COUNTERS


@pytest.mark.parametrize("value", [None, ""])
def test_next_action_that_was_read_and_is_not_pending_is_empty(value) -> None:
    """Null and the empty string both mean that nothing is pending."""
    assert read_job(NextAction=value).next_action == ""


def test_next_action_that_was_not_read_is_none() -> None:
    """A reply without NextAction leaves it unknown."""
    seen = wire.read_job(without(JOB, "NextAction"), job_id="job-1", observed_at=NOON)

    assert seen.next_action is None


@pytest.mark.parametrize("key", COUNTERS)
@pytest.mark.parametrize("value", [None, -1, "3", 1.5, True, 10**30])
def test_counters_are_whole_or_unknown(key, value) -> None:
    """An unreadable counter must not become a zero, because a zero is evidence."""
    assert read_job(TaskInstanceMetrics=COUNTERS | {key: value}).instances is None
    assert read_job(TaskInstanceMetrics=without(COUNTERS, key)).instances is None


@pytest.mark.parametrize("value", [None, {}, [], 0])
def test_missing_counters_are_unknown(value) -> None:
    """Missing counters are never zeros."""
    assert read_job(TaskInstanceMetrics=value).instances is None


WORDS: list[tuple[object, str]] = [
    *((state.value, state.value) for state in JobState),
    ("SUCCEEDED", "SUCCEED"),
    ("TERMINATED", "TERMINATED"),
    ("x" * 100, "x" * 64),
    ("\ud800\0", "??"),
    ("", "(none)"),
    (None, "(none)"),
    (3, "(none)"),
    ({}, "(none)"),
]


@pytest.mark.parametrize(("value", "state"), WORDS)
def test_states_are_read_and_unknown_ones_kept_as_they_are(value, state) -> None:
    """The legacy spelling is known; an unknown state keeps the cloud's spelling."""
    read = read_job(JobState=value).state
    assert read is not None
    assert read == state
    assert read.documented is (state in JobState.__members__)


@pytest.mark.parametrize(
    "changes",
    [
        {"JobId": "job-2"},
        {"JobId": None},
        {"TaskSet": {}},
        {"TaskSet": ["t1"]},
        {"TaskSet": [{"TaskState": "FAILED"}]},
    ],
)
def test_answer_that_is_not_about_this_job_is_refused(changes) -> None:
    """A reply about another job, or an invalid one, proves nothing."""
    with pytest.raises(CloudError) as caught:
        read_job(**changes)

    assert caught.value.kind is CloudErrorKind.OUTCOME_UNKNOWN


# --- DescribeJobs --------------------------------------------------------------------------------


def test_jobs_are_read_by_id_with_their_state_only() -> None:
    """Fields that DescribeJobs does not have are None, never zero or empty."""
    rows = [
        {"JobId": "job-1", "JobName": "a", "JobState": "FAILED", "EndTime": "2026-03-01T11:00:00Z"},
        {"JobId": "job-2", "JobState": "NEW"},
    ]

    seen = wire.read_jobs({"JobSet": rows, "TotalCount": 2}, observed_at=NOON)

    assert list(seen) == ["job-1", "job-2"]
    assert (seen["job-1"].state, seen["job-1"].name) == (JobState.FAILED, "a")
    assert seen["job-1"].end_time == "2026-03-01T11:00:00Z"
    assert (seen["job-1"].instances, seen["job-1"].next_action) == (None, None)
    assert seen["job-2"].state == JobState("NEW")


@pytest.mark.parametrize("rows", [[], None])
def test_empty_list_of_jobs_is_empty(rows) -> None:
    """Some serialisers write an empty list as null."""
    assert wire.read_jobs({"JobSet": rows}, observed_at=NOON) == {}


@pytest.mark.parametrize("response", [{}, {"JobSet": "x"}, {"JobSet": [{"JobState": "FAILED"}]}])
def test_list_of_jobs_that_cannot_be_read_is_not_empty(response) -> None:
    """Otherwise every job of the batch poll would count as missing."""
    with pytest.raises(CloudError):
        wire.read_jobs(response, observed_at=NOON)


# --- DescribeJobSubmitInfo -----------------------------------------------------------------------


def read_submitted(**changes: object) -> JobSubmitted:
    return wire.read_submitted(SUBMITTED | changes, job_id="job-1", observed_at=NOON)


def test_submitted_job_is_read_with_its_tasks() -> None:
    """Each task has its number of instances, and its compute environment if it has one."""
    models.DescribeJobSubmitInfoResponse()._deserialize(SUBMITTED)  # warns of unknown fields
    assert read_submitted() == JobSubmitted(
        observed_at=NOON,
        job_id="job-1",
        tasks=(
            TaskSubmitted(name="t1", instances=20, env_id=None),
            TaskSubmitted(name="t2", instances=1, env_id="env-1"),
        ),
    )


@pytest.mark.parametrize("number", [{}, {"TaskInstanceNum": None}])
@pytest.mark.parametrize("env", [{}, {"EnvId": None}, {"EnvId": ""}])
def test_omitted_fields_of_a_submitted_task_get_the_vendors_defaults(number, env) -> None:
    (task,) = read_submitted(Tasks=[{"TaskName": "t"} | number | env]).tasks
    assert (task.instances, task.env_id) == (1, None)


@pytest.mark.parametrize(
    "changes",
    [
        *({"JobId": "job-2"}, {"JobId": None}, {"Tasks": "t1"}, {"Tasks": None}, {"Tasks": []}),
        {"Tasks": [{"TaskInstanceNum": 3}]},
        {"Tasks": [{"TaskName": "", "TaskInstanceNum": 3}]},
        {"Tasks": [{"TaskName": "t", "TaskInstanceNum": "3"}]},
        {"Tasks": [{"TaskName": "t", "TaskInstanceNum": -1}]},
        {"Tasks": [{"TaskName": "t1"}, None]},
        {"Tasks": [{"TaskName": {}}]},
        *({"Tasks": [{"TaskName": name}]} for name in ("t" * 256, "", None)),
    ],
)
def test_submitted_job_that_cannot_be_read_is_refused(changes) -> None:
    """An invalid number of instances must not be used."""
    with pytest.raises(CloudError) as caught:
        read_submitted(**changes)
    assert caught.value.kind is CloudErrorKind.OUTCOME_UNKNOWN
    with pytest.raises(CloudError):
        wire.read_submitted(without(SUBMITTED, "Tasks"), job_id="job-1", observed_at=NOON)


# --- DescribeTask --------------------------------------------------------------------------------


def test_task_is_read_with_counters_and_rows() -> None:
    """Rows keep their index; an empty machine id is None."""
    page = read_task()

    assert page.observed_at == NOON
    assert page.task == TaskSeen(name="t1", state=JobState.RUNNING, instances=READ_COUNTERS)
    assert (page.rows, page.instances_total) == (2, 2)
    assert page.instances == (
        InstanceSeen(index=1, state=JobState.FAILED, machine_id=None, reason="killed"),
        InstanceSeen(index=0, state=JobState.STARTING, machine_id="ins-1", reason="waits"),
    )


def test_task_without_rows_is_read() -> None:
    """The filter matches nothing."""
    page = read_task(TaskInstanceSet=None, TaskInstanceTotalCount=None)

    assert (page.instances, page.rows, page.instances_total) == ((), 0, None)


@pytest.mark.parametrize(
    ("states", "indexes"),
    [
        ((), [1, 0, 7]),
        ((JobState.STARTING,), [0]),
        ((JobState.FAILED, JobState.STARTING), [1, 0]),
        ((JobState.RUNNING,), []),
    ],
)
def test_rows_in_other_states_than_asked_for_are_left_out(states, indexes) -> None:
    """Rows in unknown states are dropped, too; all rows are counted."""
    rows = [*TASK["TaskInstanceSet"], {"TaskInstanceIndex": 7, "TaskInstanceState": "NEW"}]  # type: ignore[misc]
    page = read_task(*states, TaskInstanceSet=rows)

    assert [row.index for row in page.instances] == indexes
    assert page.rows == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"JobId": "job-2"},
        {"TaskName": "t2"},
        {"TaskInstanceSet": [{"TaskInstanceState": "FAILED"}]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": -1}]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": 2**31}]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": True}]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": 4}, {"TaskInstanceIndex": 4}]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": index} for index in range(1001)]},
        {"TaskInstanceSet": [{"TaskInstanceIndex": 1, "ComputeNodeInstanceId": "i" * 256}]},
    ],
)
def test_task_answer_that_cannot_be_read_is_refused(changes) -> None:
    """The page is about another task, has a row without index, or contradicts itself."""
    with pytest.raises(CloudError) as caught:
        read_task(**changes)
    assert caught.value.kind is CloudErrorKind.OUTCOME_UNKNOWN


def test_counters_beyond_what_a_job_can_have_are_none() -> None:
    metrics = dict.fromkeys(TASK["TaskInstanceMetrics"], 0) | {"RunningCount": 10**12}  # type: ignore[call-overload]
    assert read_task(TaskInstanceMetrics=metrics).task.instances is None


def test_duplicate_rows_are_refused() -> None:
    """Duplicates contradict each other, or replace another row."""
    two = [{"TaskName": "t"}, {"TaskName": "t"}]
    jobs = [{"JobId": "job-1", "JobState": state} for state in ("RUNNING", "FAILED")]
    for read, response in (
        (partial(wire.read_submitted, job_id="job-1"), {"JobId": "job-1", "Tasks": two}),
        (partial(wire.read_job, job_id="job-1"), {"JobId": "job-1", "TaskSet": two}),
        (wire.read_jobs, {"JobSet": jobs}),
    ):
        with pytest.raises(CloudError, match="appears twice") as caught:
            read(response, observed_at=NOON)
        assert caught.value.kind is CloudErrorKind.OUTCOME_UNKNOWN


# --- DescribeInstances ---------------------------------------------------------------------------

MACHINE: dict[str, object] = {
    "InstanceId": "ins-1",
    "InstanceName": "batch-node",
    "InstanceState": "RUNNING",
    "InstanceType": "S1.SMALL1",
    "InstanceChargeType": "POSTPAID_BY_HOUR",
    "CreatedTime": "2026-03-01T10:00:00Z",
    "ExpiredTime": None,
    "PublicIpAddresses": None,
    "Placement": {"Zone": "ap-guangzhou-3", "ProjectId": 0},
}


def read_machines(response):
    return wire.read_machines(response, machine_ids=["ins-1", "ins-2"], observed_at=NOON)


def test_machines_are_read_by_id() -> None:
    """A missing field is None; a machine that is not listed is missing."""
    rows = [MACHINE, {"InstanceId": "ins-2", "InstanceName": "", "InstanceState": "NEW"}]

    seen = read_machines({"InstanceSet": rows, "TotalCount": 2})

    assert seen == {
        "ins-1": MachineSeen(
            observed_at=NOON,
            machine_id="ins-1",
            state=MachineState.RUNNING,
            name="batch-node",
            created_at="2026-03-01T10:00:00Z",
        ),
        "ins-2": MachineSeen(observed_at=NOON, machine_id="ins-2"),
    }


@pytest.mark.parametrize(
    ("value", "state"),
    [(state.value, state) for state in MachineState]
    + [("TERMINATED", None), ("running", None), ("", None), (None, None), (4, None)],
)
def test_states_of_machines_are_read_and_unknown_ones_tolerated(value, state) -> None:
    rows = [MACHINE | {"InstanceState": value}]
    assert read_machines({"InstanceSet": rows, "TotalCount": 1})["ins-1"].state is state


@pytest.mark.parametrize("rows", [[], None])
def test_no_machines_are_none(rows) -> None:
    assert read_machines({"InstanceSet": rows, "TotalCount": 0}) == {}


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"InstanceSet": []},
        {"InstanceSet": None, "TotalCount": None},
        {"InstanceSet": "x"},
        {"InstanceSet": [{"InstanceState": "RUNNING"}]},
        {"InstanceSet": [MACHINE, None]},
        {"InstanceSet": [MACHINE], "TotalCount": 2},
        {"InstanceSet": [MACHINE], "TotalCount": "1"},
        {"InstanceSet": [MACHINE], "TotalCount": 10**30},
        {"InstanceSet": [MACHINE, MACHINE]},
        {"InstanceSet": [MACHINE | {"InstanceId": "ins-3"}]},
        {"InstanceSet": [MACHINE | {"InstanceId": "i" * 256}]},
        {"InstanceSet": None, "TotalCount": 1},
    ],
)
def test_list_of_machines_that_is_not_whole_is_refused(response) -> None:
    """A machine missing from an incomplete list would count as gone."""
    with pytest.raises(CloudError) as caught:
        read_machines(response)

    assert caught.value.kind is CloudErrorKind.OUTCOME_UNKNOWN
