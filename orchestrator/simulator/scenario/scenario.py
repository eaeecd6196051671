"""Scenario files (TOML): jobs, credentials, quotas and faults."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator

from orchestrator.simulator.cloud.region import FILTER_NAMES
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.scenario.job_groups import REGIONS, JobGroups, draw_jobs
from orchestrator.simulator.traffic.fault_injection import Faults, rules_of
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED
from orchestrator.simulator.validation import (
    LISTED,
    Count,
    Positive,
    Table,
    Text,
    one_of,
    validated,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.simulator.cloud.job_spec import JobSpec
    from orchestrator.simulator.traffic.fault_injection import Rule

DEFAULT_REGION: Final = "ap-guangzhou"
Action = Annotated[str, one_of(LOWEST_DOCUMENTED)]


class Credentials(Table):
    """A ``[[credentials]]`` table: a key that the cloud accepts."""

    secret_id: Text
    secret_key: Text


class ScenarioFile(Table):
    """The content of a scenario file; nothing is drawn yet."""

    seed: Count = 0
    regions: Annotated[tuple[Text, ...], LISTED] = ()
    credentials: Annotated[tuple[Credentials, ...], LISTED, Field(validate_default=True)] = ()
    quotas: dict[Action, Positive] = Field(default_factory=dict)
    filter_name: Annotated[str, one_of(FILTER_NAMES)] = "either"
    forbidden_actions: Annotated[tuple[Action, ...], LISTED] = ()
    faults: Faults = Field(default_factory=dict)
    jobs: JobGroups = ()

    @field_validator("regions")
    @classmethod
    def _for_the_jobs(cls, regions: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Let the jobs, which are validated later, be in these regions."""
        if regions and info.context:
            info.context[REGIONS] = regions
        return regions

    @field_validator("credentials")
    @classmethod
    def _at_least_one(cls, credentials: tuple[Credentials, ...]) -> tuple[Credentials, ...]:
        if not credentials:
            raise ValueError("at least one is needed, as [[credentials]]")
        return credentials


_FILE: Final = TypeAdapter(ScenarioFile)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A valid scenario; the random values of its jobs are drawn."""

    seed: int
    regions: tuple[str, ...]
    secret_keys: Mapping[str, str]
    limits_per_s: Mapping[str, int]
    filter_name: str
    """Name of DescribeTask's filter: a key of ``region.FILTER_NAMES``."""
    forbidden_actions: tuple[str, ...]
    """Actions whose every call gets UnauthorizedOperation."""
    faults: Mapping[str, list[Rule]]
    jobs: tuple[JobSpec, ...]


def load_scenario(path: Path) -> Scenario:
    """Read a scenario file; raise ``ScenarioError`` with every mistake, or ``OSError``."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ScenarioError([f"{path.name} is not UTF-8: save it as UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError([f"{path.name}: {error}"]) from None
    return read_scenario(document)


def read_scenario(document: Mapping[str, object]) -> Scenario:
    """Read the content of a scenario file; raise ``ScenarioError`` with every mistake."""
    file = validated(_FILE, document, at="", context={REGIONS: (DEFAULT_REGION,)})
    regions = file.regions or (DEFAULT_REGION,)
    random = Random(f"scenario {file.seed}")  # noqa: S311 - repeatable on purpose
    return Scenario(
        seed=file.seed,
        regions=regions,
        secret_keys={each.secret_id: each.secret_key for each in file.credentials},
        limits_per_s={**LOWEST_DOCUMENTED, **file.quotas},
        filter_name=file.filter_name,
        forbidden_actions=file.forbidden_actions,
        faults=rules_of(file.faults),
        jobs=tuple(draw_jobs(file.jobs, regions=regions, random=random, taken=set())),
    )
