"""Jobs of every kind, from the request to the right final state, against the simulated cloud."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.api import schemas
from orchestrator.domain.errors import ConfigurationError
from orchestrator.simulator.simulator import Call
from orchestrator.simulator.traffic.fault_injection import Fault
from tests.support.service import daemon, service, settings, simulator

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.simulator.simulator import Simulator

JOB = "job-aaaaaaaa"


def group(**spec: Any) -> dict[str, Any]:
    return {"ids": [JOB], "instances": 20, "drain_s": 0.3} | spec


CASES: list[tuple[str, dict[str, Any], str, int]] = [
    ("running", group(), "verified", 5),
    ("several tasks", group(tasks=3), "verified", 5),
    ("reads FAILED early", group(failed_early_s=0.25), "verified", 5),
    ("env", group(env_id="env-1", node_restart_s=1), "verified", 3),
    ("interrupted", group(state="FAILED_INTERRUPTED"), "verified", 5),
    ("submitted for a while", group(state="SUBMITTED", submitted_s=0.5), "verified", 5),
    (
        "submitted, the other code",
        group(state="SUBMITTED", submitted_s=0.5, submitted_code="ResourceInUse.Job"),
        "verified",
        5,
    ),
    ("failed, instances live", group(state="FAILED", mix={"RUNNING": 0.5}), "verified", 5),
    ("already succeeded", group(state="SUCCEED"), "already_finished", 3),
    ("already failed", group(state="FAILED"), "already_finished", 3),
    ("env refused", group(env_id="env-1", refuse_env=True), "refused", 0),
    ("forbidden", group(forbidden=True), "refused", 0),
    ("refused for good", group(refuse="InvalidParameter.JobIdMalformed"), "refused", 0),
    ("elsewhere", group(region="ap-guangzhou", vanish_after_s=0, state="FAILED"), "not_found", 0),
]


@pytest.mark.parametrize(
    ("spec", "state", "evidence"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_job_ends_in_its_true_state(
    database_url: str, spec: dict[str, Any], state: str, evidence: int
) -> None:
    async with service(database_url, spec) as running:
        operation_id = await running.submit(JOB)
        operation = await running.finished(operation_id)
        termination = (await running.terminations(operation_id))[JOB]
        assert (termination["state"], termination["evidence"]) == (state, evidence)
        good = state in ("verified", "already_finished")
        assert operation["outcome"] == ("verified" if good else "failed")
        assert (termination["error"] is None) == good
        (truth,) = [job for job in running.simulator.truth() if job["job_id"] == JOB]
        if good:
            assert truth["live"] == 0


@pytest.mark.parametrize(
    "fault",
    [
        {"throttle": 1.0},
        {"internal_error": 1.0},
        {"http_500": 1.0},
        {"http_500": {"probability": 1.0, "after": True}},
        {"reset": 1.0},
        {"truncate": 1.0},
        {"lost_answer": 1.0},
        {"charset": 1.0},
        {"hang": {"probability": 1.0, "hang_s": 5}},
    ],
    ids=lambda fault: next(iter(fault)),
)
async def test_a_call_that_goes_wrong_is_read_before_it_is_repeated(
    database_url: str, fault: dict[str, Any]
) -> None:
    name, rule = next(iter(fault.items()))
    rule = rule if isinstance(rule, dict) else {"probability": rule}
    faults = {"TerminateJob": {name: rule | {"first_n": 2}}}
    async with service(database_url, group(), faults=faults) as running:
        operation_id = await running.submit(JOB)
        assert (await running.finished(operation_id))["outcome"] == "verified"
        assert calls_without_a_read_between(running.simulator) == []


def calls_without_a_read_between(cloud: Simulator) -> list[str]:
    """Return jobs called again without a read in between, by the cloud's own log.

    A call that the rate limit refuses never reaches the back end: it may be made again.
    """
    read_since: dict[str, bool] = {}
    wrong = []
    for call in cloud.calls:
        for job_id in call.job_ids:
            if call.action != "TerminateJob":
                read_since[job_id] = True
            else:
                if not read_since.get(job_id, False):
                    wrong.append(job_id)
                read_since[job_id] = call.fault == Fault.THROTTLE
    return wrong


async def test_an_operation_reports_each_job_that_went_wrong(database_url: str) -> None:
    jobs = [
        group(ids=["job-good0001"]),
        group(ids=["job-deny0001"], env_id="env-1", refuse_env=True),
    ]
    async with service(database_url, *jobs) as running:
        operation_id = await running.submit("job-good0001", "job-deny0001", "job-none0001")
        operation = await running.finished(operation_id)
        assert operation["outcome"] == "partial"
        by_job = await running.terminations(operation_id)
        assert {job: t["state"] for job, t in by_job.items()} == {
            "job-good0001": "verified",
            "job-deny0001": "refused",
            "job-none0001": "not_found",
        }
        refused = by_job["job-deny0001"]["error"]
        assert refused["code"] == "UnsupportedOperation.TerminateOperationWithEnvId"
        assert refused["advice"]
        counts = operation["progress"]["jobs"]
        assert (counts["total"], counts["verified"], counts["refused"]) == (3, 1, 1)


async def test_a_job_revived_in_the_settle_window_is_terminated_again(database_url: str) -> None:
    async with service(database_url, group(revive_after_s=0.5)) as running:
        operation_id = await running.submit(JOB, settle_s=3)
        await running.until(operation_id, JOB, "settling")
        await running.until(operation_id, JOB, "sending", "draining")
        termination = await running.until(operation_id, JOB, "verified")
        assert len(termination["attempts"]) == 2
        assert running.simulator.truth()[0]["live"] == 0


async def test_machines_are_followed_until_they_are_gone(database_url: str) -> None:
    spec = group(instances=5, mix={"SUCCEED": 0.2}, machine_linger_s=2)
    async with service(database_url, spec) as running:
        operation_id = await running.submit(JOB)
        settling = await running.until(operation_id, JOB, "settling")
        path = f"/v1/terminations/{settling['id']}/instances"
        listed = (await running.get(path))["instances"]
        assert [each["index"] for each in listed] == [1, 2, 3, 4]
        assert {each["state"] for each in listed} == {"RUNNING"}
        assert (await running.get(f"{path}?state=live"))["instances"] == [], "none is any more"
        verified = await running.until(operation_id, JOB, "verified")
        assert verified["evidence"] == 5
        machines = verified["machines"]
        assert (machines["total"], machines["up"], machines["gone"]) == (4, 0, 4)
        assert (machines["not_captured"], machines["error"]) == (None, None)
        progress = (await running.finished(operation_id))["progress"]
        assert progress["machines"] == {"total": 4, "up": 0, "gone": 4}
        (truth,) = running.simulator.truth()
        assert truth["machines_up"] == 0
        gone = await running.get(f"{path}?machine=gone&limit=3")
        assert len(gone["instances"]) == 3
        more = await running.get(
            f"{path}?machine=gone&limit=3&page_token={gone['next_page_token']}"
        )
        assert [each["index"] for each in more["instances"]] == [4]
        assert more["next_page_token"] is None


async def test_tasks_are_listed_of_one_termination_and_counted_in_a_list(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of jobs of 10,000 tasks each would be hundreds of megabytes."""
    monkeypatch.setattr(schemas, "TASKS_LISTED_MAX", 99)
    spec = group(state="FAILED", instances=100, tasks=100)
    async with service(database_url, spec) as running:
        operation_id = await running.submit(JOB)
        listed = await running.until(operation_id, JOB, "already_finished")
        assert listed["tasks_by_state"] == {"FAILED": 100}
        assert len(json.dumps(listed)) < 3_000
        one = await running.get(f"/v1/terminations/{listed['id']}")
        assert len(one.pop("tasks")) == 99, "the most that are listed"
        assert one.keys() == listed.keys()
        assert one["tasks_by_state"] == listed["tasks_by_state"]


async def test_machines_that_stay_end_their_job_unverified(database_url: str) -> None:
    engine = {"settle_s": 0.2, "give_up_after_s": 1.0, "poll": {"settling_interval_s": 0.1}}
    async with service(database_url, group(machines_stay=1), engine=engine) as running:
        operation_id = await running.submit(JOB)
        unverified = await running.until(operation_id, JOB, "unverified")
        assert "1 of 20 machines were still up" in unverified["waiting_for"]
        path = f"/v1/terminations/{unverified['id']}/instances?machine=up"
        (up,) = (await running.get(path))["instances"]
        assert running.simulator.truth()[0]["machines_up"] == 1
        assert up["machine_id"].startswith("ins-")


async def test_an_immortal_job_ends_unverified_at_its_deadline(database_url: str) -> None:
    async with service(database_url, group(stuck=3)) as running:
        operation_id = await running.submit(JOB, give_up_after_s=1.5)
        operation = await running.finished(operation_id)
        termination = (await running.terminations(operation_id))[JOB]
        assert operation["outcome"] == "failed"
        assert termination["state"] == "unverified"
        assert termination["instances"]["live"] == 3


@pytest.mark.parametrize(
    ("asked", "state", "escalation_level", "calls"),
    [
        ({"escalate": True}, "verified", "instances", 2),
        ({"escalate": False, "give_up_after_s": 5}, "unverified", "manual", 0),
    ],
)
async def test_instances_that_stay_are_called_unless_that_was_not_wanted(
    database_url: str, asked: dict[str, Any], state: str, escalation_level: str, calls: int
) -> None:
    poll = {
        "batch_min_interval_s": 0.05,
        "batch_max_interval_s": 0.1,
        "recount_min_interval_s": 0.1,
        "settling_interval_s": 0.1,
    }
    engine = {"settle_s": 0.2, "escalation": {"after_s": 0.2}, "poll": poll}
    job = group(stuck=2, failed_early_s=60)
    async with service(database_url, job, engine=engine) as running:
        operation_id = await running.submit(JOB, **asked)
        termination = await running.until(operation_id, JOB, "verified", "unverified")
        assert (termination["state"], termination["escalation"]["level"]) == (
            state,
            escalation_level,
        )
        assert termination["escalation"]["allowed"] is asked["escalate"]
        made = [each.action for each in running.simulator.calls]
        assert made.count("TerminateTaskInstance") == calls
        assert made.count("TerminateInstances") == 0


async def test_a_submitted_job_can_be_refused_instead_of_held(database_url: str) -> None:
    async with service(database_url, group(state="SUBMITTED")) as running:
        operation_id = await running.submit(JOB, on_submitted="refuse")
        termination = await running.until(operation_id, JOB, "refused")
        assert termination["error"]["code"] == "Client.JobSubmitted"
        assert termination["attempts"] == []


async def test_a_job_is_not_called_before_its_time_while_others_are_polled(
    database_url: str,
) -> None:
    """Otherwise a SUBMITTED one would be refused, or given up, before its time."""
    jobs = [group(state="SUBMITTED", submitted_s=0.5), group(ids=["job-other001"])]
    async with service(database_url, *jobs) as running:
        today = datetime.now(UTC).replace(microsecond=0)
        soon, late = today + timedelta(days=1), today + timedelta(days=2)
        first = await running.submit(JOB, not_before=late.isoformat(), on_submitted="refuse")
        second = await running.submit(JOB, "job-other001", not_before=soon.isoformat())
        third = await running.submit("job-other001")
        assert (await running.finished(third))["outcome"] == "verified"
        termination = (await running.terminations(second))[JOB]
        assert termination["state"] == "queued"
        assert datetime.fromisoformat(termination["next_action_at"]) == soon
        assert not [call for call in running.simulator.calls if JOB in call.job_ids]
        await running.submit(JOB)
        assert (await running.finished(first))["outcome"] == "verified"


async def test_many_jobs_at_once_with_faults_on_everything(
    database_url: str,
) -> None:
    """The faults end by themselves, so that no backoff can grow for as long as the test runs."""
    chances = {"lost_answer": 0.1, "throttle": 0.01, "internal_error": 0.1, "truncate": 0.1}
    fault = {name: {"probability": p, "until_s": 8.0} for name, p in chances.items()}
    jobs = [f"job-many{n:04}" for n in range(60)]
    async with service(database_url, group(ids=jobs), faults={"*": fault}) as running:
        operation_id = await running.submit(*jobs)
        assert (await running.finished(operation_id))["outcome"] == "verified"
        assert calls_without_a_read_between(running.simulator) == []
        assert all(job["live"] == 0 for job in running.simulator.truth())


async def test_work_continues_where_it_was_after_a_stop(database_url: str) -> None:
    async with service(database_url, group(state="SUBMITTED")) as running:
        operation_id = await running.submit(JOB)
        await running.until(operation_id, JOB, "held")
    async with service(database_url, group()) as running:
        assert (await running.finished(operation_id))["outcome"] == "verified"


async def test_a_second_daemon_on_the_database_is_refused_and_changes_nothing(
    database_url: str,
) -> None:
    async with service(database_url, group()) as running:
        operation_id = await running.submit(JOB)
        elsewhere = settings("http://127.0.0.1:9", database_url)
        with pytest.raises(ConfigurationError, match="another daemon runs on this database"):
            async with daemon(elsewhere):
                pytest.fail("it was served by two")
        assert (await running.finished(operation_id))["outcome"] == "verified"


async def test_the_log_says_which_database_it_is_and_whether_it_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="orchestrator.daemon")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        async with service("sqlite:///new.db", group()):
            pass
    logged = [text for text in caplog.messages if text.startswith("database ")]
    assert [text.rpartition(" ")[0] for text in logged] == [
        f"database {tmp_path}/new.db: created, at schema revision",
        f"database {tmp_path}/new.db: at schema revision",
    ]


def test_the_checker_finds_a_call_without_a_read() -> None:
    cloud = simulator(group())
    was_read = Call(0.0, "r1", action="DescribeJob", job_ids=(JOB,))
    refused = Call(0.0, "r0", action="TerminateJob", job_ids=(JOB,), fault=Fault.THROTTLE)
    called = Call(0.0, "r2", action="TerminateJob", job_ids=(JOB,))
    cloud.calls += [was_read, refused, called]
    assert calls_without_a_read_between(cloud) == []
    cloud.calls += [called]
    assert calls_without_a_read_between(cloud) == [JOB]
