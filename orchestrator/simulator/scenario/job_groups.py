"""Reader of ``[[jobs]]`` tables: groups of jobs, with every mistake reported."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING, Any, Final

from orchestrator.simulator.cloud.instance_ranges import FINISHED, STATES
from orchestrator.simulator.cloud.job_spec import (
    COUNTERS,
    JOB_ID,
    REVIVED_STATES,
    SUBMITTED_CODES,
    JobSpec,
)
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.table_reader import Range, TableReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

PREFIX: Final = re.compile(r"[a-z0-9]{1,5}")
RANDOM_PART: Final = 8
EXPECTATIONS: Final = ("verified", "already_finished", "refused", "not_found", "unverified")
DRAWN: Final = (
    "drain_s",
    "instance_drain_s",
    "submitted_s",
    "succeeds_after_s",
    "fails_after_s",
    "revive_after_s",
    "relapse_after_s",
    "vanish_after_s",
    "hidden_after_s",
    "hidden_s",
    "forbidden_s",
    "failed_early_s",
    "lying_counters_s",
    "node_restart_s",
    "machine_linger_s",
    "orphan_s",
)
"""Fields that may be written as [from, to]; ``instances`` and ``tasks`` may be, too."""
OWN_MACHINE_FIELDS: Final = ("machine_linger_s", "machines_stay", "starting_without_machine")


@dataclass(frozen=True, slots=True)
class JobGroup:
    """A ``[[jobs]]`` table: jobs that differ only in ids and in values drawn from ranges."""

    ids: tuple[str, ...]
    count: int
    prefix: str | None
    template: JobSpec
    ranges: Mapping[str, Range]


def read_jobs(
    tables: object, *, regions: Sequence[str], random: Random, taken: set[str]
) -> list[JobSpec]:
    """Return the jobs of a list of groups; raise ``ScenarioError`` with every mistake.

    Ids and ranges are drawn from ``random``; ``taken`` holds the ids in use and grows.
    """
    if not isinstance(tables, list):
        raise ScenarioError(["jobs: must be a list of tables"])
    problems: list[str] = []
    groups = [
        _read_group(TableReader(table, f"jobs[{number}]", problems), regions)
        for number, table in enumerate(tables)
    ]
    if problems:
        raise ScenarioError(problems)
    specs: list[JobSpec] = []
    for number, group in enumerate(groups):
        for place, job_id in enumerate(_job_ids(group, random, taken), start=1):
            if job_id in taken:
                problems.append(f"jobs[{number}]: the id {job_id} is already in use")
            taken.add(job_id)
            specs.append(_spec(group, job_id, place, random))
    if problems:
        raise ScenarioError(problems)
    return specs


def _read_group(reader: TableReader, regions: Sequence[str]) -> JobGroup:
    ids = reader.texts("ids")
    group = JobGroup(
        ids=ids,
        count=reader.whole("count", len(ids) or 1, minimum=1),
        prefix=reader.text("prefix"),
        template=_read_template(reader, regions),
        ranges=_read_ranges(reader),
    )
    reader.finish()
    _check_ids(reader, group)
    _check_together(reader, group)
    _check_machines(reader, group)
    return group


def _read_template(reader: TableReader, regions: Sequence[str]) -> JobSpec:
    label = reader.text("label")
    region = reader.choice("region", regions, regions[0])
    return JobSpec(
        job_id="",
        label=label,
        region=region,
        zone=reader.text("zone") or f"{region}-3",
        name=reader.text("name") or label or "job",
        priority=reader.whole("priority", 0, minimum=0),
        tags=reader.text_table("tags"),
        expect=reader.choices("expect", EXPECTATIONS),
        state=reader.choice("state", STATES, "RUNNING"),
        mix=reader.shares("mix", STATES),
        counters=reader.choice("counters", COUNTERS, COUNTERS[0]),
        next_action_hidden=reader.flag("next_action_hidden"),
        again=reader.choice("again", ("in_use", "ok"), "in_use"),
        submitted_code=reader.choice("submitted_code", SUBMITTED_CODES, SUBMITTED_CODES[0]),
        env_id=reader.text("env_id"),
        refuse_env=reader.flag("refuse_env"),
        refuse=reader.text("refuse"),
        forbidden=reader.flag("forbidden"),
        stuck=reader.whole("stuck", 0, minimum=0),
        machines_stay=reader.whole("machines_stay", 0, minimum=0),
        revivals=reader.whole("revivals", 1, minimum=1),
        revived_state=reader.choice("revived_state", REVIVED_STATES, REVIVED_STATES[0]),
        starting_without_machine=reader.flag("starting_without_machine"),
        immortal=reader.whole("immortal", 0, minimum=0),
        relapse=reader.whole("relapse", 1, minimum=1),
        counted_max=reader.whole("counted_max", 0, minimum=0) if "counted_max" in reader else None,
        finished_word=reader.text("finished_word"),
        live_word=reader.text("live_word"),
        next_action=reader.text("next_action"),
    )


def _read_ranges(reader: TableReader) -> dict[str, Range]:
    ranges = {key: reader.range(key) for key in DRAWN}
    ranges["instances"] = reader.whole_range("instances", 1)
    ranges["tasks"] = reader.whole_range("tasks", 1)
    return {key: value for key, value in ranges.items() if value is not None}


def _check_ids(reader: TableReader, group: JobGroup) -> None:
    if group.ids and group.count != len(group.ids):
        reader.add_error("count", "differs from the number of ids")
    if group.prefix is not None and not PREFIX.fullmatch(group.prefix):
        reader.add_error("prefix", "must be 1 to 5 characters of a-z and 0-9")
    for job_id in group.ids:
        if not JOB_ID.fullmatch(job_id):
            reader.add_error("ids", f"{job_id} is not `job-` and 8 characters of a-z and 0-9")


def _check_together(reader: TableReader, group: JobGroup) -> None:
    template, ranges = group.template, group.ranges
    if ranges["tasks"].high > ranges["instances"].low:
        reader.add_error("tasks", "must not be more than instances")
    if template.state == "SUCCEED" and template.mix:
        reader.add_error("mix", "a job with state SUCCEED has no instances in other states")
    if "submitted_s" in ranges and template.state != "SUBMITTED":
        reader.add_error("submitted_s", 'needs state = "SUBMITTED"')
    if template.refuse_env and template.env_id is None:
        reader.add_error("refuse_env", "needs env_id")
    if "succeeds_after_s" in ranges and "fails_after_s" in ranges:
        reader.add_error("fails_after_s", "cannot be combined with succeeds_after_s")
    if template.state in FINISHED and "succeeds_after_s" in ranges:
        reader.add_error("succeeds_after_s", "cannot be combined with a finished state")


def _check_machines(reader: TableReader, group: JobGroup) -> None:
    if "orphan_s" in reader and not group.template.starting_without_machine:
        reader.add_error("orphan_s", "needs starting_without_machine")
    for key in OWN_MACHINE_FIELDS if group.template.env_id is not None else ():
        if key in reader:
            reader.add_error(key, "cannot be combined with env_id: its nodes outlive the job")


def _job_ids(group: JobGroup, random: Random, taken: set[str]) -> list[str]:
    if group.ids:
        return list(group.ids)
    if group.prefix is not None:
        width = RANDOM_PART - len(group.prefix)
        return [f"job-{group.prefix}{number:0{width}}" for number in range(1, group.count + 1)]
    ids: list[str] = []
    while len(ids) < group.count:
        job_id = "job-" + "".join(random.choices(ascii_lowercase + digits, k=RANDOM_PART))
        if job_id not in taken and job_id not in ids:
            ids.append(job_id)
    return ids


def _spec(group: JobGroup, job_id: str, number: int, random: Random) -> JobSpec:
    drawn: dict[str, Any] = {key: value.draw(random) for key, value in group.ranges.items()}
    name = f"{group.template.name}-{number}"
    return replace(group.template, job_id=job_id, name=name, **drawn)
