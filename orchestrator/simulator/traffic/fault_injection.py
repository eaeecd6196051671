"""FaultInjector, drawn once per admitted call in the order of arrival.

Which fault a call meets follows from the seed and from the calls before it alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ScenarioError
from orchestrator.simulator.table_reader import TableReader
from orchestrator.simulator.traffic.quota import LOWEST_DOCUMENTED

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERY_ACTION: Final = "*"
HANG_S: Final = 30.0


class Fault(StrEnum):
    """What goes wrong with a call, and whether it has acted by then."""

    THROTTLE = "throttle"
    """RequestLimitExceeded although the quota has room: not acted."""
    NOT_FOUND = "not_found"
    """ResourceNotFound although the job exists; DescribeJobs lists no job: not acted."""
    FORBIDDEN = "forbidden"
    """UnauthorizedOperation although the account has the permission: not acted."""
    INTERNAL_ERROR = "internal_error"
    """InternalError: not acted."""
    HTTP_500 = "http_500"
    """A gateway's page with status 500: not acted, or acted where ``after`` is set."""
    RESET = "reset"
    """The connection is cut: not acted."""
    HANG = "hang"
    """No answer for ``hang_s``, then the connection is cut: not acted."""
    TRUNCATE = "truncate"
    """The body ends in the middle: acted."""
    LOST_ANSWER = "lost_answer"
    """The connection is cut: acted."""
    CHARSET = "charset"
    """The content type carries a charset, which the vendor's SDK misreads: acted."""


OF_MACHINES: Final = frozenset({"DescribeInstances", "TerminateInstances"})
"""Actions that name no job, which NOT_FOUND never meets."""
ACTING: Final = frozenset({Fault.TRUNCATE, Fault.LOST_ANSWER, Fault.CHARSET})


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault of one action; without bounds it can meet every call."""

    fault: Fault
    probability: float
    first_n: int | None = None
    """Only the first so many calls of the action can meet it."""
    until_s: float | None = None
    """Only calls so long after the faults were set can meet it."""
    hang_s: float = HANG_S
    after: bool = False

    @property
    def acts(self) -> bool:
        """Whether the call has its effect in spite of the fault."""
        return self.fault in ACTING or (self.fault is Fault.HTTP_500 and self.after)


class FaultInjector:
    """Draws; ``rules`` maps an action, or ``*`` for all, to its rules."""

    def __init__(self, rules: Mapping[str, list[Rule]], *, seed: int, now: float) -> None:
        self._random = Random(f"faults {seed}")  # noqa: S311 - repeatable on purpose
        self._fired = dict.fromkeys(Fault, 0)
        self.replace(rules, now=now)

    def replace(self, rules: Mapping[str, list[Rule]], *, now: float) -> None:
        """Put other rules in force; their bounds start anew, the counts of fired ones go on."""
        self._rules = rules
        self._set_at = now
        self._calls: dict[str, int] = {}

    def draw(self, action: str, *, now: float) -> Rule | None:
        """The fault that this call meets, if any; one number is drawn for every call."""
        call = self._calls.get(action, 0)
        self._calls[action] = call + 1
        left = self._random.random()
        for rule in [*self._rules.get(action, []), *self._rules.get(EVERY_ACTION, [])]:
            if rule.first_n is not None and call >= rule.first_n:
                continue
            if rule.fault is Fault.NOT_FOUND and action in OF_MACHINES:
                continue
            if rule.until_s is not None and now - self._set_at >= rule.until_s:
                continue
            if left < rule.probability:
                self._fired[rule.fault] += 1
                return rule
            left -= rule.probability
        return None

    def fired(self) -> dict[str, int]:
        """How often each fault happened."""
        return {fault.value: count for fault, count in self._fired.items()}


def read_faults(table: object) -> dict[str, list[Rule]]:
    """The rules of a ``[faults]`` table; raises ``ScenarioError`` with every mistake found."""
    problems: list[str] = []
    reader = TableReader(table, "faults", problems)
    rules: dict[str, list[Rule]] = {}
    for action in (EVERY_ACTION, *LOWEST_DOCUMENTED):
        if action in reader:
            inner = TableReader(reader.take(action), f"faults.{action}", problems)
            rules[action] = _read_action(inner, problems)
    reader.finish()
    if problems:
        raise ScenarioError(problems)
    return rules


def _read_action(reader: TableReader, problems: list[str]) -> list[Rule]:
    rules = []
    for fault in Fault:
        if fault.value in reader:
            value = reader.take(fault.value)
            table = value if isinstance(value, dict) else {"probability": value}
            rules.append(_read_rule(fault, TableReader(table, f"{reader.where}.{fault}", problems)))
    reader.finish()
    if sum(rule.probability for rule in rules) > 1:
        problems.append(f"{reader.where}: the probabilities add up to more than 1")
    return rules


def _read_rule(fault: Fault, reader: TableReader) -> Rule:
    until = reader.take("until_s")
    first = reader.take("first_n")
    rule = Rule(
        fault=fault,
        probability=reader.number("probability", 1.0),
        first_n=None if first is None else reader.whole("first_n", 0, minimum=0),
        until_s=None if until is None else reader.number("until_s", 0.0),
        hang_s=reader.number("hang_s", HANG_S) if fault is Fault.HANG else HANG_S,
        after=reader.flag("after") if fault is Fault.HTTP_500 else False,
    )
    reader.finish()
    return rule
