"""What really happened, as the simulator tells it, against what the orchestrator says."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Final, TypeVar

import aiohttp
from pydantic import BaseModel
from rich.table import Table

from orchestrator.cli.client.models import Instances
from orchestrator.domain.model.lifecycle import PROVEN_STATES, State

M = TypeVar("M", bound=BaseModel)

UNKNOWN_JOBS: Final = ("job-unknown1", "job-unknown2")
UNKNOWN_LABEL: Final = "unknown to the cloud"


class TrueJob(BaseModel):
    """One job: what must become of it, and how many of its instances are live."""

    job_id: str
    label: str | None
    expect: list[str]
    live: int


class Truth(BaseModel):
    """Every job of the simulator."""

    jobs: list[TrueJob]


class QuotaCount(BaseModel):
    """Calls of one action; a refused one was one too many."""

    action: str
    limit_per_s: int
    calls: int
    refused: int


class Quotas(BaseModel):
    """Calls by action."""

    quotas: list[QuotaCount]


class Faults(BaseModel):
    """How often each fault happened."""

    fired: dict[str, int]


class Control:
    """The simulator's control API."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def truth(self) -> Truth:
        return await self._get(Truth, "truth")

    async def quotas(self) -> Quotas:
        return await self._get(Quotas, "quotas")

    async def faults(self) -> Faults:
        return await self._get(Faults, "faults")

    async def _get(self, model: type[M], name: str) -> M:
        async with self._session.get(f"{self._url}/_control/{name}") as response:
            response.raise_for_status()
            return model.model_validate_json(await response.read())


@dataclass(frozen=True, slots=True)
class Row:
    """A group of jobs: what had to become of them, and what did."""

    label: str
    jobs: int
    expected: tuple[str, ...]
    got: Mapping[str, int]
    ok: bool


def compare(truth: Truth, states: Mapping[str, str]) -> list[Row]:
    """A row for each group; ``states`` is what the orchestrator says, by job id."""
    unknown = [
        TrueJob(job_id=job_id, label=UNKNOWN_LABEL, expect=[State.NOT_FOUND], live=0)
        for job_id in UNKNOWN_JOBS
    ]
    return [
        _row(label, list(jobs), states)
        for label, jobs in groupby([*truth.jobs, *unknown], key=attrgetter("label"))
    ]


def _row(label: str | None, jobs: list[TrueJob], states: Mapping[str, str]) -> Row:
    got = Counter(states.get(job.job_id, "missing") for job in jobs)
    return Row(
        label=label or "-",
        jobs=len(jobs),
        expected=tuple(dict.fromkeys(state for job in jobs for state in job.expect)),
        got=got,
        ok=all(_as_it_should_be(job, states.get(job.job_id)) for job in jobs),
    )


def _as_it_should_be(job: TrueJob, state: str | None) -> bool:
    """A job that is called down must have no live instance, whatever the scenario expects."""
    claimed_stopped = state in PROVEN_STATES
    return state in job.expect and not (claimed_stopped and job.live)


def hidden(truth: Truth, instances: Instances) -> str | None:
    """What is wrong where instances are live that the orchestrator shows nowhere; None: nothing."""
    live = sum(job.live for job in truth.jobs)
    if not live or not instances.all_stopped:
        return None
    return f"{live} instances are live, and none is shown as live or not counted"


def as_table(rows: Iterable[Row]) -> Table:
    table = Table(title="What became of the jobs", title_justify="left")
    for heading in ("jobs like", "jobs", "expected", "got", "ok"):
        table.add_column(heading, justify="right" if heading == "jobs" else "left", overflow="fold")
    for row in rows:
        got = ", ".join(f"{state} {jobs}" for state, jobs in row.got.items())
        ok = "yes" if row.ok else "NO"
        table.add_row(row.label, str(row.jobs), " or ".join(row.expected), got, ok)
    return table


def as_lines(quotas: Quotas, faults: Faults) -> Iterator[str]:
    """What the calls cost, and what went wrong with them."""
    for count in quotas.quotas:
        yield (
            f"{count.action}: {count.calls} calls, {count.limit_per_s} a second allowed, "
            f"{count.refused} refused for exceeding that"
        )
    fired = ", ".join(f"{fault} {times}" for fault, times in faults.fired.items() if times)
    yield f"faults injected by the simulator, none of them counted above: {fired or 'none'}"
