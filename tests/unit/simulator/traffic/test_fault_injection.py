"""Fault injection: the reply to the client, and whether the call took effect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.protocol.replies import Delivery, Reply
from orchestrator.simulator.traffic.fault_injection import Fault, FaultInjector, Rule, read_faults
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED
from tests.unit.simulator.support import Cloud, cloud, job, tc3_request

ID = "job-aaaaaaaa"


def failing(fault: str, **options: Any) -> Cloud:
    return cloud(job(), faults={"TerminateJob": [Rule(Fault(fault), 1.0, **options)]})


def terminate(world: Cloud) -> Reply:
    request = tc3_request("TerminateJob", {"JobId": ID}, timestamp=world.clock())
    return world.simulator.handle(request)


@pytest.mark.parametrize(
    ("fault", "options", "acted"),
    [
        ("throttle", {}, False),
        ("internal_error", {}, False),
        ("http_500", {}, False),
        ("http_500", {"after": True}, True),
        ("reset", {}, False),
        ("hang", {}, False),
        ("truncate", {}, True),
        ("lost_answer", {}, True),
        ("charset", {}, True),
    ],
)
def test_whether_a_call_acts_in_spite_of_a_fault(fault, options, acted):
    world = failing(fault, **options)
    terminate(world)
    assert world.truth()["terminations_acted"] == int(acted)
    (call,) = world.simulator.calls
    assert (call.acted, call.fault) == (acted, fault)
    assert call.code == ("OK" if acted else "")
    assert world.simulator.faults.fired()[fault] == 1


def test_throttle_and_internal_error_are_answers():
    throttled = json.loads(terminate(failing("throttle")).body)["Response"]["Error"]
    assert throttled["Code"] == "RequestLimitExceeded"
    assert json.loads(terminate(failing("internal_error")).body)["Response"]["Error"]["Code"] == (
        "InternalError"
    )


@pytest.mark.parametrize("after", [False, True])
def test_http_500_is_a_page_of_the_gateway(after):
    reply = terminate(failing("http_500", after=after))
    assert (reply.status, reply.content_type, reply.delivery) == (500, "text/html", Delivery.WHOLE)


@pytest.mark.parametrize(("fault", "delay_s"), [("reset", 0), ("lost_answer", 0), ("hang", 9)])
def test_connections_are_cut(fault, delay_s):
    reply = terminate(failing(fault, hang_s=9.0))
    assert (reply.delivery, reply.delay_s) == (Delivery.CUT, delay_s)


def test_truncate_and_charset_leave_the_answer_itself_alone():
    cut = terminate(failing("truncate"))
    assert cut.delivery is Delivery.TRUNCATED
    assert "RequestId" in json.loads(cut.body)["Response"]
    assert terminate(failing("charset")).content_type == "application/json; charset=utf-8"


def test_the_first_calls_alone_can_be_at_risk():
    world = failing("internal_error", first_n=2)
    assert [world.code("TerminateJob", JobId=ID) for _ in range(3)] == [
        "InternalError",
        "InternalError",
        "OK",
    ]


def test_faults_can_end_with_time():
    world = failing("internal_error", until_s=10.0)
    world.clock.at(9.9)
    assert world.code("TerminateJob", JobId=ID) == "InternalError"
    world.clock.at(10)
    assert world.code("TerminateJob", JobId=ID) == "OK"


def test_bounds_restart_when_faults_are_replaced():
    world = failing("internal_error", first_n=1)
    rules = {"TerminateJob": [Rule(Fault.INTERNAL_ERROR, 1.0, first_n=1)]}
    assert world.code("TerminateJob", JobId=ID) == "InternalError"
    world.simulator.faults.replace(rules, now=world.clock())
    assert world.code("TerminateJob", JobId=ID) == "InternalError"
    assert world.simulator.faults.fired()["internal_error"] == 2
    assert world.code("TerminateJob", JobId=ID) == "OK"


def test_a_star_stands_for_every_action():
    world = cloud(job(), faults={"*": [Rule(Fault.INTERNAL_ERROR, 1.0)]})
    assert world.code("DescribeJob", JobId=ID) == "InternalError"
    assert world.code("DescribeJobs") == "InternalError"


def drawn(seed: int, count: int = 2000) -> list[Fault | None]:
    rules = {"TerminateJob": [Rule(Fault.RESET, 0.1), Rule(Fault.HANG, 0.3)]}
    faults = FaultInjector(rules, seed=seed, now=0.0)
    rolled = [faults.draw("TerminateJob", now=0.0) for _ in range(count)]
    return [None if rule is None else rule.fault for rule in rolled]


def test_the_seed_decides_which_calls_fail():
    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_faults_happen_as_often_as_configured():
    seen = drawn(3)
    assert 0.07 < seen.count(Fault.RESET) / len(seen) < 0.13
    assert 0.26 < seen.count(Fault.HANG) / len(seen) < 0.34


def test_faults_are_read_in_short_and_in_long():
    rules = read_faults(
        {"TerminateJob": {"reset": 0.1, "hang": {"probability": 0.2, "hang_s": 3, "first_n": 5}}}
    )
    assert rules == {
        "TerminateJob": [
            Rule(Fault.RESET, 0.1),
            Rule(Fault.HANG, 0.2, first_n=5, hang_s=3),
        ]
    }


def test_every_mistake_in_faults_is_named():
    table = {
        "Terminate": {"reset": 1},
        "TerminateJob": {"reset": 0.6, "throttle": 0.6, "explode": 1},
        "DescribeJob": {"charset": {"hang_s": 3, "until_s": "x"}},
    }
    with pytest.raises(ScenarioError) as caught:
        read_faults(table)
    assert caught.value.problems == [
        f"faults.Terminate: must be one of *, {', '.join(LOWEST_DOCUMENTED)}",
        "faults.TerminateJob.reset: the probabilities add up to more than 1",
        "faults.TerminateJob.explode: unknown key",
        "faults.DescribeJob.charset.until_s: must be a valid number",
        "faults.DescribeJob.charset.hang_s: unknown key",
    ]
