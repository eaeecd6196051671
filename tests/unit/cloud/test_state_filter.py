"""DescribeTask's filter has two documented names; the gateway learns which one works."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cloud.state_filter import CHINA_NAME, INTERNATIONAL_NAME, StateFilter
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import JobState, TaskPage
from tests.unit.cloud.support import REGION, ScriptedServer, gateway_to, refused, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from orchestrator.cloud.gateway import TencentBatch

NAMES = (CHINA_NAME, INTERNATIONAL_NAME)
ONE, TWO = ("job-1", "t"), ("job-2", "t")
RUNNING = {"TaskInstanceIndex": 0, "TaskInstanceState": "RUNNING"}
FAILED = {"TaskInstanceIndex": 1, "TaskInstanceState": "FAILED"}


def page(*rows: dict[str, object]) -> web.Response:
    return said(JobId="job-1", TaskName="t", TaskInstanceSet=list(rows))


def site(knows: str, code: str = "InvalidParameterValue.InvalidFilter") -> ScriptedServer:
    """Return a cloud that accepts one filter name and refuses the other."""

    def reply(_: web.Request) -> web.Response:
        return page(RUNNING) if names_sent(server)[-1] in (knows, None) else refused(code)

    server = ScriptedServer(reply)
    return server


def names_sent(server: ScriptedServer) -> list[str | None]:
    bodies = [json.loads(body) for _, body in server.arrived]
    return [body["Filters"][0]["Name"] if "Filters" in body else None for body in bodies]


async def describe(gateway: TencentBatch, *states: JobState, job_id: str = "job-1") -> TaskPage:
    return await gateway.describe_task(region=REGION, job_id=job_id, task_name="t", states=states)


async def failed_describe(gateway: TencentBatch) -> CloudError:
    with pytest.raises(CloudError) as caught:
        await describe(gateway, JobState.RUNNING)
    return caught.value


async def test_name_of_the_china_site_is_tried_first_and_kept() -> None:
    async with gateway_to(server := site(CHINA_NAME)) as gateway:
        for _ in range(2):
            assert len((await describe(gateway, JobState.RUNNING)).instances) == 1

    assert names_sent(server) == [CHINA_NAME, CHINA_NAME]


@pytest.mark.parametrize(
    "code",
    [
        "InvalidFilter",
        "InvalidParameter",
        "InvalidParameterValue",
        "InvalidParameterValue.InvalidFilter",
        "UnknownParameter",
    ],
)
async def test_refused_name_makes_the_same_call_worth_repeating_by_the_other(code: str) -> None:
    """The gateway sends one request; the error has kind NOT_SENT, and the vendor's code."""
    async with gateway_to(server := site(INTERNATIONAL_NAME, code)) as gateway:
        error = await failed_describe(gateway)
        assert len(server.arrived) == 1
        for _ in range(2):
            assert len((await describe(gateway, JobState.RUNNING)).instances) == 1

    assert (error.kind, error.code, error.request_id) == (CloudErrorKind.NOT_SENT, code, "r-1")
    assert "repeated at once" in (error.advice or "")
    assert names_sent(server) == [CHINA_NAME, INTERNATIONAL_NAME, INTERNATIONAL_NAME]


async def test_other_tasks_go_by_the_other_name_at_once() -> None:
    """The refusal for one task is enough for all tasks."""

    def reply(_: web.Request) -> web.Response:
        name, job_id = names_sent(server)[-1], json.loads(server.arrived[-1][1])["JobId"]
        if name == CHINA_NAME:
            return refused("InvalidFilter")
        return said(JobId=job_id, TaskName="t", TaskInstanceSet=[])

    server = ScriptedServer(reply)
    async with gateway_to(server) as gateway:
        await failed_describe(gateway)
        await describe(gateway, JobState.RUNNING, job_id="job-2")

    assert names_sent(server) == [CHINA_NAME, INTERNATIONAL_NAME]


async def test_refusal_of_both_names_stays_one() -> None:
    """The refusal has another reason, and the request is not repeated forever."""
    async with gateway_to(server := site("neither")) as gateway:
        kinds = [(await failed_describe(gateway)).kind for _ in range(4)]

    assert kinds == [CloudErrorKind.NOT_SENT, CloudErrorKind.REFUSED] * 2
    assert names_sent(server) == [CHINA_NAME, INTERNATIONAL_NAME] * 2


@pytest.mark.parametrize(
    "code", ["ResourceNotFound.Task", "InvalidParameter.JobIdMalformed", "RequestLimitExceeded"]
)
async def test_other_refusals_say_nothing_about_the_name(code: str) -> None:
    async with gateway_to(server := site("neither", code)) as gateway:
        kinds = {(await failed_describe(gateway)).kind for _ in range(2)}

    assert CloudErrorKind.NOT_SENT not in kinds
    assert names_sent(server) == [CHINA_NAME, CHINA_NAME]


async def test_call_without_a_filter_is_refused_for_itself() -> None:
    server = ScriptedServer(lambda _: refused("InvalidParameterValue"))
    async with gateway_to(server) as gateway:
        with pytest.raises(CloudError) as caught:
            await describe(gateway)

    assert caught.value.kind is CloudErrorKind.REFUSED
    assert names_sent(server) == [None]


async def test_cloud_that_ignores_the_filter_is_asked_by_the_other_name() -> None:
    """Rows in other states are dropped but counted: the page may not be the last one."""

    def reply(_: web.Request) -> web.Response:
        return page(RUNNING) if names_sent(server)[-1] == INTERNATIONAL_NAME else page(FAILED)

    server = ScriptedServer(reply)
    async with gateway_to(server) as gateway:
        ignored = await describe(gateway, JobState.RUNNING, JobState.STARTING)
        obeyed = await describe(gateway, JobState.RUNNING, JobState.STARTING)
        await describe(gateway, JobState.RUNNING)

    assert (ignored.instances, ignored.rows) == ((), 1)
    assert ([row.state for row in obeyed.instances], obeyed.rows) == ([JobState.RUNNING], 1)
    assert names_sent(server) == [CHINA_NAME, INTERNATIONAL_NAME, INTERNATIONAL_NAME]


# --- the rule, without a wire --------------------------------------------------------------------


def test_task_refused_for_itself_does_not_cause_the_refusal_of_another() -> None:
    """Other tasks, switched to a name that fails, still have the first name to try."""
    names = StateFilter()
    assert names.refused(ONE, names.name_for(ONE))
    wrong_here = names.name_for(TWO)
    assert wrong_here == INTERNATIONAL_NAME
    assert names.refused(TWO, wrong_here)
    assert names.name_for(TWO) == CHINA_NAME


def test_task_is_repeated_by_the_other_name_even_if_the_name_was_learnt_meanwhile() -> None:
    names = StateFilter()
    names.refused(ONE, CHINA_NAME)
    names.answered(TWO, CHINA_NAME, obeyed=True)
    assert (names.name_for(ONE), names.name_for(TWO)) == (INTERNATIONAL_NAME, CHINA_NAME)
    assert not names.refused(ONE, INTERNATIONAL_NAME)


def test_answer_ends_what_a_refusal_began() -> None:
    """After a reply, a refusal of the working name allows the other name again."""
    names = StateFilter()
    names.refused(ONE, CHINA_NAME)
    names.answered(ONE, INTERNATIONAL_NAME, obeyed=True)
    assert names.refused(ONE, INTERNATIONAL_NAME)


def asked(names: StateFilter, task: tuple[str, str], works: Callable[[str], bool]) -> list[str]:
    """Return the names that a caller uses until its request succeeds or it gives up."""
    used: list[str] = []
    while True:
        used.append(names.name_for(task))
        if works(used[-1]):
            names.answered(task, used[-1], obeyed=True)
            return used
        if not names.refused(task, used[-1]):
            return [*used, "given up"]


@given(data=st.data(), knows=st.sampled_from(NAMES))
def test_valid_task_is_answered_within_two_calls_beside_any_others(data: Any, knows: str) -> None:
    """A bad task is given up within two, also if an earlier caller never repeated its request."""
    names = StateFilter()
    for what in data.draw(st.lists(st.sampled_from(["good", "bad", "left"]), max_size=8)):
        match what:
            case "good":
                used = asked(names, TWO, lambda name: name == knows)
                assert used in ([knows], [name for name in NAMES if name != knows] + [knows])
            case "bad":
                used = asked(names, ONE, lambda _: False)
                assert used[-1] == "given up"
                assert len(used) <= 3
            case _:
                names.refused(ONE, names.name_for(ONE))


def test_many_calls_under_way_at_once_turn_it_once() -> None:
    """All were sent with the first name; later refusals do not switch back to it."""
    names = StateFilter()
    for number in range(5):
        assert names.refused((f"job-{number}", "t"), CHINA_NAME)
    assert names.name_for(TWO) == INTERNATIONAL_NAME
