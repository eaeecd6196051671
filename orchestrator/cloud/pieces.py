"""The pieces of an answer: each is what it should be, or absent, or BadAnswer."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from orchestrator.cloud import catalogue
from orchestrator.domain.bounds import COUNT_MAX, INDEX_MAX, NAME_MAX, storable
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.machine import MachineState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.domain.errors import CloudError

STATE_MAX: Final = 64
NO_STATE: Final = "(none)"
"""What JobState reads as where the answer has none."""

_LEGACY_STATES: Final = {"SUCCEEDED": JobState.SUCCEED}
"""As examples of API 2.0 spell it: cloud.tencent.com/document/api/599/12684."""

_COUNTER_KEYS: Final = {
    field.name: "".join(word.capitalize() for word in field.name.split("_")) + "Count"
    for field in fields(InstanceCounters)
}


def counters(value: object) -> InstanceCounters | None:
    """All eight counters or nothing: one that is missing must not look like a zero."""
    if not isinstance(value, dict):
        return None
    counts = {name: count(value.get(key)) for name, key in _COUNTER_KEYS.items()}
    known = {name: count for name, count in counts.items() if count is not None}
    return InstanceCounters(**known) if len(known) == len(counts) else None


def count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= COUNT_MAX else None


def optional_count(response: Mapping[str, object], key: str) -> int | None:
    """None for null."""
    value = response.get(key)
    found = count(value)
    if value is not None and found is None:
        raise bad_answer(f"{key} is no count")
    return found


def index(response: Mapping[str, object], key: str) -> int:
    found = count(response.get(key))
    if found is None or found > INDEX_MAX:
        raise bad_answer(f"{key} is no index")
    return found


def state(value: object) -> JobState | None:
    """The state that a word stands for, one that is not documented as well; None for no word."""
    word = clean(value)
    if word is None:
        return None
    return _LEGACY_STATES.get(word) or JobState(word[:STATE_MAX])


def job_state(value: object) -> JobState:
    """The same where there must be one: no word reads as NO_STATE, which is not documented."""
    return state(value) or JobState(NO_STATE)


def machine_state(value: object) -> MachineState | None:
    """None for a state that this version does not know."""
    return MachineState.__members__.get(value) if isinstance(value, str) else None


def rows(response: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    """The objects of a list; null is an empty list, a missing one is not."""
    value = response.get(key, False)
    found = [] if value is None else value
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise bad_answer(f"{key} is not a list of objects")
    return found


def text(response: Mapping[str, object], key: str) -> str:
    value = optional_text(response, key)
    if value is None:
        raise bad_answer(f"{key} is missing")
    return value


def name(response: Mapping[str, object], key: str) -> str:
    """A text that is part of a key."""
    value = optional_name(response, key)
    if value is None:
        raise bad_answer(f"{key} is missing")
    return value


def optional_name(response: Mapping[str, object], key: str) -> str | None:
    value = optional_text(response, key)
    if value is not None and len(value) > NAME_MAX:
        raise bad_answer(f"{key} is too long")
    return value


def require_distinct(values: Iterable[object], key: str) -> None:
    """What stands twice in a list contradicts itself, or hides another one."""
    listed = list(values)
    if len(set(listed)) < len(listed):
        raise bad_answer(f"a {key} stands twice")


def optional_text(response: Mapping[str, object], key: str) -> str | None:
    return clean(response.get(key))


def clean(value: object) -> str | None:
    """A text; None for null, for the empty string and for what is no string.

    What JSON can hold and a database cannot, lone surrogates and NUL, is replaced.
    """
    if not isinstance(value, str) or not value:
        return None
    return storable(value)


def require_same(response: Mapping[str, object], key: str, asked: str) -> None:
    if text(response, key) != asked:
        raise bad_answer(f"the answer is about another {key} than the one asked for")


def bad_answer(why: str) -> CloudError:
    return catalogue.error(catalogue.BAD_ANSWER, why)
