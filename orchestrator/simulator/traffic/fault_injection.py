"""Fault injection: one random number is drawn per admitted call, in order of arrival.

The fault of a call depends only on the seed and on the calls before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import BeforeValidator, TypeAdapter, ValidationInfo, field_validator

from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED
from orchestrator.simulator.validation import Amount, Count, Table, one_of, validated

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERY_ACTION: Final = "*"
HANG_S: Final = 30.0


class Fault(StrEnum):
    """A fault of a call, and whether the call takes effect."""

    THROTTLE = "throttle"
    """RequestLimitExceeded although the quota has room: no effect."""
    NOT_FOUND = "not_found"
    """ResourceNotFound although the job exists; DescribeJobs lists no job: no effect."""
    FORBIDDEN = "forbidden"
    """UnauthorizedOperation although the account has the permission: no effect."""
    INTERNAL_ERROR = "internal_error"
    """InternalError: no effect."""
    HTTP_500 = "http_500"
    """A gateway's page with status 500: no effect, unless ``after`` is set."""
    RESET = "reset"
    """The connection is closed: no effect."""
    HANG = "hang"
    """No response for ``hang_s``, then the connection is closed: no effect."""
    TRUNCATE = "truncate"
    """The body ends in the middle, but the call took effect."""
    LOST_ANSWER = "lost_answer"
    """The connection is closed, but the call took effect."""
    CHARSET = "charset"
    """The content type has a charset, which the vendor's SDK misreads; the call took effect."""


MACHINE_ACTIONS: Final = frozenset({"DescribeInstances", "TerminateInstances"})
"""Actions that name no job; NOT_FOUND does not apply to them."""
ACTING: Final = frozenset({Fault.TRUNCATE, Fault.LOST_ANSWER, Fault.CHARSET})


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault of one action; without bounds it applies to every call."""

    fault: Fault
    probability: float
    first_n: int | None = None
    """Number of first calls of the action to which the fault applies; None: no limit."""
    until_s: float | None = None
    """Time after the faults were set in which the fault applies; None: no limit."""
    hang_s: float = HANG_S
    after: bool = False

    @property
    def acts(self) -> bool:
        """True if the call takes effect in spite of the fault."""
        return self.fault in ACTING or (self.fault is Fault.HTTP_500 and self.after)


class FaultInjector:
    """Random faults; ``rules`` maps an action, or ``*`` for all actions, to its rules."""

    def __init__(self, rules: Mapping[str, list[Rule]], *, seed: int, now: float) -> None:
        self._random = Random(f"faults {seed}")  # noqa: S311 - repeatable on purpose
        self._fired = dict.fromkeys(Fault, 0)
        self.replace(rules, now=now)

    def replace(self, rules: Mapping[str, list[Rule]], *, now: float) -> None:
        """Replace the rules; their bounds start again, the counts of injected faults continue."""
        self._rules = rules
        self._set_at = now
        self._calls: dict[str, int] = {}

    def draw(self, action: str, *, now: float) -> Rule | None:
        """Return the fault of this call, if any; one number is drawn for every call."""
        call = self._calls.get(action, 0)
        self._calls[action] = call + 1
        left = self._random.random()
        for rule in [*self._rules.get(action, []), *self._rules.get(EVERY_ACTION, [])]:
            if rule.first_n is not None and call >= rule.first_n:
                continue
            if rule.fault is Fault.NOT_FOUND and action in MACHINE_ACTIONS:
                continue
            if rule.until_s is not None and now - self._set_at >= rule.until_s:
                continue
            if left < rule.probability:
                self._fired[rule.fault] += 1
                return rule
            left -= rule.probability
        return None

    def fired(self) -> dict[str, int]:
        """Return how often each fault was injected."""
        return {fault.value: count for fault, count in self._fired.items()}


class _Options(Table):
    """How a fault happens; ``Rule`` explains the keys."""

    probability: Amount = 1.0
    first_n: Count | None = None
    until_s: Amount | None = None


class _HangOptions(_Options):
    hang_s: Amount = HANG_S


class _Http500Options(_Options):
    after: bool = False


def _in_full(value: object) -> object:
    return value if isinstance(value, dict) else {"probability": value}


_IN_SHORT: Final = BeforeValidator(_in_full)
"""Accepts a probability in place of a table."""
Options = Annotated[_Options, _IN_SHORT]


class ActionFaults(Table):
    """The faults of an action: one option or table for each ``Fault``."""

    throttle: Options | None = None
    not_found: Options | None = None
    forbidden: Options | None = None
    internal_error: Options | None = None
    http_500: Annotated[_Http500Options, _IN_SHORT] | None = None
    reset: Options | None = None
    hang: Annotated[_HangOptions, _IN_SHORT] | None = None
    truncate: Options | None = None
    lost_answer: Options | None = None
    charset: Options | None = None

    @field_validator("*")
    @classmethod
    def _one_at_most(cls, options: _Options | None, info: ValidationInfo) -> _Options | None:
        before = sum(each.probability for each in info.data.values() if each)
        if options and before + options.probability > 1:
            raise ValueError("the probabilities add up to more than 1")
        return options


Faults = dict[Annotated[str, one_of((EVERY_ACTION, *LOWEST_DOCUMENTED))], ActionFaults]
_FAULTS: Final = TypeAdapter(Faults)


def read_faults(table: object) -> dict[str, list[Rule]]:
    """Return the rules of a ``[faults]`` table; raise ``ScenarioError`` with every mistake."""
    return rules_of(validated(_FAULTS, table, at="faults"))


def rules_of(faults: Faults) -> dict[str, list[Rule]]:
    """Return the rules of each action in the order of ``Fault``, which decides what is drawn."""
    return {
        action: [
            Rule(fault, **options.model_dump())
            for fault in Fault
            if (options := getattr(each, fault)) is not None
        ]
        for action, each in faults.items()
    }
