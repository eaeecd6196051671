"""The Describe actions: structures, pages and filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.simulator.support import cloud, job

if TYPE_CHECKING:
    from orchestrator.simulator.cloud.job_spec import JobSpec

ID = "job-aaaaaaaa"
OTHER = "job-bbbbbbbb"
COUNTERS = {
    *("SubmittedCount", "PendingCount", "RunnableCount", "StartingCount", "RunningCount"),
    *("SucceedCount", "FailedInterruptedCount", "FailedCount"),
}


def many(count: int) -> list[JobSpec]:
    return [job(job_id=f"job-{number:08}", name=f"n{number}") for number in range(count)]


def test_describe_job_has_the_documented_fields():
    seen = cloud(job(tasks=2, tags={"team": "blue"})).call("DescribeJob", JobId=ID)
    assert set(seen) == {
        *("JobId", "JobName", "Zone", "Priority", "JobState", "CreateTime", "EndTime", "TaskSet"),
        *("DependenceSet", "TaskMetrics", "TaskInstanceMetrics", "StateReason", "Tags"),
        *("NextAction", "RequestId"),
    }
    assert set(seen["TaskInstanceMetrics"]) == set(seen["TaskMetrics"]) == COUNTERS
    assert seen["TaskMetrics"]["RunningCount"] == 2
    assert seen["TaskSet"][1] == {
        "TaskName": "task-1",
        "TaskState": "RUNNING",
        "CreateTime": "2027-01-15T07:50:00Z",
        "EndTime": None,
    }
    assert seen["Tags"] == [{"Key": "team", "Value": "blue"}]


def test_job_view_has_neither_instance_counters_nor_next_action():
    (view,) = cloud(job()).call("DescribeJobs", JobIds=[ID])["JobSet"]
    assert set(view) == {
        *("JobId", "JobName", "JobState", "Priority", "Placement", "CreateTime", "EndTime"),
        *("TaskMetrics", "Tags"),
    }
    assert view["Placement"]["Zone"] == "ap-guangzhou-3"


def test_unknown_ids_are_left_out_of_describe_jobs():
    seen = cloud(job()).call("DescribeJobs", JobIds=[ID, OTHER])
    assert [view["JobId"] for view in seen["JobSet"]] == [ID]
    assert seen["TotalCount"] == 1


def test_naming_only_unknown_ids_or_one_id_twice_finds_no_more():
    world = cloud(job())
    assert world.call("DescribeJobs", JobIds=[OTHER])["TotalCount"] == 0
    assert world.call("DescribeJobs", JobIds=[ID, ID])["TotalCount"] == 1


def test_describe_jobs_returns_twenty_by_default():
    world = cloud(*many(100))
    ids = [f"job-{number:08}" for number in range(100)]
    cut = world.call("DescribeJobs", JobIds=ids)
    assert (len(cut["JobSet"]), cut["TotalCount"]) == (20, 100)
    assert len(world.call("DescribeJobs", JobIds=ids, Limit=100)["JobSet"]) == 100


def test_pages_of_describe_jobs_cover_every_job_once():
    world = cloud(*many(45))
    seen = []
    for offset in range(0, 60, 20):
        page = world.call("DescribeJobs", Offset=offset)
        seen += [view["JobId"] for view in page["JobSet"]]
    assert sorted(seen) == [f"job-{number:08}" for number in range(45)]


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("job-id", [OTHER], [OTHER]),
        ("job-name", ["second", "third"], [OTHER]),
        ("job-state", ["SUCCEED", "FAILED"], [OTHER]),
        ("job-state", ["RUNNING", "SUCCEED"], [ID, OTHER]),
        ("zone", ["ap-guangzhou-6"], [OTHER]),
        ("tag-key", ["team"], [OTHER]),
        ("tag-value", ["blue"], [OTHER]),
        ("tag:team", ["blue"], [OTHER]),
        ("tag:team", ["red"], []),
    ],
)
def test_filters_of_describe_jobs(name, values, found):
    world = cloud(
        job(name="first"),
        job(
            job_id=OTHER,
            name="second",
            state="SUCCEED",
            zone="ap-guangzhou-6",
            tags={"team": "blue"},
        ),
    )
    seen = world.call("DescribeJobs", Filters=[{"Name": name, "Values": values}])
    assert [view["JobId"] for view in seen["JobSet"]] == found


def test_filters_must_all_hold():
    world = cloud(job(name="first"), job(job_id=OTHER, name="second"))
    filters = [
        {"Name": "job-state", "Values": ["RUNNING"]},
        {"Name": "job-name", "Values": ["second"]},
    ]
    assert world.call("DescribeJobs", Filters=filters)["TotalCount"] == 1


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_pages_of_describe_task_cover_every_instance_once(limit):
    world = cloud(job(instances=30, tasks=2, mix={"RUNNABLE": 0.2}))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(4)
    seen = []
    for offset in range(0, 15, limit):
        page = world.call("DescribeTask", JobId=ID, TaskName="task-1", Offset=offset, Limit=limit)
        assert page["TaskInstanceTotalCount"] == 15
        seen += [row["TaskInstanceIndex"] for row in page["TaskInstanceSet"]]
    assert sorted(seen) == list(range(15))
    assert seen != sorted(seen)


@pytest.mark.parametrize("name", ["task-instance-state", "task-instance-type"])
def test_describe_task_takes_both_names_of_its_filter(name):
    world = cloud(job())
    world.call("TerminateJob", JobId=ID)
    world.clock.at(3)
    page = world.call(
        "DescribeTask",
        JobId=ID,
        TaskName="task-0",
        Filters=[{"Name": name, "Values": ["FAILED"]}],
        Limit=2,
    )
    assert page["TaskInstanceTotalCount"] == 3
    assert {row["TaskInstanceState"] for row in page["TaskInstanceSet"]} == {"FAILED"}
    assert len(page["TaskInstanceSet"]) == 2
    assert page["TaskInstanceMetrics"]["RunningCount"] == 7


@pytest.mark.parametrize(
    ("filter_name", "other"),
    [
        ("task-instance-state", "task-instance-type"),
        ("task-instance-type", "task-instance-state"),
    ],
)
def test_a_cloud_can_have_one_name_alone_for_the_filter(filter_name, other):
    world = cloud(job(), filter_name=filter_name)

    def seen(name: str) -> str:
        filters = [{"Name": name, "Values": ["RUNNING"]}]
        return world.code("DescribeTask", JobId=ID, TaskName="task-0", Filters=filters)

    assert (seen(filter_name), seen(other)) == ("OK", "InvalidParameterValue.InvalidFilter")


def test_describe_task_shows_100_rows_by_default():
    world = cloud(job(instances=1500))
    assert len(world.call("DescribeTask", JobId=ID, TaskName="task-0")["TaskInstanceSet"]) == 100
    page = world.call("DescribeTask", JobId=ID, TaskName="task-0", Limit=1000)
    assert len(page["TaskInstanceSet"]) == 1000


def test_a_machine_is_shown_only_while_its_instance_is_live():
    world = cloud(job(instances=2))
    rows = world.call("DescribeTask", JobId=ID, TaskName="task-0")["TaskInstanceSet"]
    machines = {row["ComputeNodeInstanceId"] for row in rows}
    assert len(machines) == 2
    assert all(machine.startswith("ins-") for machine in machines)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    rows = world.call("DescribeTask", JobId=ID, TaskName="task-0")["TaskInstanceSet"]
    assert {row["ComputeNodeInstanceId"] for row in rows} == {""}
    ends = {row["TaskInstanceIndex"]: row["EndTime"] for row in rows}
    assert ends == {0: "2027-01-15T08:00:05Z", 1: "2027-01-15T08:00:10Z"}


def test_a_revived_job_runs_on_other_machines():
    world = cloud(job(instances=1, drain_s=1.0, revive_after_s=1.0))

    def machine() -> str:
        page = world.call("DescribeTask", JobId=ID, TaskName="task-0")
        return str(page["TaskInstanceSet"][0]["ComputeNodeInstanceId"])

    before = machine()
    world.call("TerminateJob", JobId=ID)
    world.clock.at(2)
    assert machine() not in {before, ""}


def test_tasks_finish_one_after_the_other():
    world = cloud(job(tasks=2))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    seen = world.call("DescribeJob", JobId=ID)
    assert [task["TaskState"] for task in seen["TaskSet"]] == ["FAILED", "RUNNING"]
    assert seen["TaskMetrics"]["FailedCount"] == seen["TaskMetrics"]["RunningCount"] == 1
