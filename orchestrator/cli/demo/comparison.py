"""Comparison of the simulator's ground truth with the states that the orchestrator reports."""

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
    """One job: its allowed final states, and the number of its live instances."""

    job_id: str
    label: str | None
    expect: list[str]
    live: int


class Truth(BaseModel):
    """Every job of the simulator."""

    jobs: list[TrueJob]


class QuotaCount(BaseModel):
    """API calls of one action; ``refused`` are those above the limit."""

    action: str
    limit_per_s: int
    calls: int
    refused: int


class Quotas(BaseModel):
    """API calls by action."""

    quotas: list[QuotaCount]


class Faults(BaseModel):
    """Number of times that each fault was injected."""

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
    """A group of jobs: expected final states, and the states that were reported."""

    label: str
    jobs: int
    expected: tuple[str, ...]
    got: Mapping[str, int]
    ok: bool


def compare(truth: Truth, states: Mapping[str, str]) -> list[Row]:
    """Return a row for each group; ``states`` maps job ids to the orchestrator's states."""
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
        ok=all(_is_correct(job, states.get(job.job_id)) for job in jobs),
    )


def _is_correct(job: TrueJob, state: str | None) -> bool:
    """Return whether the state is expected; a job reported as stopped has no live instance."""
    claimed_stopped = state in PROVEN_STATES
    return state in job.expect and not (claimed_stopped and job.live)


def hidden(truth: Truth, instances: Instances) -> str | None:
    """Return an error if instances are live and the orchestrator shows none of them, else None."""
    live = sum(job.live for job in truth.jobs)
    if not live or not instances.all_stopped:
        return None
    return (
        f"{live} instances are live in the simulator, but the orchestrator shows none as live or "
        "not counted"
    )


def as_table(rows: Iterable[Row]) -> Table:
    table = Table(title="Final states of the jobs", title_justify="left")
    for heading in ("kind of job", "jobs", "expected", "got", "ok"):
        table.add_column(heading, justify="right" if heading == "jobs" else "left", overflow="fold")
    for row in rows:
        got = ", ".join(f"{state} {jobs}" for state, jobs in row.got.items())
        ok = "yes" if row.ok else "NO"
        table.add_row(row.label, str(row.jobs), " or ".join(row.expected), got, ok)
    return table


def as_lines(quotas: Quotas, faults: Faults) -> Iterator[str]:
    """Yield a line for the API calls of each action, and one for the injected faults."""
    for count in quotas.quotas:
        yield (
            f"{count.action}: {count.calls} API calls, limit {count.limit_per_s} per second, "
            f"{count.refused} refused above the limit"
        )
    fired = ", ".join(f"{fault} {times}" for fault, times in faults.fired.items() if times)
    yield f"faults injected by the simulator, not counted above: {fired or 'none'}"
