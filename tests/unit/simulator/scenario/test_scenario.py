"""Scenario files: the jobs that they define, and the errors of bad files."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.simulator.cloud.instance_ranges import STATES
from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.scenario.job_groups import read_jobs
from orchestrator.simulator.scenario.scenario import load_scenario, read_scenario
from orchestrator.simulator.simulator import Simulator
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED
from tests.unit.simulator.support import Clock, code, tc3_request

if TYPE_CHECKING:
    from orchestrator.simulator.cloud.job_spec import JobSpec

CONFIG = Path(__file__).parents[4] / "config"
CREDENTIALS = [{"secret_id": "AKIDEXAMPLE", "secret_key": "example-secret-key"}]


def jobs(*tables: object, seed: int = 1) -> list[JobSpec]:
    return read_jobs(
        list(tables), regions=["ap-guangzhou", "ap-shanghai"], random=Random(seed), taken=set()
    )


def problems(*tables: object) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        jobs(*tables)
    return caught.value.problems


def test_the_demonstration_is_as_large_and_as_mixed_as_it_says():
    scenario = load_scenario(CONFIG / "scenario-demo.toml")
    assert len(scenario.jobs) == 60
    assert 18_000 <= sum(spec.instances for spec in scenario.jobs) <= 22_000
    assert all(5 <= spec.drain_s <= 20 for spec in scenario.jobs if spec.state == "RUNNING")
    assert all(spec.expect and spec.label for spec in scenario.jobs)
    assert len({spec.job_id for spec in scenario.jobs}) == 60
    assert {word for spec in scenario.jobs for word in spec.expect} == {
        "verified",
        "already_finished",
        "refused",
    }


def test_the_first_try_is_five_jobs_without_faults():
    scenario = load_scenario(CONFIG / "scenario-small.toml")
    assert len(scenario.jobs) == 5
    assert scenario.faults == {}
    assert scenario.limits_per_s["TerminateJob"] == 2


@pytest.mark.parametrize("name", ["scenario-demo.toml", "scenario-small.toml"])
def test_every_key_of_a_shipped_scenario_is_explained_where_it_comes_first(name):
    first: dict[str, str] = {}
    for line in (CONFIG / name).read_text().splitlines():
        first.setdefault(line.partition(" = ")[0], line)
    assert [line for line in first.values() if " = " in line and " # " not in line] == []


def test_a_simulator_made_from_a_scenario_has_its_jobs():
    scenario = load_scenario(CONFIG / "scenario-demo.toml")
    simulator = Simulator.from_scenario(scenario, now=Clock())
    truth: dict[Any, dict[str, Any]] = {job["job_id"]: job for job in simulator.truth()}
    assert len(truth) == 60
    assert truth["job-run00001"]["label"] == "running"
    assert truth["job-run00001"]["expect"] == ["verified"]
    assert truth["job-live0001"]["state"] == "FAILED"
    assert 0 < truth["job-live0001"]["live"] < truth["job-live0001"]["instances"]


def test_the_seed_decides_ids_and_sizes():
    group = {"count": 5, "instances": [10, 1000], "drain_s": [1, 9]}
    assert jobs(group) == jobs(group)
    assert jobs(group) != jobs(group, seed=2)
    assert all(10 <= spec.instances <= 1000 and 1 <= spec.drain_s <= 9 for spec in jobs(group))
    assert len({spec.instances for spec in jobs(group)}) > 1


def test_the_jobs_of_a_seed_stay_what_they_are():
    """Ids are drawn first, then each job's values in the order of the fields of a group."""
    drawn = {"orphan_s": [0, 9], "drain_s": [0, 9], "instances": [1, 99], "hidden_s": [0, 9]}
    first, second = jobs({"count": 2, "starting_without_machine": True, **drawn}, seed=3)
    assert (first.job_id, second.job_id) == ("job-itnvwca4", "job-ji9q4rxf")
    assert (first.instances, second.instances) == (95, 76)
    values = [round(each, 3) for each in (second.drain_s, second.hidden_s, second.orphan_s)]
    assert values == [6.043, 0.576, 6.824]


def test_ids_are_given_numbered_or_drawn():
    assert [spec.job_id for spec in jobs({"ids": ["job-abcd1234"]})] == ["job-abcd1234"]
    assert [spec.job_id for spec in jobs({"prefix": "run", "count": 2})] == [
        "job-run00001",
        "job-run00002",
    ]
    assert len({spec.job_id for spec in jobs({"count": 50})}) == 50


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"colour": 1}, "jobs[0].colour: unknown key"),
        ({"count": 0}, "jobs[0].count: must be greater than or equal to 1"),
        ({"count": True}, "jobs[0].count: must be a valid integer"),
        ({"drain_s": [5, 1]}, "jobs[0].drain_s: must be a number, 0 or more, or [from, to]"),
        ({"drain_s": -1}, "jobs[0].drain_s: must be a number, 0 or more, or [from, to]"),
        ({"instances": 1.5}, "jobs[0].instances: must be a whole number, 1 or more, or [from, to]"),
        ({"region": "mars"}, "jobs[0].region: must be one of ap-guangzhou, ap-shanghai"),
        ({"refuse_env": 1}, "jobs[0].refuse_env: must be true or false"),
        ({"refuse_env": True}, "jobs[0].refuse_env: needs env_id"),
        ({"submitted_s": 5}, 'jobs[0].submitted_s: needs state = "SUBMITTED"'),
        ({"mix": {"RUNNABLE": 2}}, "jobs[0].mix: the shares must not add up to more than 1"),
        ({"mix": {"DANCING": 0.1}}, f"jobs[0].mix.DANCING: must be one of {', '.join(STATES)}"),
        ({"mix": 3}, "jobs[0].mix: must be a table"),
        ({"tags": {"team": 3}}, "jobs[0].tags.team: must be a valid string"),
        ({"label": 3}, "jobs[0].label: must be a valid string"),
        ({"label": ""}, "jobs[0].label: must have at least 1 character"),
        ({"ids": [1]}, "jobs[0].ids[0]: must be a valid string"),
        (
            {"ids": ["job-1"]},
            "jobs[0].ids[0]: job-1 is not `job-` and 8 characters of a-z and 0-9",
        ),
        ({"ids": ["job-abcd1234"], "count": 2}, "jobs[0].count: differs from the number of ids"),
        ({"prefix": "toolong"}, "jobs[0].prefix: must be 1 to 5 characters of a-z and 0-9"),
        ({"tasks": 2}, "jobs[0].tasks: must not be more than instances"),
        (
            {"expect": "bliss"},
            (
                "jobs[0].expect[0]: must be one of "
                "verified, already_finished, refused, not_found, unverified"
            ),
        ),
        ({"immortal": -1}, "jobs[0].immortal: must be greater than or equal to 0"),
        ({"machines_stay": 0.5}, "jobs[0].machines_stay: must be a valid integer"),
        (
            {"lying_counters_s": [2, 1]},
            "jobs[0].lying_counters_s: must be a number, 0 or more, or [from, to]",
        ),
        (
            {"machine_linger_s": "long"},
            "jobs[0].machine_linger_s: must be a number, 0 or more, or [from, to]",
        ),
        ({"orphan_s": 5}, "jobs[0].orphan_s: needs starting_without_machine"),
        (
            {"env_id": "env-1", "machines_stay": 1},
            "jobs[0].machines_stay: cannot be combined with env_id: its nodes outlive the job",
        ),
        (
            {"env_id": "env-1", "starting_without_machine": True},
            (
                "jobs[0].starting_without_machine: "
                "cannot be combined with env_id: its nodes outlive the job"
            ),
        ),
        (
            {"state": "SUCCEED", "mix": {"FAILED": 0.1}},
            "jobs[0].mix: a job with state SUCCEED has no instances in other states",
        ),
        (
            {"succeeds_after_s": 1, "fails_after_s": 1},
            "jobs[0].fails_after_s: cannot be combined with succeeds_after_s",
        ),
        (
            {"state": "FAILED", "succeeds_after_s": 1},
            "jobs[0].succeeds_after_s: cannot be combined with a finished state",
        ),
    ],
)
def test_a_mistake_in_a_group_is_named(table, problem):
    assert problems(table) == [problem]


def test_behaviour_of_machines_is_read_and_drawn():
    group = {
        "count": 20,
        "machine_linger_s": [10, 20],
        "machines_stay": 2,
        "starting_without_machine": True,
        "orphan_s": [30, 40],
        "immortal": 3,
        "lying_counters_s": [1, 5],
    }
    specs = jobs(group)
    assert {(spec.machines_stay, spec.immortal) for spec in specs} == {(2, 3)}
    assert all(spec.starting_without_machine for spec in specs)
    assert all(10 <= spec.machine_linger_s <= 20 for spec in specs)
    assert all(30 <= spec.orphan_s <= 40 for spec in specs)
    assert len({spec.lying_counters_s for spec in specs}) == 20


def test_an_id_is_used_once():
    twice = {"ids": ["job-abcd1234"]}
    assert problems(twice, twice) == ["jobs[1]: the id job-abcd1234 is already in use"]


def test_all_mistakes_of_a_scenario_are_named_at_once():
    with pytest.raises(ScenarioError) as caught:
        read_scenario(
            {
                "seed": -1,
                "planet": "earth",
                "credentials": [{"secret_id": "AKIDEXAMPLE", "password": "x"}],
                "quotas": {"TerminateJob": 0, "Terminate": 1},
                "faults": {"DescribeJob": 3},
                "regions": "ap-shanghai",
                "jobs": [{"drain_s": "long", "region": "ap-guangzhou"}, 7],
            }
        )
    assert caught.value.problems == [
        "seed: must be greater than or equal to 0",
        "credentials[0].secret_key: is required",
        "credentials[0].password: unknown key",
        "quotas.TerminateJob: must be greater than or equal to 1",
        f"quotas.Terminate: must be one of {', '.join(LOWEST_DOCUMENTED)}",
        "faults.DescribeJob: must be a table",
        "jobs[0].region: must be one of ap-shanghai",
        "jobs[0].drain_s: must be a number, 0 or more, or [from, to]",
        "jobs[1]: must be a table",
        "planet: unknown key",
    ]


def test_a_scenario_needs_a_credential():
    with pytest.raises(ScenarioError, match="at least one is needed"):
        read_scenario({})
    assert read_scenario({"credentials": CREDENTIALS}).jobs == ()


@pytest.mark.parametrize(
    ("settings", "code_of_state"),
    [
        ({}, "OK"),
        ({"filter_name": "task-instance-state"}, "OK"),
        ({"filter_name": "task-instance-type"}, "InvalidParameterValue.InvalidFilter"),
    ],
)
def test_a_scenario_settles_what_the_filter_of_describe_task_is_called(settings, code_of_state):
    document = {"credentials": CREDENTIALS, "jobs": [{"ids": ["job-abcd1234"]}], **settings}
    simulator = Simulator.from_scenario(read_scenario(document), now=Clock())
    filters = [{"Name": "task-instance-state", "Values": ["RUNNING"]}]
    params = {"JobId": "job-abcd1234", "TaskName": "task-0", "Filters": filters}
    assert code(simulator.handle(tc3_request("DescribeTask", params))) == code_of_state


@pytest.mark.parametrize(
    ("forbidden", "expected"),
    [(["TerminateJob"], "OK"), (["DescribeInstances"], "UnauthorizedOperation")],
)
def test_a_scenario_settles_what_is_forbidden(forbidden, expected):
    scenario = read_scenario({"credentials": CREDENTIALS, "forbidden_actions": forbidden})
    simulator = Simulator.from_scenario(scenario, now=Clock())
    assert code(simulator.handle(tc3_request("DescribeInstances"))) == expected


def test_a_filter_of_no_cloud_is_named():
    with pytest.raises(ScenarioError) as caught:
        read_scenario({"credentials": CREDENTIALS, "filter_name": "state"})
    assert caught.value.problems == [
        "filter_name: must be one of either, task-instance-state, task-instance-type"
    ]


def test_a_file_that_is_not_toml_is_named(tmp_path):
    path = tmp_path / "broken.toml"
    path.write_text("seed = ")
    with pytest.raises(ScenarioError, match=r"broken\.toml"):
        load_scenario(path)
