"""Certificates over the REST API, of jobs that a simulated cloud really had."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from orchestrator import __version__
from orchestrator.domain.audit.certificate_verification import verify
from tests.support.rest import OPERATIONS, Rest, assert_problem, served
from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = ("job-good0001", "job-deny0001", "job-none0001")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rest]:
    groups: list[dict[str, Any]] = [
        {"ids": ["job-good0001"], "drain_s": 0.1, "instances": 3},
        {"ids": ["job-deny0001"], "env_id": "env-1", "refuse_env": True},
        {"ids": ["job-held0001"], "state": "SUBMITTED"},
    ]
    async with served(tmp_path_factory.mktemp("certificates"), *groups) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path(rest: Rest) -> str:
    """Return the path of the certificate of a finished operation."""
    operation_id = await rest.service.submit(*JOBS)
    await rest.service.finished(operation_id)
    return f"{OPERATIONS}/{operation_id}/certificate"


async def test_a_certificate_is_a_file_that_verifies(rest: Rest, path: str) -> None:
    answer = await rest.get(path)
    assert answer.status == 200
    data = answer.text.encode()
    assert verify(data) == []
    operation_id = path.split("/")[-2]
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"] == (
        f'attachment; filename="certificate-{operation_id}.json"'
    )
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    assert answer.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert answer.headers["ETag"] == f'W/"{answer.document["digest"]}"'
    assert answer.document["issued"]["by"] == f"orchestrator {__version__}"


async def test_it_holds_the_calls_that_the_cloud_knows_of(rest: Rest, path: str) -> None:
    certified = (await rest.get(path)).document["certificate"]
    assert certified["conclusion"] == "1 of 3 jobs proven stopped"
    assert certified["set"]["job_ids"] == sorted(JOBS)
    assert certified["operation"]["outcome"] == "partial"
    states = {job["job_id"]: (job["state"], job["evidence"]) for job in certified["jobs"]}
    assert states == {
        "job-good0001": ("verified", 5),
        "job-deny0001": ("refused", 0),
        "job-none0001": ("not_found", 0),
    }
    certified_ids = {
        attempt["request_id"]
        for job in certified["jobs"]
        for attempt in job["attempts"]
        if attempt["outcome"] == "accepted"
    }
    known = {
        call.request_id
        for call in rest.service.simulator.calls
        if call.action == "TerminateJob" and call.acted and call.job_ids == ("job-good0001",)
    }
    assert certified_ids == known != set()
    (good,) = [job for job in certified["jobs"] if job["state"] == "verified"]
    assert good["rests_on"]["instances"]["failed"] == 3


async def test_its_events_are_those_of_the_lists(rest: Rest, path: str) -> None:
    certified = (await rest.get(path)).document["certificate"]
    listed = (await rest.get(path.replace("certificate", "events"))).document["events"]
    theirs = [event for job in certified["jobs"] for event in job["events"]]
    by_hash = {event["hash"]: event for event in (*certified["events"], *theirs)}
    assert {event["hash"] for event in listed} == set(by_hash)
    for event in listed:
        same = by_hash[event["hash"]]
        for name in ("number", "type", "facts", "why", "evidence", "to_state"):
            assert event[name] == same[name]


async def test_a_known_digest_gets_not_modified(rest: Rest, path: str) -> None:
    first = await rest.get(path)
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', "*"):
        again = await rest.call("GET", path, headers={"If-None-Match": known})
        assert (again.status, again.text, again.headers["ETag"]) == (304, "", tag)
    other = await rest.call("GET", path, headers={"If-None-Match": '"other"'})
    assert other.status == 200
    assert other.headers["ETag"] == tag


async def test_head_returns_the_same_headers_without_the_file(rest: Rest, path: str) -> None:
    answer = await rest.call("HEAD", path)
    assert (answer.status, answer.text) == (200, "")
    assert answer.headers["ETag"] == (await rest.get(path)).headers["ETag"]


async def test_a_running_operation_is_certified_as_running(rest: Rest) -> None:
    operation_id = await rest.service.submit("job-held0001")
    await rest.service.until(operation_id, "job-held0001", "held")
    answer = await rest.get(f"{OPERATIONS}/{operation_id}/certificate")
    assert verify(answer.text.encode()) == []
    certified = answer.document["certificate"]
    assert certified["conclusion"].startswith("NOT FINISHED: 1 of 1 job not ended")
    caveat = "that it is stopped: its termination has not ended and is held"
    assert certified["jobs"][0]["not_proven"] == [caveat]


async def test_an_unknown_parameter_is_refused(rest: Rest, path: str) -> None:
    answer = await rest.get(f"{path}?format=pdf")
    assert_problem(answer, 400, "unknown-parameter", "unknown: format")


async def test_many_at_once_are_the_same(rest: Rest, path: str) -> None:
    answers = await asyncio.gather(*(rest.get(path) for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert len({json.loads(answer.text)["digest"] for answer in answers}) == 1


async def test_a_valid_certificate_holds_calls_for_single_instances(tmp_path: Path) -> None:
    stuck = {"ids": ["job-stuck001"], "instances": 5, "stuck": 1, "drain_s": 0.1}
    engine = {
        "settle_s": 0.1,
        "escalation": {"after_s": 0.3},
        "poll": {
            "batch_min_interval_s": 0.05,
            "batch_max_interval_s": 0.1,
            "settling_interval_s": 0.1,
            "recount_min_interval_s": 0.05,
        },
    }
    async with service(
        f"sqlite:///{tmp_path}/orchestrator.db", stuck | {"failed_early_s": 9}, engine=engine
    ) as running:
        operation_id = await running.submit("job-stuck001")
        await running.finished(operation_id)
        async with running.client.get(f"{OPERATIONS}/{operation_id}/certificate") as answer:
            data = await answer.read()
    (job,) = json.loads(data)["certificate"]["jobs"]
    made = [(attempt["number"], attempt["action"]) for attempt in job["attempts"]]
    assert made == [(1, "TerminateJob"), (2, "TerminateTaskInstance")]
    assert verify(data) == []
