"""Scenario files (TOML): jobs, credentials, quotas and faults."""

from __future__ import annotations

import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.cloud.region import FILTER_NAMES
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.scenario.job_groups import read_jobs
from orchestrator.simulator.table_reader import TableReader
from orchestrator.simulator.traffic.fault_injection import Rule, read_faults
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestrator.simulator.cloud.job_spec import JobSpec

DEFAULT_REGION: Final = "ap-guangzhou"


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
    problems: list[str] = []
    reader = TableReader(document, "scenario", problems)
    seed = reader.whole("seed", 0, minimum=0)
    regions = reader.texts("regions") or (DEFAULT_REGION,)
    secret_keys = _read_credentials(reader.take("credentials"), problems)
    limits_per_s = _read_quotas(TableReader(reader.take("quotas") or {}, "quotas", problems))
    filter_name = reader.choice("filter_name", FILTER_NAMES, "either")
    forbidden_actions = reader.choices("forbidden_actions", LOWEST_DOCUMENTED)
    faults: dict[str, list[Rule]] = {}
    with _collected(problems):
        faults = read_faults(reader.take("faults") or {})
    jobs: list[JobSpec] = []
    with _collected(problems):
        random = Random(f"scenario {seed}")  # noqa: S311 - repeatable on purpose
        jobs = read_jobs(reader.take("jobs") or [], regions=regions, random=random, taken=set())
    reader.finish()
    if problems:
        raise ScenarioError(problems)
    return Scenario(
        seed=seed,
        regions=regions,
        secret_keys=secret_keys,
        limits_per_s=limits_per_s,
        filter_name=filter_name,
        forbidden_actions=forbidden_actions,
        faults=faults,
        jobs=tuple(jobs),
    )


def _read_credentials(tables: object, problems: list[str]) -> dict[str, str]:
    if not isinstance(tables, list) or not tables:
        problems.append("scenario.credentials: at least one is needed, as [[credentials]]")
        return {}
    secret_keys: dict[str, str] = {}
    for number, table in enumerate(tables):
        reader = TableReader(table, f"credentials[{number}]", problems)
        secret_id = reader.text("secret_id")
        secret_key = reader.text("secret_key")
        reader.finish()
        if secret_id is None or secret_key is None:
            problems.append(f"credentials[{number}]: secret_id and secret_key are needed")
        else:
            secret_keys[secret_id] = secret_key
    return secret_keys


def _read_quotas(reader: TableReader) -> dict[str, int]:
    limits_per_s = {
        action: reader.whole(action, lowest, minimum=1)
        for action, lowest in LOWEST_DOCUMENTED.items()
    }
    reader.finish()
    return limits_per_s


@contextmanager
def _collected(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except ScenarioError as error:
        problems.extend(error.problems)
