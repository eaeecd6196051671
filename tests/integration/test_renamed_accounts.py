"""An account that the configuration no longer names: its terminations are reported, and ended."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.audit.certificate_verification import verify
from tests.support import HANG_S
from tests.support.rest import JSON, OPERATIONS, Rest, assert_problem
from tests.support.service import service, settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import Server
    from tests.support.rest import Answer

GROUPS = (
    {"ids": ["job-called01", "job-called02"], "instances": 4, "drain_s": 3600},
    {"ids": ["job-held0001", "job-held0002"], "state": "SUBMITTED"},
)
WAIT = (
    "{} for account 'main' and its region 'ap-guangzhou', which no replica is configured for: "
    "configure them again, or end each operation with POST /v1/operations/ID:stop"
)


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/orchestrator.db"
        return
    server: Server = request.getfixturevalue("postgres")
    async with server.database() as made:
        yield made


def renamed(database_url: str) -> dict[str, Any]:
    """Return the configuration's accounts once ``main`` has another name."""
    account = settings("http://127.0.0.1:1", database_url).accounts["main"]
    return {"accounts": {"other": account}}


@asynccontextmanager
async def served(url: str, *groups: dict[str, Any], **more: Any) -> AsyncIterator[Rest]:
    async with service(url, *groups, **more) as running:
        yield Rest(running, Path())


async def stop(rest: Rest, operation_id: str, reason: str = "the account is gone") -> Answer:
    path = f"{OPERATIONS}/{operation_id}:stop"
    return await rest.call("POST", path, body={"reason": reason}, headers=JSON)


async def in_state(rest: Rest, operation_id: str, **wanted: int) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            if wanted.items() <= (await jobs(rest, operation_id)).items():
                return
            await asyncio.sleep(0.05)


async def counted(rest: Rest, job_id: str) -> None:
    """Wait until the instances of a job were counted."""
    async with asyncio.timeout(HANG_S):
        while True:
            found = await rest.service.get(f"/v1/terminations?job_id={job_id}")
            if found["terminations"][0]["instances"] is not None:
                return
            await asyncio.sleep(0.05)


async def jobs(rest: Rest, operation_id: str) -> Any:
    return (await rest.service.get(f"{OPERATIONS}/{operation_id}"))["progress"]["jobs"]


async def test_terminations_of_a_removed_account_are_reported_and_can_be_ended(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs never called are withdrawn; called ones are unverified, with the name and the reason."""
    async with served(url, *GROUPS) as rest:
        mixed = await rest.service.submit("job-called01", "job-held0001")
        await in_state(rest, mixed, draining=1, held=1)
        await counted(rest, "job-called01")
        first, second = [await rest.service.submit("job-held0002") for _ in range(2)]
        await in_state(rest, second, held=1)
        refused = await stop(rest, mixed)
        assert_problem(refused, 409, "not-possible", "only an operation whose account or region")
        assert (await jobs(rest, mixed))["draining"] == 1
    caplog.clear()
    async with served(url, **renamed(url)) as rest:
        problem = WAIT.format("3 terminations wait")
        assert [each.getMessage() for each in caplog.records if each.levelname == "WARNING"] == [
            problem
        ]
        ready = await rest.service.get("/readyz")
        assert (ready["status"], ready["troubles"]) == ("degraded", {"main/ap-guangzhou": problem})

        ended = (await stop(rest, mixed)).document
        assert (ended["state"], ended["outcome"]) == ("finished", "failed")
        found = await rest.service.terminations(mixed)
        assert found["job-held0001"]["state"] == "withdrawn"
        called = found["job-called01"]
        assert (called["state"], called["error"]["code"]) == (
            "unverified",
            "Client.AccountNotConfigured",
        )
        assert "it was ended by local" in called["waiting_for"]
        assert "4 of 4 instances live at the last count" in called["waiting_for"]
        events = (await rest.service.get(f"/v1/terminations/{called['id']}/events"))["events"]
        assert events[-1]["why"].startswith(
            "stopped by local (the account is gone): account 'main'"
        )
        assert await valid(rest, mixed)

        assert (await stop(rest, first)).document["outcome"] == "failed"
        (shared,) = (await rest.service.terminations(second)).values()
        assert shared["state"] == "unverified", "the other operation's requester took nothing back"
        ready = await rest.service.get("/readyz")
        assert (ready["status"], ready["troubles"]) == ("ready", {})
        again = await stop(rest, mixed)
        repeated = again.document
        for each in (repeated, ended):
            # A rate since the operation was created falls as time passes.
            del each["progress"]["quota"]["used_per_s"]
        assert (again.status, repeated) == (200, ended)


async def test_stopped_jobs_of_a_removed_account_that_cannot_be_watched_are_reported(
    url: str,
) -> None:
    stopping = {"ids": ["job-stops001"], "drain_s": 0.1}
    async with served(url, stopping) as rest:
        watched = await rest.service.submit("job-stops001", reterminate_for_s=3600.0)
        await in_state(rest, watched, verified=1)
    async with served(url, **renamed(url)) as rest:
        ready = await rest.service.get("/readyz")
        assert ready["status"] == "degraded"
        (problem,) = ready["troubles"].values()
        assert problem.startswith("1 stopped job of account 'main' and its region")
        assert "cannot be watched for a revival" in problem


async def valid(rest: Rest, operation_id: str) -> bool:
    certificate = await rest.get(f"{OPERATIONS}/{operation_id}/certificate")
    assert "that it is stopped: its termination was ended manually" in certificate.text
    return not verify(certificate.text.encode())


async def test_a_call_without_a_received_answer_is_reported_as_interrupted(tmp_path: Path) -> None:
    """As it is where its partition is still driven."""
    url = f"sqlite:///{tmp_path}/orchestrator.db"
    hangs = {"TerminateJob": {"hang": {"probability": 1.0}}}
    async with served(url, *GROUPS, faults=hangs, engine={"call_timeout_s": 60.0}) as rest:
        operation_id = await rest.service.submit("job-called01")
        await in_state(rest, operation_id, sending=1)
    async with served(url, **renamed(url)) as rest:
        assert (await stop(rest, operation_id)).document["state"] == "finished"
        (ended,) = (await rest.service.terminations(operation_id)).values()
        (attempt,) = ended["attempts"]
        assert (ended["state"], attempt["outcome"]) == ("unverified", "interrupted")
        events = (await rest.service.get(f"/v1/terminations/{ended['id']}/events"))["events"]
        assert events[-1]["facts"]["answer"]["outcome"] == "interrupted"
        assert events[-1]["at"] == attempt["answered_at"]
        assert await valid(rest, operation_id)


async def test_an_account_configured_on_another_replica_does_not_wait(postgres: Server) -> None:
    """Each may have a configuration of its own."""
    async with postgres.database() as url, served(url, *GROUPS) as first:
        operation_id = await first.service.submit("job-held0001")
        await in_state(first, operation_id, held=1)
        async with served(url, **renamed(url)) as second:
            assert (await second.service.get("/readyz"))["status"] == "ready"
            assert_problem(await stop(second, operation_id), 409, "not-possible")
            (held,) = (await second.service.terminations(operation_id)).values()
            (there,) = (await first.service.terminations(operation_id)).values()
            assert (held["waiting_for"], held["next_action"]) == (
                there["waiting_for"],
                there["next_action"],
            )


@pytest.mark.parametrize(
    ("operation_id", "body", "status", "slug"),
    [
        ("op_none", {"reason": "r"}, 404, "not-found"),
        ("op_none", {}, 422, "invalid-request"),
        ("op_none", {"reason": " "}, 422, "invalid-request"),
        ("op_none", {"reason": "r", "jobs": []}, 422, "invalid-request"),
    ],
)
async def test_an_operation_that_cannot_be_stopped(
    tmp_path: Path, operation_id: str, body: dict[str, Any], status: int, slug: str
) -> None:
    async with served(f"sqlite:///{tmp_path}/orchestrator.db") as rest:
        path = f"{OPERATIONS}/{operation_id}:stop"
        answer = await rest.call("POST", path, body=body, headers=JSON)
        assert_problem(answer, status, slug)
        if body:
            plain = await rest.call("POST", path, body=body)
            assert_problem(plain, 415, "unsupported-media-type")
