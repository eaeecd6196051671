"""Metrics of a scrape, also while the database cannot be read."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.errors import CloudErrorKind, StoreUnavailable
from orchestrator.domain.model.attempt import ACCEPTED
from orchestrator.domain.model.lifecycle import FINAL_STATES, LIVE_STATES, State
from orchestrator.engine.partition import ACTIONS
from orchestrator.engine.runtime.loop import LoopKind
from orchestrator.observability import metrics
from orchestrator.observability.loop_steps import LoopSteps
from orchestrator.observability.metrics import Metrics
from orchestrator.services.ports import LiveTerminations
from tests.support import HANG_S
from tests.unit.domain.build import NOW, later

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Live = Mapping[str, LiveTerminations]


def made(live: Callable[[], Awaitable[Live]], **counted: Any) -> Metrics:
    nothing: dict[str, Any] = {"violations": {}, "calls": {}, "ended": {}, "steps": LoopSteps()}
    return Metrics(**(nothing | counted), live=live, now=lambda: NOW)


async def no_live() -> Live:
    return {}


async def scraped(of: Metrics, family: str) -> dict[str, float]:
    """Return the values of a metric family, by its label values joined with spaces."""
    text = (await of.exposition()).decode()
    found = re.findall(rf"^{family}\{{(.*)\}} (.*)$", text, re.MULTILINE)
    return {" ".join(re.findall(r'"(.*?)"', labels)): float(value) for labels, value in found}


async def test_every_call_has_its_place_from_the_start() -> None:
    """All series exist from the start; otherwise the first request would not count in a rate."""
    calls: Counter[tuple[str, str]] = Counter()
    of = made(no_live, calls=calls)
    start = await scraped(of, "cloud_calls_total")
    assert set(start.values()) == {0.0}
    assert set(start) == {
        f"{action} {outcome}" for action in ACTIONS for outcome in (ACCEPTED, *CloudErrorKind)
    }
    calls["DescribeJob", "throttled"] += 3
    assert (await scraped(of, "cloud_calls_total"))["DescribeJob throttled"] == 3


async def test_terminations_by_state() -> None:
    """Unfinished ones are from the database, finished ones are counted by this process."""

    async def live() -> Live:
        return {
            State.QUEUED: LiveTerminations(count=3, since=later(-90)),
            State.HELD: LiveTerminations(count=1, since=later(3600)),
            State.DRAINING: LiveTerminations(count=2, since=NOW - timedelta(days=9)),
        }

    of = made(live, ended=Counter({State.VERIFIED: 7}))
    counted = {"queued": 3, "held": 1, "draining": 2}
    assert await scraped(of, "terminations") == dict.fromkeys(LIVE_STATES, 0) | counted
    ended = await scraped(of, "terminations_ended_total")
    assert ended == dict.fromkeys(FINAL_STATES, 0) | {"verified": 7}
    assert await scraped(of, "oldest_waiting_seconds") == {"queued": 90, "held": 0}


async def test_steps_by_loop() -> None:
    """Every loop has its series from the start; each bucket counts the shorter steps as well."""
    steps = LoopSteps()
    of = made(no_live, steps=steps)
    assert await scraped(of, "loop_step_seconds_count") == dict.fromkeys(LoopKind, 0)
    assert await scraped(of, "loop_step_failures_total") == dict.fromkeys(LoopKind, 0)
    for seconds, failed in ((0.0, False), (0.1, True), (30.0, True)):
        steps.record(LoopKind.JOB_POLLER, seconds, failed)
    steps.record(LoopKind.JOB_TERMINATOR, 2.0, False)
    buckets = await scraped(of, "loop_step_seconds_bucket")
    of_poller = {key.split()[0]: n for key, n in buckets.items() if key.endswith(" job_poller")}
    assert of_poller == dict.fromkeys(("0.001", "0.005", "0.025"), 1) | dict.fromkeys(
        ("0.1", "0.5", "2.5", "10.0"), 2
    ) | {"+Inf": 3}
    assert (await scraped(of, "loop_step_seconds_sum"))["job_poller"] == 30.1
    counted = {"job_poller": 3, "job_terminator": 1}
    assert await scraped(of, "loop_step_seconds_count") == dict.fromkeys(LoopKind, 0) | counted
    failed_steps = await scraped(of, "loop_step_failures_total")
    assert failed_steps == dict.fromkeys(LoopKind, 0) | {"job_poller": 2}


class Hangs(Exception):
    """Stands for a query that never returns."""


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("away"), LookupError("an error of its own"), Hangs()]
)
async def test_a_database_that_cannot_be_read_fails_no_scrape(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    """The other metrics are served; an unexpected error is logged."""
    monkeypatch.setattr(metrics, "READ_MAX_S", 0.01)
    monkeypatch.setattr(metrics, "FRESH_S", 0.0)
    failures = [failure]

    async def live() -> Live:
        if failures:
            if isinstance(failure, Hangs):
                await asyncio.Event().wait()
            raise failure
        return {}

    of = made(live, ended={State.VERIFIED: 1})
    async with asyncio.timeout(HANG_S):
        text = (await of.exposition()).decode()
    assert 'terminations_ended_total{state="verified"} 1.0' in text
    assert "\nterminations{" not in text
    assert "oldest_waiting" not in text
    logged = "/metrics omits the unfinished terminations" in caplog.text
    assert logged == isinstance(failure, LookupError)
    failures.clear()
    assert (await scraped(of, "terminations"))["queued"] == 0


async def test_scrapes_at_once_read_the_database_once() -> None:
    reads = []

    async def live() -> Live:
        reads.append(1)
        await asyncio.sleep(0)
        return {State.QUEUED: LiveTerminations(count=len(reads), since=NOW)}

    of = made(live)
    scrapes = await asyncio.gather(*(scraped(of, "terminations") for _ in range(50)))
    assert len(reads) == 1
    assert {each["queued"] for each in scrapes} == {1}
