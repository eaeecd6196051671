"""Groups of jobs (``[[jobs]]`` tables), and the jobs that a seed makes of them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, PlainValidator, TypeAdapter, ValidationInfo, field_validator

from orchestrator.simulator.cloud.instance_ranges import FINISHED, STATES
from orchestrator.simulator.cloud.job_spec import (
    COUNTERS,
    JOB_ID,
    REVIVED_STATES,
    SUBMITTED_CODES,
    JobSpec,
)
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.validation import (
    LISTED,
    Amount,
    Count,
    Positive,
    Table,
    Text,
    one_of,
    validated,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

REGIONS: Final = "regions"
"""Key of the validation context: the regions that jobs may be in; the first is the default."""
PREFIX: Final = re.compile(r"[a-z0-9]{1,5}")
RANDOM_PART: Final = 8
RANGE_ENDS: Final = 2
EXPECTATIONS: Final = ("verified", "already_finished", "refused", "not_found", "unverified")


@dataclass(frozen=True, slots=True)
class Range:
    """A range from which a number is drawn uniformly; ``whole``: an integer, ends included."""

    low: float
    high: float
    whole: bool = False

    def draw(self, random: Random) -> float:
        if self.whole:
            return random.randint(int(self.low), int(self.high))
        return random.uniform(self.low, self.high)


def _range(value: object) -> Range:
    """Return the range of a number, or of two as [from, to]."""
    ends: list[Any] = value if isinstance(value, list) else [value, value]
    if len(ends) == RANGE_ENDS and all(map(_is_amount, ends)) and ends[0] <= ends[1]:
        return Range(*ends)
    raise ValueError("must be a number, 0 or more, or [from, to]")


def _is_amount(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value <= sys.float_info.max


def _whole_range(value: object) -> Range:
    given = _range(value)
    if given.low < 1 or given.low % 1 or given.high % 1:
        raise ValueError("must be a whole number, 1 or more, or [from, to]")
    return replace(given, whole=True)


def _job_id(text: str) -> str:
    if not JOB_ID.fullmatch(text):
        raise ValueError(f"{text} is not `job-` and 8 characters of a-z and 0-9")
    return text


def _prefix(text: str) -> str:
    if not PREFIX.fullmatch(text):
        raise ValueError("must be 1 to 5 characters of a-z and 0-9")
    return text


def _at_most_all(shares: dict[str, float]) -> dict[str, float]:
    if sum(shares.values()) > 1:
        raise ValueError("the shares must not add up to more than 1")
    return shares


Drawn = Annotated[Range, PlainValidator(_range)]
WholeDrawn = Annotated[Range, PlainValidator(_whole_range)]
State = Annotated[str, one_of(STATES)]


class JobGroup(Table):
    """A ``[[jobs]]`` table: jobs that differ only in ids and in values drawn from ranges.

    ``JobSpec`` explains the keys and has their defaults. A rule about two keys is checked at the
    second. Values are drawn in the order of the fields: another order changes the jobs of a seed.
    """

    ids: Annotated[tuple[Annotated[str, AfterValidator(_job_id)], ...], LISTED] = ()
    count: Positive | None = None
    prefix: Annotated[str, AfterValidator(_prefix)] | None = None

    label: Text | None = None
    region: str | None = None
    zone: Text | None = None
    name: Text | None = None
    priority: Count | None = None
    tags: dict[str, Text] | None = None
    expect: Annotated[tuple[Annotated[str, one_of(EXPECTATIONS)], ...], LISTED] | None = None
    state: State | None = None
    mix: Annotated[dict[State, Amount], AfterValidator(_at_most_all)] | None = None
    counters: Annotated[str, one_of(COUNTERS)] | None = None
    next_action_hidden: bool | None = None
    again: Annotated[str, one_of(("in_use", "ok"))] | None = None
    submitted_code: Annotated[str, one_of(SUBMITTED_CODES)] | None = None
    env_id: Text | None = None
    refuse_env: bool | None = None
    refuse: Text | None = None
    forbidden: bool | None = None
    stuck: Count | None = None
    machines_stay: Count | None = None
    revivals: Positive | None = None
    revived_state: Annotated[str, one_of(REVIVED_STATES)] | None = None
    starting_without_machine: bool | None = None
    immortal: Count | None = None
    relapse: Positive | None = None
    counted_max: Count | None = None
    finished_word: Text | None = None
    live_word: Text | None = None
    next_action: Text | None = None

    drain_s: Drawn | None = None
    instance_drain_s: Drawn | None = None
    submitted_s: Drawn | None = None
    succeeds_after_s: Drawn | None = None
    fails_after_s: Drawn | None = None
    revive_after_s: Drawn | None = None
    relapse_after_s: Drawn | None = None
    vanish_after_s: Drawn | None = None
    hidden_after_s: Drawn | None = None
    hidden_s: Drawn | None = None
    forbidden_s: Drawn | None = None
    failed_early_s: Drawn | None = None
    lying_counters_s: Drawn | None = None
    node_restart_s: Drawn | None = None
    machine_linger_s: Drawn | None = None
    orphan_s: Drawn | None = None
    instances: WholeDrawn = Range(1, 1, whole=True)
    tasks: WholeDrawn = Range(1, 1, whole=True)

    @field_validator("region")
    @classmethod
    def _configured(cls, region: str | None, info: ValidationInfo) -> str | None:
        regions = (info.context or {})[REGIONS]
        if region is not None and region not in regions:
            raise ValueError(f"must be one of {', '.join(regions)}")
        return region

    @field_validator("*")
    @classmethod
    def _fits_the_keys_before(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            _check_with_state(info.field_name, value, info.data)
            _check_with_instances(info.field_name, value, info.data)
        return value


def _check_with_state(key: str | None, value: Any, before: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that contradicts one of the keys before it.

    Keys with invalid values are not in ``before``.
    """
    state = before.get("state", "SUBMITTED")
    match key:
        case "mix" if value and state == "SUCCEED":
            raise ValueError("a job with state SUCCEED has no instances in other states")
        case "submitted_s" if state != "SUBMITTED":
            raise ValueError('needs state = "SUBMITTED"')
        case "succeeds_after_s" if state in FINISHED:
            raise ValueError("cannot be combined with a finished state")
        case "fails_after_s" if before.get("succeeds_after_s"):
            raise ValueError("cannot be combined with succeeds_after_s")


def _check_with_instances(key: str | None, value: Any, before: Mapping[str, Any]) -> None:
    """Raise ValueError like ``_check_with_state``."""
    env_id = before.get("env_id")
    match key:
        case "count" if len(before.get("ids", ())) not in {0, value}:
            raise ValueError("differs from the number of ids")
        case "refuse_env" if value and env_id is None and "env_id" in before:
            raise ValueError("needs env_id")
        case "machines_stay" | "starting_without_machine" | "machine_linger_s" if env_id:
            raise ValueError("cannot be combined with env_id: its nodes outlive the job")
        case "orphan_s" if not before.get("starting_without_machine", True):
            raise ValueError("needs starting_without_machine")
        case "tasks" if "instances" in before and value.high > before["instances"].low:
            raise ValueError("must not be more than instances")


JobGroups = Annotated[tuple[JobGroup, ...], LISTED]
_GROUPS: Final[TypeAdapter[tuple[JobGroup, ...]]] = TypeAdapter(JobGroups)
_NOT_OF_A_JOB: Final = frozenset({"ids", "count", "prefix", "name"})


def read_jobs(
    tables: object, *, regions: Sequence[str], random: Random, taken: set[str]
) -> list[JobSpec]:
    """Return the jobs of a list of groups; raise ``ScenarioError`` with every mistake.

    Ids and ranges are drawn from ``random``; ``taken`` holds the ids in use and grows.
    """
    groups = validated(_GROUPS, tables, at="jobs", context={REGIONS: regions})
    return draw_jobs(groups, regions=regions, random=random, taken=taken)


def draw_jobs(
    groups: Sequence[JobGroup], *, regions: Sequence[str], random: Random, taken: set[str]
) -> list[JobSpec]:
    """Return the jobs of valid groups, as ``read_jobs`` does."""
    problems: list[str] = []
    specs: list[JobSpec] = []
    for number, group in enumerate(groups):
        for place, job_id in enumerate(_job_ids(group, random, taken), start=1):
            if job_id in taken:
                problems.append(f"jobs[{number}]: the id {job_id} is already in use")
            taken.add(job_id)
            specs.append(_spec(group, job_id, place, regions[0], random))
    if problems:
        raise ScenarioError(problems)
    return specs


def _job_ids(group: JobGroup, random: Random, taken: set[str]) -> list[str]:
    if group.ids:
        return list(group.ids)
    count = group.count or 1
    if group.prefix is not None:
        width = RANDOM_PART - len(group.prefix)
        return [f"job-{group.prefix}{number:0{width}}" for number in range(1, count + 1)]
    ids: list[str] = []
    while len(ids) < count:
        job_id = "job-" + "".join(random.choices(ascii_lowercase + digits, k=RANDOM_PART))
        if job_id not in taken and job_id not in ids:
            ids.append(job_id)
    return ids


def _spec(
    group: JobGroup, job_id: str, number: int, default_region: str, random: Random
) -> JobSpec:
    region = group.region or default_region
    values: dict[str, Any] = {"region": region, "zone": f"{region}-3"}
    for key, value in group:
        if value is not None and key not in _NOT_OF_A_JOB:
            values[key] = value.draw(random) if isinstance(value, Range) else value
    name = f"{group.name or group.label or 'job'}-{number}"
    return JobSpec(job_id=job_id, name=name, **values)
