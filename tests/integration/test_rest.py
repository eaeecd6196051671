"""Tests of the REST API: idempotent requests, complete lists, explanations and health."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
import time
from codecs import BOM_UTF8
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from orchestrator.api.routes import application
from orchestrator.api.schemas import OperationRequest
from orchestrator.cloud.transport import AiohttpTransport
from orchestrator.composition import Environment, replica
from orchestrator.daemon import SystemClock
from orchestrator.domain.audit.certificate_verification import verify
from orchestrator.domain.decisions.invariants import Invariant
from orchestrator.domain.model.lifecycle import FINAL_STATES, State
from orchestrator.engine.replica import partition_runner
from orchestrator.engine.runtime import loop
from orchestrator.services import storage_check
from orchestrator.store.database import database as store
from tests.support import HANG_S
from tests.support.rest import OPERATIONS, Rest, assert_problem, served, tomorrow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

READY = {"status": "ready", "troubles": {}, "set_aside": {"terminations": 0, "ids": []}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    async with served(tmp_path_factory.mktemp("rest")) as running:
        yield running


# --- requests ------------------------------------------------------------------------------------


async def test_an_accepted_request_returns_the_location_of_its_operation(rest: Rest) -> None:
    body = {"jobs": ["job-where001"], "reason": "over budget", "not_before": tomorrow()}
    answer = await rest.post(body)
    assert answer.status == 202
    operation = answer.document
    assert re.fullmatch(r"op_[0-9a-z]{20}", operation["id"])
    assert answer.headers["Location"] == f"{OPERATIONS}/{operation['id']}"
    assert int(answer.headers["Retry-After"]) > 0
    assert (await rest.get(answer.headers["Location"])).document == operation
    shown = {name: operation[name] for name in ("account", "region", "state", "outcome", "reason")}
    assert shown == {
        "account": "main",
        "region": "ap-guangzhou",
        "state": "running",
        "outcome": None,
        "reason": "over budget",
    }
    assert (operation["requested_by"], operation["duplicates_merged"]) == ("local", 0)


async def test_duplicate_ids_are_merged_and_counted_in_the_answer(rest: Rest) -> None:
    operation = await rest.accepted("job-twice001", "job-twice002", "job-twice001", "job-twice001")
    assert operation["duplicates_merged"] == 2
    assert operation["progress"]["jobs"]["total"] == 2
    listed = await rest.get(f"{OPERATIONS}/{operation['id']}/terminations")
    jobs = [termination["job_id"] for termination in listed.document["terminations"]]
    assert jobs == ["job-twice001", "job-twice002"]


async def test_ten_thousand_jobs_are_one_request(rest: Rest) -> None:
    operation = await rest.accepted(*[f"job-many{n:05}" for n in range(10_000)])
    assert operation["progress"]["jobs"]["queued"] == 10_000


async def test_operations_that_name_the_same_live_job_share_its_termination(rest: Rest) -> None:
    first = await rest.accepted("job-shared01", "job-shared02")
    second = await rest.accepted("job-shared02", "job-shared03")
    listed = await rest.get("/v1/terminations?job_id=job-shared02")
    (shared,) = listed.document["terminations"]
    assert shared["operation_ids"] == [first["id"], second["id"]]


# --- idempotency ---------------------------------------------------------------------------------


async def test_a_job_is_not_called_before_its_not_before(tmp_path: Path) -> None:
    """TerminateJob is sent for other jobs meanwhile."""
    async with served(tmp_path, {"ids": ["job-now00001", "job-later001"], "drain_s": 0.1}) as rest:
        not_before = datetime.now(UTC) + timedelta(seconds=2)
        at_once = await rest.service.submit("job-now00001")
        later = await rest.accepted("job-later001", not_before=not_before.isoformat())
        for operation_id in (at_once, later["id"]):
            assert (await rest.service.finished(operation_id))["outcome"] == "verified"
        first_sent_at = {
            call.job_ids[0]: call.at
            for call in rest.service.simulator.calls
            if call.action == "TerminateJob"
        }
        assert (
            first_sent_at["job-now00001"] < not_before.timestamp() <= first_sent_at["job-later001"]
        )


async def test_a_request_under_the_same_key_is_stored_once(rest: Rest) -> None:
    """The order of the jobs and their repetition make no difference."""
    body = {"jobs": ["job-once0001", "job-once0002"], "reason": "r", "not_before": tomorrow()}
    first = await rest.post(body, Idempotency_Key="once")
    stored = rest.rows()
    assert "Idempotency-Replayed" not in first.headers
    shuffled = body | {"jobs": ["job-once0002", "job-once0001", "job-once0002"]}
    for same in (body, shuffled):
        again = await rest.post(same, Idempotency_Key="once")
        assert again.status == 202
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.headers["Location"] == first.headers["Location"]
        assert again.document == first.document
    assert rest.rows() == stored


@pytest.mark.parametrize(
    "change",
    [
        {"jobs": ["job-key00001", "job-key00002"]},
        {"reason": "another"},
        {"region": "ap-shanghai"},
        {"account": "main"},
        {"on_submitted": "refuse"},
        {"settle_s": 1},
        {"give_up_after_s": 1},
        {"reterminate_for_s": 1},
        {"escalate": False},
        {"not_before": "2026-01-01T00:00:00Z"},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_another_request_under_the_same_key_is_refused(
    rest: Rest, change: dict[str, object]
) -> None:
    body = {"jobs": ["job-key00001"], "reason": "r", "not_before": "2026-11-01T00:00:00Z"}
    first = await rest.post(body, Idempotency_Key="taken")
    answer = await rest.post(body | change, Idempotency_Key="taken")
    problem = assert_problem(answer, 422, "idempotency-key-reused", "use a new key")
    assert first.document["id"] in problem["detail"]


async def test_null_counts_as_absent(rest: Rest) -> None:
    """A null counts as absent for an unknown field too; a byte order mark is ignored."""
    bare = {"jobs": ["job-nulls001"], "reason": "null", "not_before": tomorrow()}
    first = await rest.post(bare, Idempotency_Key="nulls")
    nulls = dict.fromkeys((*OperationRequest.model_fields, "lane", "plan_id"))
    again = await rest.post(BOM_UTF8 + json.dumps(nulls | bare).encode(), Idempotency_Key="nulls")
    assert again.status == 202, again.text
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.document["id"] == first.document["id"]


async def test_without_a_key_each_request_is_its_own(rest: Rest) -> None:
    first, second = [await rest.accepted("job-nokey001") for _ in range(2)]
    assert first["id"] != second["id"]


async def test_different_requests_under_one_key_at_the_same_time_are_one_operation(
    rest: Rest,
) -> None:
    bodies = [
        {"jobs": [f"job-race1{n:03}"], "reason": "r", "not_before": tomorrow()} for n in range(20)
    ]
    answers = await asyncio.gather(*[rest.post(body, Idempotency_Key="duel") for body in bodies])
    assert sorted(answer.status for answer in answers) == [202] + [422] * 19


async def test_a_key_is_remembered_over_a_restart(tmp_path: Path) -> None:
    body = {"jobs": ["job-restart1"], "reason": "r", "not_before": tomorrow()}
    async with served(tmp_path) as rest:
        first = await rest.post(body, Idempotency_Key="restart")
    async with served(tmp_path) as rest:
        again = await rest.post(body, Idempotency_Key="restart")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.document == first.document


# --- lists ---------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def listed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon with seven operations of one job, two in another region, and one of all jobs."""
    async with served(tmp_path_factory.mktemp("lists")) as rest:
        for n in range(7):
            region = "ap-shanghai" if n > 4 else "ap-guangzhou"
            await rest.accepted(f"job-list000{n}", region=region)
        await rest.accepted(*[f"job-list000{n}" for n in range(7)])
        yield rest


def ids(pages: list[Any], name: str) -> list[Any]:
    return [item["id"] for page in pages for item in page[name]]


async def all_lists(rest: Rest) -> dict[str, str]:
    """Return the path of a list of each kind, with the name of its items."""
    (newest,) = (await rest.get(f"{OPERATIONS}?limit=1")).document["operations"]
    operation = f"{OPERATIONS}/{newest['id']}"
    (some,) = (await rest.get("/v1/terminations?limit=1")).document["terminations"]
    return {
        OPERATIONS: "operations",
        "/v1/terminations": "terminations",
        f"{operation}/terminations": "terminations",
        f"{operation}/events": "events",
        f"/v1/terminations/{some['id']}/events": "events",
    }


@pytest.mark.parametrize("limit", [1, 3, 7, 8, 1000])
async def test_pages_hold_everything_once_and_in_order(listed: Rest, limit: int) -> None:
    for path, name in (await all_lists(listed)).items():
        whole = [page async for page in listed.pages(path)]
        pages = [page async for page in listed.pages(f"{path}?limit={limit}")]
        assert ids(pages, name) == ids(whole, name) != []
        assert all(len(page[name]) == limit for page in pages[:-1])
        assert len(pages[-1][name]) < limit


async def test_pages_lose_and_double_nothing_while_requests_come_in(listed: Rest) -> None:
    for path, name in (await all_lists(listed)).items():
        before = ids([page async for page in listed.pages(path)], name)
        seen: list[Any] = []
        async for page in listed.pages(f"{path}?limit=2"):
            seen += [item["id"] for item in page[name]]
            # A list that grows as fast as it is read would have no end.
            if len(seen) <= len(before):
                await listed.accepted(f"job-added{len(seen):03}")
        assert len(seen) == len(set(seen))
        assert [each for each in seen if each in before] == before


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("region=ap-shanghai", [5, 6]),
        ("region=ap-guangzhou&state=queued&job_id=job-list0003", [3]),
        ("job_id=job-list0006&account=main", [6]),
        ("state=held", []),
        ("account=nobody", []),
        ("job_id=%00", []),
        ("job_id=job-list000%25", []),
    ],
)
async def test_terminations_by_their_properties(
    listed: Rest, query: str, numbers: list[int]
) -> None:
    pages = [page async for page in listed.pages(f"/v1/terminations?{query}&limit=1000")]
    jobs = [
        termination["job_id"]
        for page in pages
        for termination in page["terminations"]
        if termination["job_id"].startswith("job-list")
    ]
    expected = {f"job-list000{number}" for number in numbers}
    assert set(jobs) == expected


@pytest.mark.parametrize(
    ("query", "found"),
    [("state=running", True), ("state=finished", False), ("account=nobody", False)],
)
async def test_operations_by_their_properties(listed: Rest, query: str, *, found: bool) -> None:
    answer = await listed.get(f"{OPERATIONS}?{query}")
    assert bool(answer.document["operations"]) is found


async def test_the_link_keeps_the_filters(listed: Rest) -> None:
    answer = await listed.get("/v1/terminations?limit=1&region=ap-shanghai")
    assert "region=ap-shanghai" in answer.headers["Link"]


async def page_token(rest: Rest, path: str) -> str:
    return str((await rest.get(f"{path}?limit=1")).document["next_page_token"])


async def test_a_token_is_of_use_for_its_own_list_alone(listed: Rest) -> None:
    lists = await all_lists(listed)
    for path in lists:
        token = await page_token(listed, path)
        assert (await listed.get(f"{path}?page_token={token}")).status == 200
        for other in lists.keys() - {path}:
            answer = await listed.get(f"{other}?page_token={token}")
            assert_problem(answer, 400, "bad-page-token", "of this list")


@pytest.mark.parametrize("position", ["0", "-1", "", "x", "9" * 19, "9" * 400, "1 ", "\u0663"])
async def test_a_token_that_was_tampered_with_is_refused(listed: Rest, position: str) -> None:
    for path in await all_lists(listed):
        token = await page_token(listed, path)
        text = re.sub(r"\d+$", position, base64.urlsafe_b64decode(token).decode())
        tampered = base64.urlsafe_b64encode(text.encode()).decode()
        for bad in (tampered, token + "!", token[:-5], token * 2):
            assert_problem(await listed.get(f"{path}?page_token={bad}"), 400, "bad-page-token")


# --- events --------------------------------------------------------------------------------------


async def test_events_list_what_happened_in_order(tmp_path: Path) -> None:
    jobs = [
        {"ids": ["job-good0001"], "drain_s": 0.1},
        {"ids": ["job-deny0001"], "env_id": "env-1", "refuse_env": True},
    ]
    async with served(tmp_path, *jobs) as rest:
        operation = await rest.service.submit("job-good0001", "job-deny0001", "job-none0001")
        await rest.service.finished(operation)
        terminations = await rest.service.terminations(operation)
        found = (await rest.get(f"{OPERATIONS}/{operation}/events")).document["events"]
        by_job = {
            job_id: (await rest.get(f"/v1/terminations/{each['id']}/events")).document["events"]
            for job_id, each in terminations.items()
        }
    assert [event["id"] for event in found] == sorted({event["id"] for event in found})
    assert all("why" in event for event in found), "null if there is no reason"
    own = [event for event in found if event["operation_id"]]
    assert [(event["type"], event["why"]) for event in own] == [
        ("accepted", "a test"),
        ("finished", "partial"),
    ]
    theirs = [event for event in found if event["termination_id"]]
    assert sorted((e for events in by_job.values() for e in events), key=lambda e: e["id"]) == (
        theirs
    )
    for job_id, events in by_job.items():
        states = [event["to_state"] for event in events]
        assert states[0] == "queued"
        assert states[-1] == terminations[job_id]["state"]
        assert [event["from_state"] for event in events] == [None, *states[:-1]]
    (refusal,) = [event for event in by_job["job-deny0001"] if event["to_state"] == "refused"]
    assert "TerminateOperationWithEnvId" in refusal["why"]


# --- why -----------------------------------------------------------------------------------------

JOBS_BY_STATE: dict[State, dict[str, Any]] = {
    State.QUEUED: {},
    State.HELD: {"state": "SUBMITTED"},
    State.SENDING: {},
    State.DRAINING: {"drain_s": 600, "instances": 20},
    State.SETTLING: {"drain_s": 0.1},
    State.VERIFIED: {"drain_s": 0.1},
    State.ALREADY_FINISHED: {"state": "SUCCEED"},
    State.REFUSED: {"env_id": "env-1", "refuse_env": True},
    State.UNVERIFIED: {"stuck": 3, "instances": 5, "drain_s": 0.1},
}
REQUESTS: dict[State, dict[str, Any]] = {
    State.QUEUED: {"not_before": tomorrow()},
    State.SETTLING: {"settle_s": 600},
    State.UNVERIFIED: {"give_up_after_s": 0.5},
}
WHY: dict[State, tuple[str, str | None]] = {
    State.QUEUED: ("not_before", "TerminateJob"),
    State.HELD: ("to leave SUBMITTED", "ahead of other jobs"),
    State.SENDING: ("the cloud's answer to TerminateJob", "record the answer"),
    State.DRAINING: ("instances", "poll the job again"),
    State.SETTLING: ("the settle window to end", "it is verified if"),
    State.VERIFIED: ("nothing: every instance was observed stopped, also after", None),
    State.ALREADY_FINISHED: ("nothing: the job had finished before any TerminateJob", None),
    State.NOT_FOUND: ("nothing: the cloud knows no such job", "check the job id"),
    State.REFUSED: ("nothing: the termination was refused", "follow the advice in `error`"),
    State.UNVERIFIED: (
        "nothing: the deadline passed with 3 of 5",
        "tccli batch TerminateTaskInstance",
    ),
}


def job_id(state: State) -> str:
    return f"job-{state.replace('_', '')[:8]:x<8}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def in_every_state(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    """Run a daemon with a job in each state but ``withdrawn``; the first TerminateJob hangs."""
    jobs = [{"ids": [job_id(state)]} | spec for state, spec in JOBS_BY_STATE.items()]
    faults = {"TerminateJob": {"hang": {"probability": 1.0, "first_n": 1, "hang_s": 60}}}
    engine = {
        "settle_s": 0,
        "call_timeout_s": 60,
        "not_found_after_s": 1,
        "refused_after_s": 1,
        "poll": {
            "batch_min_interval_s": 0.05,
            "batch_max_interval_s": 0.1,
            "recount_min_interval_s": 0.05,
        },
    }
    directory = tmp_path_factory.mktemp("why")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(partition_runner, "DRAIN_S", 0.1)
        async with served(directory, *jobs, faults=faults, engine=engine) as rest:
            sending = await rest.service.submit(job_id(State.SENDING))
            await rest.service.until(sending, job_id(State.SENDING), "sending")
            for state in WHY.keys() - {State.SENDING}:
                await rest.service.submit(job_id(state), **REQUESTS.get(state, {}))
            yield rest


@pytest.mark.parametrize(
    "state", [state for state in State if state is not State.WITHDRAWN], ids=str
)
async def test_a_termination_says_why_it_is_where_it_is(in_every_state: Rest, state: State) -> None:
    listed = await in_every_state.get(f"/v1/terminations?job_id={job_id(state)}")
    (found,) = listed.document["terminations"]
    async with asyncio.timeout(HANG_S):
        while True:
            answer = await in_every_state.get(f"/v1/terminations/{found['id']}")
            termination = answer.document
            if termination["state"] == state:
                break
            await asyncio.sleep(0.05)
    waiting_for, next_action = WHY[state]
    assert waiting_for in termination["waiting_for"]
    if next_action is None:
        assert termination["next_action"] is None
    else:
        assert next_action in termination["next_action"]
    assert (termination["finished_at"] is not None) == (state in FINAL_STATES)


async def test_an_end_is_forecast_once_an_instance_has_stopped(tmp_path: Path) -> None:
    """The operation and the job have an ETA in the future, and none once they have finished."""
    jobs = {"ids": ["job-slow0001"], "instances": 50, "drain_s": 5.0}
    async with served(tmp_path, jobs) as rest:
        accepted = await rest.accepted("job-slow0001", not_before=None)
        assert accepted["progress"]["eta"] is None
        path = f"{OPERATIONS}/{accepted['id']}"
        async with asyncio.timeout(HANG_S):
            while True:
                progress = (await rest.get(path)).document["progress"]
                if progress["eta"] is not None:
                    break
                await asyncio.sleep(0.05)
        (job,) = (await rest.get(f"{path}/terminations")).document["terminations"]
        for shown in (progress, job):
            asked_at = datetime.now(UTC) - timedelta(seconds=1)
            p50, p90 = (datetime.fromisoformat(shown["eta"][share]) for share in ("p50", "p90"))
            assert asked_at < p50 <= p90 < asked_at + timedelta(seconds=60)
            assert shown["stalled_since"] is None
            verified = datetime.fromisoformat(shown["verified_eta"]["p50"])
            assert (verified - p50).total_seconds() == pytest.approx(0.2, abs=0.002)
            assert shown["settle_until"] is None
        assert job["rate_per_s"] > 0
        (listed,) = (await rest.get(f"{OPERATIONS}?state=running")).document["operations"]
        assert listed["progress"]["eta"] is not None
        finished = await rest.service.finished(accepted["id"])
        (job,) = (await rest.get(f"{path}/terminations")).document["terminations"]
        for shown in (finished["progress"], job):
            assert (shown["eta"], shown["rate_per_s"], shown["stalled_since"]) == (None, None, None)


async def test_the_settle_window_is_counted_down_once_all_instances_have_stopped(
    tmp_path: Path,
) -> None:
    """The operation and the job show when their settle window ends."""
    async with served(tmp_path, {"ids": ["job-soon0001"], "drain_s": 0.1}) as rest:
        accepted = await rest.accepted("job-soon0001", settle_s=60.0, not_before=None)
        await rest.service.until(accepted["id"], "job-soon0001", "settling")
        path = f"{OPERATIONS}/{accepted['id']}"
        progress = (await rest.get(path)).document["progress"]
        (job,) = (await rest.get(f"{path}/terminations")).document["terminations"]
        for shown in (progress, job):
            left = datetime.fromisoformat(shown["settle_until"]) - datetime.now(UTC)
            assert timedelta(seconds=45) < left <= timedelta(seconds=60)
            assert shown["verified_eta"] == dict.fromkeys(("p50", "p90"), shown["settle_until"])
            assert shown["eta"] is None


async def test_a_replica_that_drives_nothing_answers_the_same(tmp_path: Path) -> None:
    """An idle replica shows the rate that another one has learnt, and why a job waits."""
    faults = {"TerminateJob": {"throttle": {"probability": 1.0, "first_n": 60}}}
    jobs = {"ids": ["job-less0001"], "drain_s": 0.1}
    async with served(tmp_path, jobs, faults=faults) as rest, AsyncExitStack() as stack:
        waiting = await rest.accepted("job-less0002")
        quota = waiting["progress"]["quota"]
        assert (quota["allowed_per_s"], quota["configured_per_s"]) == (50, 50)
        finished = await rest.service.finished(await rest.service.submit("job-less0001"))
        found, clock = rest.service.settings, SystemClock()
        database = await stack.enter_async_context(store.Database(found.database.url, clock.now))
        transport = AiohttpTransport(connect_timeout_s=1, total_timeout_s=1)
        stack.push_async_callback(transport.close)
        idle = await replica(
            "idle",
            Environment(
                found, database, dict.fromkeys(found.accounts, transport), clock, Random(1)
            ),
        )
        server = await stack.enter_async_context(TestServer(application(idle.context)))
        client = await stack.enter_async_context(ClientSession(server.make_url("/")))
        for path in (f"{OPERATIONS}/{waiting['id']}", "/v1/terminations?job_id=job-less0002"):
            idles, here = await (await client.get(path)).json(), (await rest.get(path)).document
            for each in (idles, here):
                # The rate since the operation was created falls over time.
                each.get("progress", {"quota": {}})["quota"].pop("used_per_s", None)
            assert idles == here
        (listed,) = (await rest.get(f"{OPERATIONS}?state=running")).document["operations"]
        for shown in (finished, listed):
            quota = shown["progress"]["quota"]
            assert quota["allowed_per_s"] < quota["configured_per_s"] == 50


# --- indented answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["pretty", "pretty=", "pretty=true"])
async def test_every_get_can_indent_its_json(listed: Rest, query: str) -> None:
    (newest,) = (await listed.get(f"{OPERATIONS}?limit=1")).document["operations"]
    (some,) = (await listed.get("/v1/terminations?limit=1")).document["terminations"]
    one = (f"{OPERATIONS}/{newest['id']}", f"/v1/terminations/{some['id']}")
    instances = f"/v1/terminations/{some['id']}/instances"
    refused = ("/nothing", f"{OPERATIONS}/op_none")
    for path in (*await all_lists(listed), *one, instances, "/livez", "/readyz", *refused):
        plain, pretty = await listed.get(path), await listed.get(f"{path}?{query}")
        assert pretty.status == plain.status
        assert pretty.headers["Content-Type"] == plain.headers["Content-Type"]
        assert pretty.text == json.dumps(json.loads(pretty.text), indent=2) + "\n"
        assert "\n" not in plain.text
        assert pretty.document.keys() == plain.document.keys()
    metrics = await listed.get(f"/metrics?{query}")
    assert (metrics.status, metrics.headers["Content-Type"].split(";")[0]) == (200, "text/plain")


async def test_pages_stay_indented(listed: Rest) -> None:
    answer = await listed.get("/v1/terminations?limit=1&pretty=true")
    link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers["Link"])
    assert link
    assert (await listed.get(link[1])).text.startswith('{\n  "terminations"')


async def test_a_certificate_keeps_its_bytes(listed: Rest) -> None:
    """Its digest covers each byte, so ``pretty`` changes nothing."""
    (newest,) = (await listed.get(f"{OPERATIONS}?limit=1")).document["operations"]
    answer = await listed.get(f"{OPERATIONS}/{newest['id']}/certificate?pretty")
    assert answer.status == 200
    assert verify(answer.text.encode()) == []


# --- health --------------------------------------------------------------------------------------


async def test_metrics_count_the_violations_of_each_invariant(rest: Rest) -> None:
    answer = await rest.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    counted = re.findall(
        r'^invariant_violations_total\{invariant="(\w+)"\} (.*)$', answer.text, re.MULTILINE
    )
    assert counted == [(invariant, "0.0") for invariant in Invariant]
    assert "\nprocess_resident_memory_bytes " in answer.text


async def test_a_database_that_cannot_be_written_makes_it_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon stays alive, answers reads, and becomes ready again by itself."""
    monkeypatch.setattr(store, "BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(storage_check, "CHECK_EVERY_S", 0.0)
    async with served(tmp_path) as rest:
        operation = await rest.accepted("job-before01")
        assert (await rest.get("/readyz")).document == READY
        with closing(sqlite3.connect(rest.file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            unready = await rest.get("/readyz")
            refused = await rest.post({"jobs": ["job-locked01"], "reason": "r"})
            assert (await rest.get("/livez")).status == 200
            assert (await rest.get(f"{OPERATIONS}/{operation['id']}")).status == 200
            other.execute("ROLLBACK")
        for answer in (unready, refused):
            assert_problem(answer, 503, "store-unavailable", "locked", "try again")
            assert int(answer.headers["Retry-After"]) > 0
        assert (await rest.get("/readyz")).status == 200
        listed = await rest.get("/v1/terminations?job_id=job-locked01")
        assert listed.document["terminations"] == []
        assert (await rest.accepted("job-locked01"))["state"] == "running"


def rename(file: Path, table: str, name: str) -> None:
    """Rename a table without changing the references to it."""
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("PRAGMA legacy_alter_table = ON")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"ALTER TABLE {table} RENAME TO {name}")
        connection.execute("COMMIT")


@pytest.mark.parametrize(
    ("table", "problem", "detail"),
    [
        (
            "replicas",
            "not-driving",
            "the leases cannot be renewed: the database cannot be written: no such table: ",
        ),
        ("terminations", "store-unavailable", "the database cannot be read: no such table: "),
        *[
            (table, "store-unavailable", f"the database cannot be written: no such table: {table}")
            for table in ("operations", "operation_terminations", "events")
        ],
    ],
)
async def test_a_failure_that_stops_all_accounts_makes_it_unready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, problem: str, detail: str
) -> None:
    """With a table missing, a request could be stored, and its jobs would wait for ever."""
    monkeypatch.setattr(loop, "FAILURE_BASE_S", 0.05)
    lease = {"duration_s": 3.0, "renewal_deadline_s": 1.0, "retry_s": 0.2}
    poll = {"batch_min_interval_s": 0.05, "batch_max_interval_s": 0.1}
    engine = {"lease": lease, "poll": poll, "call_timeout_s": 2.0}
    async with served(tmp_path, engine=engine) as rest:
        assert (await rest.get("/readyz")).status == 200
        await asyncio.to_thread(rename, rest.file, table, "elsewhere")
        async with asyncio.timeout(HANG_S):
            while (answer := await rest.get("/readyz")).status == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert_problem(answer, 503, problem, detail)
        await asyncio.to_thread(rename, rest.file, "elsewhere", table)
        async with asyncio.timeout(HANG_S):
            while (await rest.get("/readyz")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_frequent_readiness_checks_cause_few_writes(tmp_path: Path) -> None:
    async with served(tmp_path) as rest:
        began = time.monotonic()
        for _ in range(5):
            asked = await asyncio.gather(*(rest.get("/readyz") for _ in range(10)))
            assert {answer.status for answer in asked} == {200}
        took_s = time.monotonic() - began
        with closing(sqlite3.connect(rest.file)) as other:
            ((written,),) = other.execute("SELECT number FROM probes").fetchall()
    assert 1 <= written <= 1 + took_s / storage_check.CHECK_EVERY_S


async def test_a_cloud_that_refuses_every_call_degrades_and_no_more(tmp_path: Path) -> None:
    """Requests are still accepted; they show what a person can do, and no ETA."""
    jobs = {"ids": ["job-cloud001", "job-cloud002"], "drain_s": 0.1}
    async with served(tmp_path, jobs) as rest:
        await rest.service.finished(await rest.service.submit("job-cloud002"))
        tomorrows = await rest.service.submit("job-cloud003", not_before=tomorrow())
        path = f"{OPERATIONS}/{tomorrows}"
        (job,) = (await rest.service.terminations(tomorrows)).values()
        job_path = f"/v1/terminations/{job['id']}"
        assert (await rest.get(path)).document["progress"]["eta"] is not None
        assert (await rest.get(job_path)).document["eta"] is not None
        keys = rest.service.simulator._secret_keys
        key = keys.pop("AKIDEXAMPLE")
        operation = await rest.service.submit("job-cloud001")
        async with asyncio.timeout(HANG_S):
            while True:
                ready = await rest.get("/readyz")
                assert ready.status == 200
                if ready.document["status"] == "degraded":
                    break
                await asyncio.sleep(0.05)
        (code,) = ready.document["troubles"].values()
        assert code == "AuthFailure.SecretIdNotFound"
        (termination,) = (await rest.service.terminations(operation)).values()
        assert f"cloud API calls fail ({code}: " in termination["waiting_for"]
        assert "check the account's key" in termination["next_action"]
        assert (await rest.get(path)).document["progress"]["eta"] is None
        assert (await rest.get(job_path)).document["eta"] is None
        keys["AKIDEXAMPLE"] = key
        assert (await rest.service.finished(operation))["outcome"] == "verified"
        assert (await rest.get("/readyz")).document == READY
