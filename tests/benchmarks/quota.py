"""How much of the quota is used, at what price, and how fresh the proof is.

The simulator counts as the cloud does; both sides share one clock, so that the time from the end of
the last instance to the recorded end of ``draining`` can be measured.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming
from orchestrator.engine.partition import ACTIONS
from orchestrator.settings import Quotas
from orchestrator.simulator.http.app import serve
from orchestrator.simulator.simulator import Call, Simulator
from orchestrator.simulator.traffic.fault_injection import EVERY_ACTION, Fault, read_faults
from tests.benchmarks.alone import measured
from tests.benchmarks.figures import Figure
from tests.support.service import SECRETS, daemon, settings

WAIT_S = 400
FAST_QUOTAS = {"TerminateJob": 20, "DescribeJob": 50, "DescribeJobs": 10, "DescribeTask": 20}
"""Quotas: TerminateJob as given; the others as the vendor's China site documents them."""
TEN_A_SECOND = dict.fromkeys([*FAST_QUOTAS, "DescribeJobSubmitInfo", "TerminateTaskInstance"], 10)
DEFAULT_CAPTURE = CapturePolicy().when
REFUSED_SHARE = 0.04
"""Share of random refusals, where they are measured: RequestLimitExceeded with room left."""


@dataclass(frozen=True, slots=True)
class QuotaRun:
    """The calls that the cloud received, and what the daemon recorded."""

    calls: list[Call]
    rate_per_s: int
    verified: int
    proof_delays_s: list[float]

    def calls_of(self, action: str) -> list[Call]:
        return [call for call in self.calls if call.action == action]

    @property
    def use(self) -> float:
        """Return calls sent over calls allowed, from the first call to the last."""
        sent = [call.at for call in self.calls_of("TerminateJob")]
        return (len(sent) - 1) / (max(sent) - min(sent)) / self.rate_per_s

    @property
    def refused_share(self) -> float:
        sent = self.calls_of("TerminateJob")
        return sum(call.code == "RequestLimitExceeded" for call in sent) / len(sent)


async def run() -> list[Figure]:
    default = Quotas().model_dump()
    slow = await measured(_measure, 120, default, drain_s=[5, 20], capture=CaptureTiming.NONE)
    fast = await measured(_measure, 600, FAST_QUOTAS, drain_s=[5, 20])
    mixed = await measured(_measure, 100, default, drain_s=[5, 60])
    return [
        *_use("2/s, 120 jobs, drains of 5-20 s", slow, use_least=0.97, refused_most=0.0),
        *_price("2/s, 120 jobs, no capture", slow, most=3.3),
        *_use("20/s, 600 jobs, drains of 5-20 s", fast, use_least=0.95, refused_most=0.002),
        *_price("20/s, 600 jobs, drains of 5-20 s", fast),
        *_delay("2/s, 100 jobs, drains of 5-60 s", mixed, most_s=1.0),
        *_price("2/s, 100 jobs, drains of 5-60 s", mixed),
        # Without capture each proof takes one of the two DescribeJob calls a second, and jobs stop
        # at that rate: they queue.  3.3 calls a job leave 36 batch polls, one in two seconds.
        *_delay("2/s, 120 jobs, no capture", slow),
        *_delay("20/s, 600 jobs, drains of 5-20 s", fast),
        *await _with_refusals("2/s, 120 jobs, 4 % refused", 120, default),
        *await _with_refusals("10/s, 300 jobs, 4 % refused", 300, default | TEN_A_SECOND),
    ]


async def _with_refusals(name: str, jobs: int, quotas: dict[str, int]) -> list[Figure]:
    """Refuse calls of every action at random; the allowed rate must not follow."""
    seen = await measured(_measure, jobs, quotas, drain_s=[5, 20], refused_share=REFUSED_SHARE)
    return [
        *_use(name, seen, use_least=0.90, refused_most=0.002),
        *_price(name, seen),
        *_delay(name, seen, most_s=3.0),
    ]


def _use(name: str, seen: QuotaRun, *, use_least: float, refused_most: float) -> list[Figure]:
    return [
        Figure(name=f"{name}: TerminateJob used", value=seen.use, least=use_least),
        Figure(name=f"{name}: over the quota", value=seen.refused_share, most=refused_most),
    ]


def _price(name: str, seen: QuotaRun, *, most: float | None = None) -> list[Figure]:
    counts = (
        Figure(name=f"    of which {action}", value=len(seen.calls_of(action)) / seen.verified)
        for action in ACTIONS
    )
    total = len(seen.calls) / seen.verified
    return [Figure(name=f"{name}: calls a verified job", value=total, most=most), *counts]


def _delay(name: str, seen: QuotaRun, *, most_s: float | None = None) -> list[Figure]:
    """Return the time from the end of the last instance to the recorded end of draining."""
    median_s = statistics.median(seen.proof_delays_s)
    p99_s = statistics.quantiles(seen.proof_delays_s, n=100)[98]
    return [
        Figure(name=f"{name}: stopped to proven, median", value=median_s, unit="s", most=most_s),
        Figure(name=f"{name}: stopped to proven, p99", value=p99_s, unit="s"),
    ]


async def _measure(
    jobs: int,
    quotas: dict[str, int],
    *,
    drain_s: list[float],
    capture: CaptureTiming = DEFAULT_CAPTURE,
    refused_share: float = 0.0,
) -> QuotaRun:
    faults = read_faults({EVERY_ACTION: {Fault.THROTTLE.value: refused_share}})
    cloud = Simulator(secret_keys=SECRETS, limits_per_s=quotas, faults=faults, seed=1)
    job_ids = cloud.add_groups([{"count": jobs, "instances": [50, 500], "drain_s": drain_s}])
    with tempfile.TemporaryDirectory() as folder:
        async with serve(cloud) as url:
            engine = {"settle_s": 5, "capture": capture}
            configured = settings(url, f"sqlite:///{folder}/bench.db", engine=engine)
            account = configured.accounts["main"].model_copy(update={"quotas": Quotas(**quotas)})
            configured = configured.model_copy(update={"accounts": {"main": account}})
            async with daemon(configured) as api, aiohttp.ClientSession(api) as client:
                body = {"jobs": job_ids, "reason": "benchmark"}
                async with client.post("/v1/operations", json=body) as answer:
                    path = answer.headers["Location"]
                await _finished(client, path)
                ends = await _ends_of_draining(client, path)
                listed = await _terminations(client, path)
    stopped_at: dict[str, Any] = {
        str(job["job_id"]): job["last_stopped_at"] for job in cloud.truth()
    }
    verified = [t for t in listed if t["state"] == "verified"]
    return QuotaRun(
        calls=cloud.calls,
        rate_per_s=quotas["TerminateJob"],
        verified=len(verified),
        proof_delays_s=[ends[t["id"]] - stopped_at[t["job_id"]] for t in verified],
    )


async def _finished(client: aiohttp.ClientSession, path: str) -> None:
    """Wait by the list of terminations, which does not count as watching the operation."""
    async with asyncio.timeout(WAIT_S):
        while True:
            async with client.get("/v1/operations?state=running") as answer:
                if not (await answer.json())["operations"]:
                    return
            await asyncio.sleep(1)


async def _terminations(client: aiohttp.ClientSession, path: str) -> list[dict[str, Any]]:
    async with client.get(f"{path}/terminations?limit=1000") as answer:
        listed: list[dict[str, Any]] = (await answer.json())["terminations"]
        return listed


async def _ends_of_draining(client: aiohttp.ClientSession, path: str) -> dict[str, float]:
    """Return when each termination was recorded as stopped, in seconds since the epoch."""
    ends: dict[str, float] = {}
    url: str | None = f"{path}/events?limit=1000"
    while url is not None:
        async with client.get(url) as answer:
            for event in (await answer.json())["events"]:
                if event["type"] == "seen_stopped":
                    at = datetime.fromisoformat(event["at"]).timestamp()
                    ends[event["termination_id"]] = at
            following = answer.links.get("next")
            url = str(following["url"]) if following else None
    return ends
