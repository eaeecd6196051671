"""What the loops of one partition share: its cloud, its quotas, its pace and its trouble."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.decisions.confirmation import APPEARS_WITHIN_S, FORBIDDEN_S
from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.escalation import EscalationPolicy
from orchestrator.domain.decisions.revival import RETERMINATE_MAX
from orchestrator.domain.decisions.transitions import Policy
from orchestrator.domain.errors import (
    CloudError,
    CloudErrorKind,
    LeaseLost,
    RowsLocked,
    StoreUnavailable,
)
from orchestrator.domain.model.attempt import (
    TERMINATE_INSTANCES,
    TERMINATE_JOB,
    TERMINATE_TASK_INSTANCE,
)
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.model.machine_capture import CapturePolicy, CaptureTiming
from orchestrator.domain.pacing.polling import FINISH_WINDOW_S, PollPolicy, sweep_interval_s
from orchestrator.domain.pacing.quota import Quota
from orchestrator.engine.count_schedule import CountSchedule
from orchestrator.engine.drain_statistics import DrainStatistics
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.engine.runtime.loop import log_failure
from orchestrator.engine.runtime.rate_limiter import RateLimiter
from orchestrator.engine.runtime.wakeups import WakeupEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from random import Random

    from orchestrator.domain.decisions.transitions import Decision
    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.lease import Lease
    from orchestrator.engine.ports import Clock, Cloud, Store
    from orchestrator.engine.runtime.recent_readers import RecentReaders

T = TypeVar("T")

ACTIONS = (
    TERMINATE_JOB,
    TERMINATE_TASK_INSTANCE,
    TERMINATE_INSTANCES,
    "DescribeJob",
    "DescribeJobs",
    "DescribeTask",
    "DescribeJobSubmitInfo",
    "DescribeInstances",
)

_TROUBLE = (
    CloudErrorKind.NOT_SENT,
    CloudErrorKind.OUTCOME_UNKNOWN,
    CloudErrorKind.CREDENTIAL,
    CloudErrorKind.CLOCK_SKEW,
)
"""Failures that are the account's or the network's, not the job's."""
_LASTING = (CloudErrorKind.CREDENTIAL, CloudErrorKind.CLOCK_SKEW)
"""Of those, the ones that the next call will meet as well."""
FAILURES_THAT_ARE_TROUBLE = 3
"""So many in a row are told; one now and then is what retries are for."""

FORBIDDEN_TOLD_FOR_S = 120.0
"""How long an action that is not called any more counts as forbidden."""

TOLD_STEPS = 20

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Partition:
    """One (account, host called): under its lease, the only user of that host's quotas.

    ``quotas`` are calls a second by action.  ``count_call`` is told the action and the outcome of
    each call that was made.
    """

    lease: Lease
    cloud: Cloud
    store: Store
    clock: Clock
    random: Random
    quotas: Mapping[str, int]
    watched: RecentReaders
    poll: PollPolicy = field(default_factory=PollPolicy)
    capture: CapturePolicy = field(default_factory=CapturePolicy)
    escalation: EscalationPolicy = field(default_factory=EscalationPolicy)
    reterminate_max: int = RETERMINATE_MAX
    appears_within_s: float = APPEARS_WITHIN_S
    permitted_within_s: float = FORBIDDEN_S
    count_call: Callable[[str, str], None] = lambda _action, _outcome: None
    limiters: dict[str, RateLimiter] = field(init=False)
    _outage: ErrorDetail | None = field(init=False, default=None)
    _forbidden: dict[str, _Forbidden] = field(init=False, default_factory=dict)
    """By the name of the action's pacer."""
    proofs_wait: bool = field(init=False, default=False)
    """Whether a look at one job is due and waits for its quota."""
    captures_wait: bool = field(init=False, default=False)
    """Whether a capture is due and waits for the quota of DescribeJobSubmitInfo."""
    taken_up: int = field(init=False, default=0)
    """How often terminations that were set aside were taken up again."""
    sweep_due_at: float = field(init=False, default=0.0)
    """When the sweeper has jobs to look at (monotonic); not later than now: it may have some."""
    wakeups: WakeupEvents = field(init=False, default_factory=WakeupEvents)
    counts: CountSchedule = field(init=False, default_factory=CountSchedule)
    _stored: tuple[ErrorDetail | None, float | None] | None = field(
        init=False, default=(None, None)
    )
    """The condition that others read; None: not known, for the last write failed."""
    _logged: set[str] = field(init=False, default_factory=set)
    """Codes of the present trouble: failures that alternate are logged once each."""
    _failures: int = field(init=False, default=0)
    _finishes: deque[float] = field(init=False, default_factory=deque)
    _learning: DrainStatistics = field(init=False, default_factory=DrainStatistics)
    _informing: BestEffort = field(init=False, default_factory=BestEffort)

    def __post_init__(self) -> None:
        now = self.clock.monotonic()
        self.limiters = {
            action: RateLimiter(
                f"{action} of {self.name}",
                Quota(self.quotas[action], now=now, spread=action == TERMINATE_JOB),
                self.clock,
                self.lease,
                partial(self.count_call, action),
            )
            for action in ACTIONS
        }

    @property
    def name(self) -> str:
        return self.lease.fence.partition

    @asynccontextmanager
    async def set_aside_on_error(self, termination_id: str) -> AsyncIterator[None]:
        """Set a termination aside when what is done for it fails by a fault of its own.

        It is due first and would stay so: nothing else would ever be done.  It is logged once.  One
        whose row is locked is kept from the loops by the store.
        """
        try:
            yield
        except RowsLocked as error:
            if termination_id not in error.termination_ids:
                raise
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception as error:  # noqa: BLE001 - logged
            if await self.store.set_aside(termination_id, error):
                log_failure(error, "%s: termination %s is set aside", self.name, termination_id)

    async def together(
        self,
        items: Sequence[tuple[Termination, T]],
        work: Callable[[Sequence[tuple[Termination, T]]], Awaitable[None]],
    ) -> None:
        """Do this for all of them at once, or one by one where one of them spoils it."""
        try:
            await work(items)
        except RowsLocked as error:
            locked = error.termination_ids
            await self._one_by_one([each for each in items if each[0].id not in locked], work)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception:  # noqa: BLE001 - logged for the one that it is about
            await self._one_by_one(items, work)

    async def _one_by_one(
        self,
        items: Sequence[tuple[Termination, T]],
        work: Callable[[Sequence[tuple[Termination, T]]], Awaitable[None]],
    ) -> None:
        """One that cannot even be set aside fails after the others."""
        failed: Exception | None = None
        for row, item in items:
            try:
                async with self.set_aside_on_error(row.id):
                    await work([(row, item)])
            except (StoreUnavailable, LeaseLost):
                raise
            except Exception as error:  # noqa: BLE001 - raised
                failed = error
        if failed is not None:
            raise failed

    def policy(self) -> Policy:
        """What decisions may know now."""
        now, others = self.clock.monotonic(), None
        while self._finishes and self._finishes[0] < now - FINISH_WINDOW_S:
            self._finishes.popleft()
        with self._informing.leaving_out(f"learning how long drains of {self.name} take"):
            others = self._learning.durations(self.clock.now())
        return Policy(
            poll=self.poll,
            escalation=self.escalation,
            sweep_s=sweep_interval_s(self.poll, finishes_in_window=len(self._finishes)),
            jitter=self.random.random(),
            others=others,
            appears_within_s=self.appears_within_s,
            permitted_within_s=self.permitted_within_s,
            compares=self.capture.when is not CaptureTiming.NONE and not self.captures_wait,
        )

    async def apply_observations(self, seen: Sequence[tuple[Termination, Observation]]) -> None:
        """Write what is decided on this, in one transaction."""
        now, policy = self.clock.now(), self.policy()
        changes = [(row, decide(row, its, now, policy)) for row, its in seen]
        await self.store.apply(changes, now)
        for row, decision in changes:
            self.decided(row, decision)

    def decided(self, before: Termination, decision: Decision) -> None:
        """Wake the loops that it gives something to do, and learn when jobs end and how many."""
        if before.set_aside is not None:
            log.warning("%s: termination %s is set aside no longer", self.name, before.id)
        self.wakeups.decided(before, decision.after)
        if decision.forecast_error is not None:
            self._informing.failed(f"a forecast of {self.name}", decision.forecast_error)
        if self.counts.decided(decision.after):
            self.wakeups.looks.set()
        with self._informing.leaving_out(f"learning from drains of {self.name}"):
            self._learning.decided(decision)
        if decision.event is Event.SEEN_STOPPED:
            self._finishes.append(self.clock.monotonic())

    async def note(self, error: CloudError | None, limiter: RateLimiter) -> None:
        """Take note of a call's end (None: it worked); trouble is told when it starts and ends."""
        self._judge_permission(error, limiter)
        self._judge(error)
        await self.tell_condition()

    async def tell_condition(self) -> None:
        """Store what others are told of the trouble and the quota, where it has changed."""
        condition = (self.trouble, self._allowed_per_s())
        if condition != self._stored:
            self._stored = None
            await self.store.set_condition(*condition)
            self._stored = condition

    def _allowed_per_s(self) -> float | None:
        """The learnt rate of TerminateJob, in steps of 5 % of the configured one; None: all of it.

        It climbs all the time: without steps, each call would write it.
        """
        quota = self.limiters[TERMINATE_JOB].quota
        steps = round(quota.learnt_per_s(self.clock.monotonic()) / quota.rate_per_s * TOLD_STEPS)
        return quota.rate_per_s * steps / TOLD_STEPS if steps < TOLD_STEPS else None

    @property
    def trouble(self) -> ErrorDetail | None:
        """Why calls of the partition fail now; None: they work."""
        return self._outage or next(
            (each.problem for each in self._forbidden.values() if self._lasts(each)), None
        )

    def forbids(self, action: str) -> bool:
        """Whether the account may not call this action, as far as its last calls tell."""
        known = self._forbidden.get(self.limiters[action].name)
        return known is not None and self._lasts(known)

    def _lasts(self, forbidden: _Forbidden) -> bool:
        lately = self.clock.monotonic() - forbidden.last_at < FORBIDDEN_TOLD_FOR_S
        return lately and forbidden.in_a_row >= FAILURES_THAT_ARE_TROUBLE

    def _judge_permission(self, error: CloudError | None, limiter: RateLimiter) -> None:
        """Keep for each action how often in a row the account was not allowed to call it.

        One job alone may be forbidden, so a few in a row are no trouble of the account.
        """
        if error is None or error.kind is not CloudErrorKind.UNAUTHORIZED:
            before = self._forbidden.pop(limiter.name, None) if error is None else None
            if before is not None and before.in_a_row >= FAILURES_THAT_ARE_TROUBLE:
                log.warning("%s is allowed again", limiter.name)
            return
        known = self._forbidden.get(limiter.name)
        in_a_row = known.in_a_row + 1 if known else 1
        problem = ErrorDetail(
            code=error.code, message=f"{limiter.name}: {error.message}", advice=error.advice
        )
        self._forbidden[limiter.name] = _Forbidden(problem, in_a_row, self.clock.monotonic())
        if in_a_row == FAILURES_THAT_ARE_TROUBLE:
            log.error("%s is not allowed: %s: %s", limiter.name, error, error.advice or "")

    def _judge(self, error: CloudError | None) -> None:
        if error is None or error.kind not in _TROUBLE:
            self._failures = 0
            if self._outage is not None:
                log.warning("calls of %s work again", self.name)
                self._logged.clear()
            self._outage = None
            return
        self._failures += 1
        lasting = error.kind in _LASTING or self._failures >= FAILURES_THAT_ARE_TROUBLE
        if lasting and (self._outage is None or self._outage.code != error.code):
            if error.code not in self._logged:
                self._logged.add(error.code)
                log.error("calls of %s fail: %s: %s", self.name, error, error.advice or "")
            self._outage = ErrorDetail(code=error.code, message=error.message, advice=error.advice)


@dataclass(frozen=True, slots=True)
class _Forbidden:
    """An action that the account may not call: so often in a row, last at (monotonic)."""

    problem: ErrorDetail
    in_a_row: int
    last_at: float
