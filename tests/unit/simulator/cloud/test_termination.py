"""Effects of TerminateJob and TerminateTaskInstance on a job, second by second."""

from __future__ import annotations

import pytest

from tests.unit.simulator.support import START, cloud, job

ID = "job-aaaaaaaa"
MIX = {"SUBMITTED": 0.1, "PENDING": 0.1, "RUNNABLE": 0.1, "STARTING": 0.1, "SUCCEED": 0.2}


def test_running_instances_stop_evenly_over_the_drain():
    world = cloud(job())
    assert world.code("TerminateJob", JobId=ID) == "OK"
    seen = []
    for second in range(11):
        world.clock.at(second)
        seen.append(world.counters().get("Running", 0))
    assert seen == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]


def test_the_job_fails_with_its_last_instance_and_next_action_clears():
    world = cloud(job())
    world.call("TerminateJob", JobId=ID)
    world.clock.at(9.9)
    before = world.call("DescribeJob", JobId=ID)
    world.clock.at(10)
    after = world.call("DescribeJob", JobId=ID)
    assert (before["JobState"], before["NextAction"], before["EndTime"]) == (
        "RUNNING",
        "TERMINATING",
        None,
    )
    assert (after["JobState"], after["NextAction"]) == ("FAILED", "")
    assert after["EndTime"] == "2027-01-15T08:00:10Z"
    assert world.truth()["last_stopped_at"] == START + 10


def test_waiting_instances_fail_at_once_and_finished_ones_stay():
    world = cloud(job(mix=MIX))
    assert world.counters() == {
        "Submitted": 1,
        "Pending": 1,
        "Runnable": 1,
        "Starting": 1,
        "Running": 4,
        "Succeed": 2,
    }
    world.call("TerminateJob", JobId=ID)
    assert world.counters() == {"Failed": 3, "Starting": 1, "Running": 4, "Succeed": 2}
    world.clock.at(10)
    assert world.counters() == {"Failed": 8, "Succeed": 2}


def test_interrupted_instances_hold_their_machines_until_they_are_terminated():
    world = cloud(job(state="FAILED_INTERRUPTED"))
    world.clock.at(1000)
    assert world.counters() == {"FailedInterrupted": 10}
    world.call("TerminateJob", JobId=ID)
    world.clock.at(1005)
    assert world.counters() == {"FailedInterrupted": 5, "Failed": 5}


def test_a_job_without_machines_stops_at_once():
    world = cloud(job(state="RUNNABLE"))
    world.call("TerminateJob", JobId=ID)
    assert world.job_state() == "FAILED"
    assert world.truth()["last_stopped_at"] == START


def test_job_state_can_run_ahead_of_the_instances():
    world = cloud(job(failed_early_s=4.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5.9)
    assert world.job_state() == "RUNNING"
    world.clock.at(6)
    seen = world.call("DescribeJob", JobId=ID)
    assert (seen["JobState"], seen["NextAction"]) == ("FAILED", "TERMINATING")
    assert world.counters() == {"Failed": 6, "Running": 4}
    assert world.truth()["last_stopped_at"] is None


@pytest.mark.parametrize("code", ["UnsupportedOperation", "ResourceInUse.Job"])
def test_a_submitted_job_refuses_until_it_runs(code):
    world = cloud(job(state="SUBMITTED", submitted_s=5.0, submitted_code=code))
    assert world.code("TerminateJob", JobId=ID) == code
    assert (world.job_state(), world.counters()) == ("SUBMITTED", {"Submitted": 10})
    world.clock.at(5)
    assert (world.job_state(), world.counters()) == ("RUNNING", {"Running": 10})
    assert world.code("TerminateJob", JobId=ID) == "OK"


def test_a_submitted_job_without_a_time_stays_submitted():
    world = cloud(job(state="SUBMITTED"))
    world.clock.at(1e6)
    assert world.job_state() == "SUBMITTED"


def test_an_instance_terminated_while_submitted_stays_stopped():
    world = cloud(job(state="SUBMITTED", submitted_s=5.0))
    world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=4)
    world.clock.at(6)
    assert world.counters() == {"Running": 9, "Failed": 1}


@pytest.mark.parametrize(("again", "code"), [("in_use", "ResourceInUse.Job"), ("ok", "OK")])
def test_a_second_termination_changes_nothing(again, code):
    world = cloud(job(again=again))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    assert world.code("TerminateJob", JobId=ID) == code
    world.clock.at(10)
    assert world.counters() == {"Failed": 10}
    assert world.truth()["terminated_at"] == START
    assert world.truth()["terminations_acted"] == 1
    assert world.truth()["terminations_accepted"] == (2 if again == "ok" else 1)


@pytest.mark.parametrize("state", ["SUCCEED", "FAILED"])
def test_terminating_a_finished_job_is_accepted_without_effect(state):
    world = cloud(job(state=state))
    before = world.call("DescribeJob", JobId=ID)
    assert world.code("TerminateJob", JobId=ID) == "OK"
    after = world.call("DescribeJob", JobId=ID)
    assert {**before, "RequestId": ""} == {**after, "RequestId": ""}
    truth = world.truth()
    assert (truth["terminations_accepted"], truth["terminations_acted"]) == (1, 0)
    assert truth["last_stopped_at"] < START


def test_terminating_a_failed_job_acts_on_its_live_instances():
    world = cloud(job(state="FAILED", mix={"RUNNING": 0.5}))
    assert (world.job_state(), world.counters()) == ("FAILED", {"Running": 5, "Failed": 5})
    world.call("TerminateJob", JobId=ID)
    world.clock.at(8)
    assert world.counters() == {"Running": 1, "Failed": 9}
    world.clock.at(10)
    assert world.truth()["last_stopped_at"] == START + 10


def test_nodes_of_an_environment_restart_after_the_instances_failed():
    world = cloud(job(env_id="env-example1", node_restart_s=7.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(10)
    assert world.job_state() == "FAILED"
    assert world.truth()["nodes_restarted_at"] == START + 17


def test_an_environment_can_refuse_both_terminations():
    world = cloud(job(env_id="env-example1", refuse_env=True))
    refused = "UnsupportedOperation.TerminateOperationWithEnvId"
    assert world.code("TerminateJob", JobId=ID) == refused
    instance = {"JobId": ID, "TaskName": "task-0", "TaskInstanceIndex": 0}
    assert world.code("TerminateTaskInstance", **instance) == refused
    world.clock.at(100)
    assert world.counters() == {"Running": 10}


def test_any_code_can_be_a_refusal():
    world = cloud(job(refuse="FailedOperation"))
    assert world.code("TerminateJob", JobId=ID) == "FailedOperation"
    assert world.truth()["terminations_accepted"] == 0


def test_one_instance_stops_alone():
    world = cloud(job(instance_drain_s=3.0))
    world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=4)
    world.clock.at(2.9)
    assert world.counters() == {"Running": 10}
    world.clock.at(3)
    rows = world.call("DescribeTask", JobId=ID, TaskName="task-0")["TaskInstanceSet"]
    assert [row["TaskInstanceIndex"] for row in rows if row["TaskInstanceState"] == "FAILED"] == [4]
    assert world.job_state() == "RUNNING"
    assert world.truth()["instance_terminations"] == 1


def test_the_job_fails_when_every_instance_was_terminated_alone():
    world = cloud(job(instances=3, instance_drain_s=1.0))
    for index in range(3):
        world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=index)
    world.clock.at(1)
    assert world.job_state() == "FAILED"
    assert world.truth()["terminated_at"] is None


def test_an_instance_keeps_the_earlier_of_two_endings():
    world = cloud(job(instance_drain_s=2.0))
    world.call("TerminateJob", JobId=ID)
    for index in (0, 9):
        world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=index)
    world.clock.at(1)
    assert world.counters() == {"Running": 9, "Failed": 1}
    world.clock.at(2)
    assert world.counters() == {"Running": 7, "Failed": 3}


def test_stuck_instances_need_their_own_termination():
    world = cloud(job(stuck=2, instance_drain_s=1.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(100)
    assert (world.job_state(), world.counters()) == ("RUNNING", {"Running": 2, "Failed": 8})
    for index in (8, 9):
        world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=index)
    world.clock.at(101)
    assert world.job_state() == "FAILED"


@pytest.mark.parametrize(
    ("fate", "state"), [("succeeds_after_s", "SUCCEED"), ("fails_after_s", "FAILED")]
)
def test_a_job_can_finish_by_itself(fate, state):
    world = cloud(job(**{fate: 30.0}))
    world.clock.at(29)
    assert world.job_state() == "RUNNING"
    world.clock.at(40)
    assert world.job_state() == state
    assert world.truth()["last_stopped_at"] == START + 30


def test_a_termination_prevents_success():
    world = cloud(job(succeeds_after_s=5.0))
    world.clock.at(1)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(6)
    assert world.counters() == {"Running": 5, "Failed": 5}
    world.clock.at(11)
    assert world.job_state() == "FAILED"


def test_another_actor_can_revive_a_terminated_job_once():
    world = cloud(job(revive_after_s=20.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(29)
    assert world.job_state() == "FAILED"
    world.clock.at(30)
    seen = world.call("DescribeJob", JobId=ID)
    assert (seen["JobState"], seen["EndTime"], seen["NextAction"]) == ("RUNNING", None, "")
    assert world.counters() == {"Running": 10}
    assert world.truth()["revived_at"] == START + 30
    world.clock.at(40)
    world.call("TerminateJob", JobId=ID)
    world.clock.at(1000)
    assert world.call("DescribeJob", JobId=ID)["EndTime"] == "2027-01-15T08:00:50Z"


def test_it_can_do_so_again_and_again():
    world = cloud(job(revive_after_s=20.0, revivals=2))
    for began in (0, 30, 60):
        world.clock.at(began)
        assert world.job_state() == "RUNNING"
        world.call("TerminateJob", JobId=ID)
        world.clock.at(began + 29)
        assert world.job_state() == "FAILED"
    world.clock.at(1000)
    assert world.job_state() == "FAILED"


@pytest.mark.parametrize("state", ["PENDING", "STARTING"])
def test_a_revived_job_may_not_run_yet(state):
    world = cloud(job(revive_after_s=20.0, revived_state=state))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(30)
    assert (world.job_state(), world.counters()) == (state, {state.capitalize(): 10})
    assert world.truth()["machines_up"] == (10 if state == "STARTING" else 0)


def test_a_revived_job_does_not_finish_by_itself():
    world = cloud(job(succeeds_after_s=15.0, revive_after_s=1.0))
    world.call("TerminateJob", JobId=ID)
    for seconds in (11, 100):
        world.clock.at(seconds)
        assert world.job_state() == "RUNNING"


def test_a_job_that_succeeded_is_not_revived():
    world = cloud(job(succeeds_after_s=1.0, revive_after_s=1.0))
    world.clock.at(100)
    assert world.job_state() == "SUCCEED"


def test_another_actor_can_delete_a_finished_job():
    world = cloud(job(vanish_after_s=5.0))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(14)
    assert world.job_state() == "FAILED"
    world.clock.at(15)
    assert world.code("DescribeJob", JobId=ID) == "ResourceNotFound.Job"
    assert world.code("TerminateJob", JobId=ID) == "ResourceNotFound.Job"
    assert world.call("DescribeJobs", JobIds=[ID])["TotalCount"] == 0
    assert world.truth()["vanished_at"] == START + 15


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_counters_add_up_at_every_moment(tasks):
    """The sum holds if instances do not divide evenly and some are terminated alone."""
    world = cloud(job(instances=1000, tasks=tasks, mix=MIX, drain_s=3.3))
    world.call("TerminateTaskInstance", JobId=ID, TaskName="task-0", TaskInstanceIndex=77)
    world.clock.at(0.5)
    world.call("TerminateJob", JobId=ID)
    live_before = 1000
    for tick in range(50):
        world.clock.at(0.5 + tick / 10)
        seen = world.counters()
        assert sum(seen.values()) == 1000
        live = 1000 - seen.get("Failed", 0) - seen.get("Succeed", 0)
        assert live <= live_before
        assert (live == 0) == (world.truth()["last_stopped_at"] is not None)
        live_before = live
    assert live_before == 0


def test_a_large_job_is_no_more_work_than_a_small_one():
    world = cloud(job(instances=200_000, tasks=4))
    world.call("TerminateJob", JobId=ID)
    world.clock.at(5)
    assert world.counters() == {"Running": 100_000, "Failed": 100_000}
    assert len(world.simulator._jobs[ID].parts(world.clock(), 0, 200_000)) < 10
