"""Quotas as the cloud counts them."""

from __future__ import annotations

from contextlib import suppress

import pytest

from orchestrator.simulator.errors import ApiError
from orchestrator.simulator.traffic.quota import QuotaCounter
from tests.unit.simulator.support import SECRET_ID, SECRET_KEY, Cloud, cloud, job

ID = "job-aaaaaaaa"
THROTTLED = "RequestLimitExceeded"


@pytest.mark.parametrize(
    ("action", "limit_per_s"),
    [
        ("TerminateJob", 2),
        ("TerminateTaskInstance", 2),
        ("DescribeJob", 2),
        ("DescribeJobSubmitInfo", 2),
        ("DescribeJobs", 2),
        ("DescribeTask", 3),
        ("DescribeInstances", 40),
        ("TerminateInstances", 10),
    ],
)
def test_the_lowest_documented_limits_are_the_default(action, limit_per_s):
    world = cloud(limits_per_s={})
    codes = [world.code(action) for _ in range(limit_per_s + 2)]
    assert [code == THROTTLED for code in codes].index(True) == limit_per_s
    assert codes[-1] == THROTTLED


def test_a_throttled_call_acts_on_nothing():
    world = cloud(job(), limits_per_s={"TerminateJob": 1})
    world.call("TerminateJob", JobId="job-zzzzzzzz")
    assert world.code("TerminateJob", JobId=ID) == THROTTLED
    assert world.truth()["terminations_accepted"] == 0
    last = world.simulator.calls[-1]
    assert (last.code, last.acted, last.job_ids) == (THROTTLED, False, (ID,))


def test_the_message_names_the_count_and_the_limit():
    world = cloud(limits_per_s={"DescribeJobs": 10})
    for _ in range(10):
        world.call("DescribeJobs")
    message = world.call("DescribeJobs")["Error"]["Message"]
    assert "equals to `11` in a second" in message
    assert "exceeds the frequency limit `10`" in message


def test_windows_are_seconds_of_the_clock():
    world = cloud(limits_per_s={"DescribeJobs": 1})
    world.clock.at(0.9)
    assert world.code("DescribeJobs") == "OK"
    world.clock.at(1.0)
    assert world.code("DescribeJobs") == "OK"
    world.clock.at(1.9)
    assert world.code("DescribeJobs") == THROTTLED


def test_actions_and_secret_ids_are_counted_apart():
    world = cloud(
        job(),
        limits_per_s={"DescribeJobs": 1, "DescribeJob": 1},
        secret_keys={SECRET_ID: SECRET_KEY, "AKIDOTHER": SECRET_KEY},
    )
    assert world.code("DescribeJobs") == "OK"
    assert world.code("DescribeJob", JobId=ID) == "OK"
    other = Cloud(world.clock, world.simulator, {"secret_id": "AKIDOTHER"})
    assert other.code("DescribeJobs") == "OK"
    assert world.code("DescribeJobs") == THROTTLED


def test_calls_with_a_wrong_signature_do_not_count():
    world = cloud(limits_per_s={"DescribeJobs": 1})
    stranger = Cloud(world.clock, world.simulator, {"secret_key": "another-key"})
    assert stranger.code("DescribeJobs") == "AuthFailure.SignatureFailure"
    assert world.code("DescribeJobs") == "OK"


def test_the_report_finds_the_fullest_second_wherever_it_starts():
    quota = QuotaCounter({"DescribeJobs": 2})
    for time in (10.8, 10.9, 11.0, 11.1, 11.85, 13.0):
        with suppress(ApiError):
            quota.count("DescribeJobs", SECRET_ID, now=time)
    (row,) = quota.report()
    assert (row["calls"], row["refused"], row["limit_per_s"]) == (6, 1, 2)
    assert row["most_in_a_window"] == 3
    assert row["most_in_any_second"] == 4
