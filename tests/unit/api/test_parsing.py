"""Tests of the cost of a request body: it is parsed once, and 100 mistakes at most are reported."""

from __future__ import annotations

import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from orchestrator.api import schemas
from orchestrator.api.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
LEGAL = {"jobs": ["job-aaaaaaaa"], "reason": "r"}
MANY = {
    "unknown fields": LEGAL | dict.fromkeys(map(str, range(90_000)), 0),
    "ids that are none": LEGAL | {"jobs": [f"x{number}" for number in range(10_000)]},
    "numbers for ids": LEGAL | {"jobs": list(range(10_000))},
    "both": LEGAL
    | {"jobs": [f"x{number}" for number in range(10_000)]}
    | dict.fromkeys(map(str, range(50_000)), 0),
}


def read(body: bytes) -> object:
    """Parse a body as the orchestrator parses it."""
    return json.loads(body, object_pairs_hook=dict, parse_int=int)


def refusal(body: bytes) -> Problem:
    with pytest.raises(Problem) as refused:
        schemas.parse_operation(body)
    return refused.value


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the peak memory of ``act``; unlike its time, it is the same on every machine."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mistakes", MANY)
def test_body_full_of_mistakes_costs_little_more_than_reading_it(mistakes) -> None:
    body = json.dumps(MANY[mistakes]).encode()
    assert peak_bytes(lambda: refusal(body)) < 2 * peak_bytes(lambda: read(body)) + MIB


@pytest.mark.parametrize(
    ("mistakes", "first", "more"),
    [
        ("unknown fields", "0", "89,997"),
        ("ids that are none", "jobs.0", "9,997"),
        ("numbers for ids", "jobs.0", "9,997"),
        ("both", "jobs.0", "59,997"),
    ],
)
def test_first_hundred_mistakes_are_listed_with_the_number_of_the_others(
    mistakes, first, more
) -> None:
    problem = refusal(json.dumps(MANY[mistakes]).encode())
    assert problem.status == 422
    assert problem.detail.endswith(f"; and {more} more mistakes")
    errors = problem.more["errors"]
    assert isinstance(errors, list)
    assert len(errors) == 100
    assert errors[0]["field"] == first


@pytest.mark.parametrize("container", ["[]", "{}"])
def test_body_of_countless_arrays_or_objects_is_not_read(container) -> None:
    """Containers cost most time and memory for their size, and a valid request has few."""
    body = f'{{"jobs": [{",".join([container] * 300_000)}]}}'.encode()
    problem = refusal(body)
    assert (problem.status, problem.slug) == (400, "malformed-json")
    assert "more than 2,000 arrays and objects" in problem.detail
    assert peak_bytes(lambda: refusal(body)) < MIB


def test_ten_thousand_ids_and_a_reason_full_of_brackets_are_no_mistake() -> None:
    jobs = [f"job-{number:08}" for number in range(10_000)]
    body = json.dumps({"jobs": jobs, "reason": "[" * 1000}).encode()
    assert len(schemas.parse_operation(body).jobs) == 10_000
