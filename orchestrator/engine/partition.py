"""State that the loops of one partition share: cloud, store, quotas, pace and health."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.decision import Policy
from orchestrator.domain.decisions.escalation import EscalationPolicy
from orchestrator.domain.decisions.revival import RETERMINATE_MAX
from orchestrator.domain.decisions.unconfirmed_ends import NOT_FOUND_AFTER_S, REFUSED_AFTER_S
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
from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming
from orchestrator.domain.model.lifecycle import Event
from orchestrator.domain.pacing.polling import FINISH_WINDOW_S, PollPolicy, batch_poll_interval_s
from orchestrator.domain.pacing.quota import Quota
from orchestrator.domain.progress.termination_forecast import with_forecast
from orchestrator.engine.count_schedule import CountSchedule
from orchestrator.engine.drain_statistics import DrainStatistics
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.engine.runtime.loop import log_failure
from orchestrator.engine.runtime.rate_limiter import RateLimiter
from orchestrator.engine.runtime.wakeups import WakeupEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from datetime import datetime
    from random import Random

    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination
    from orchestrator.engine.lease_guard import Lease
    from orchestrator.engine.ports import Clock, Cloud, Store
    from orchestrator.engine.runtime.recently_viewed import RecentlyViewed

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
"""Failures whose cause is the account or the network, not the job."""
_LASTING = (CloudErrorKind.CREDENTIAL, CloudErrorKind.CLOCK_SKEW)
"""Those of them that the next call will meet as well."""
DEGRADED_AFTER_FAILURES = 3
"""Failures in a row after which the partition counts as degraded; retries handle single ones."""

FORBIDDEN_FOR_S = 120.0
"""Time for which an action counts as forbidden after its last refused call."""

RATE_STEPS = 20
"""Steps in which the allowed rate is published: 5 % of the configured rate each."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Partition:
    """One account on one API host: while its lease holds, no other replica uses these quotas.

    ``quotas``: calls a second, by action. ``count_call`` gets the action and the outcome of each
    call that was made.
    """

    lease: Lease
    cloud: Cloud
    store: Store
    clock: Clock
    random: Random
    quotas: Mapping[str, int]
    recently_viewed: RecentlyViewed
    poll: PollPolicy = field(default_factory=PollPolicy)
    capture: CapturePolicy = field(default_factory=CapturePolicy)
    escalation: EscalationPolicy = field(default_factory=EscalationPolicy)
    reterminate_max: int = RETERMINATE_MAX
    not_found_after_s: float = NOT_FOUND_AFTER_S
    refused_after_s: float = REFUSED_AFTER_S
    count_call: Callable[[str, str], None] = lambda _action, _outcome: None
    limiters: dict[str, RateLimiter] = field(init=False)
    _outage: ErrorDetail | None = field(init=False, default=None)
    _forbidden: dict[str, _Forbidden] = field(init=False, default_factory=dict)
    """By the name of the action's rate limiter."""
    proofs_wait: bool = field(init=False, default=False)
    """True while a count that is to prove a stop is due and waits for its quota."""
    captures_lack_quota: bool = field(init=False, default=False)
    """True if a capture waited for the quota of DescribeJobSubmitInfo at the last look for them."""
    times_resumed: int = field(init=False, default=0)
    """Number of times that terminations set aside, or with locked rows, were resumed.

    After a change, loops look again for their attempts without an answer.
    """
    batch_poll_due_at: float = field(init=False, default=0.0)
    """Time of the job poller's next batch poll (monotonic); now or earlier: it may have one."""
    wakeups: WakeupEvents = field(init=False, default_factory=WakeupEvents)
    counts: CountSchedule = field(init=False, default_factory=CountSchedule)
    _published: tuple[ErrorDetail | None, float | None] | None = field(
        init=False, default=(None, None)
    )
    """The health in the store; None: not known, because the last write failed."""
    _logged: set[str] = field(init=False, default_factory=set)
    """Error codes of the current outage: failures that alternate are logged once each."""
    _failures: int = field(init=False, default=0)
    """In a row."""
    _finishes: deque[float] = field(init=False, default_factory=deque)
    """Times at which jobs read as stopped (monotonic)."""
    _drain_statistics: DrainStatistics = field(init=False, default_factory=DrainStatistics)
    _best_effort: BestEffort = field(init=False, default_factory=BestEffort)

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
        """Name of the partition, as in the configuration and the log."""
        return self.lease.fence.partition

    @asynccontextmanager
    async def set_aside_on_error(self, termination_id: str) -> AsyncIterator[None]:
        """Set a termination aside if the block fails because of it, and log that once.

        Otherwise the termination would stay the first one due, and the loop would do nothing else.
        If its row is locked by another session, the store keeps it from the loops; nothing is
        raised.
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
                log_failure(
                    error,
                    "%s: termination %s has an internal error; it is set aside and tried again "
                    "every minute; its job may still run; report this traceback",
                    self.name,
                    termination_id,
                )

    async def together(
        self,
        items: Sequence[tuple[Termination, T]],
        work: Callable[[Sequence[tuple[Termination, T]]], Awaitable[None]],
    ) -> None:
        """Do ``work`` for all items together, or one by one if it fails because of one of them."""
        try:
            await work(items)
        except RowsLocked as error:
            locked = error.termination_ids
            await self._one_by_one([each for each in items if each[0].id not in locked], work)
        except (StoreUnavailable, LeaseLost):
            raise
        except Exception:  # noqa: BLE001 - logged for the item that causes it
            await self._one_by_one(items, work)

    async def _one_by_one(
        self,
        items: Sequence[tuple[Termination, T]],
        work: Callable[[Sequence[tuple[Termination, T]]], Awaitable[None]],
    ) -> None:
        """Do ``work`` for each item; raise an error that is left only after the last item."""
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
        """Return the settings and statistics that decisions use now."""
        now = self.clock.monotonic()
        while self._finishes and self._finishes[0] < now - FINISH_WINDOW_S:
            self._finishes.popleft()
        return Policy(
            poll=self.poll,
            escalation=self.escalation,
            batch_interval_s=batch_poll_interval_s(
                self.poll, finishes_in_window=len(self._finishes)
            ),
            jitter=self.random.random(),
            not_found_after_s=self.not_found_after_s,
            refused_after_s=self.refused_after_s,
            reads_submit_info=self.capture.when is not CaptureTiming.NONE
            and not self.captures_lack_quota,
        )

    def decide(self, termination: Termination, observation: Observation, at: datetime) -> Decision:
        """Return the decision on an observation, with the forecast updated.

        A forecast that fails is left out of the decision and logged, with the history of the drain:
        without it, an escalation that is bound by the deadline comes no earlier than any other.
        """
        decision = decide(termination, observation, at, self.policy())
        after = replace(
            decision.after, drain=replace(decision.after.drain, history=None, forecast=None)
        )
        with self._best_effort.leaving_out(f"a forecast of {self.name}"):
            past_durations = self._drain_statistics.durations(at)
            after = with_forecast(termination, decision.after, at, past_durations)
        return replace(decision, after=after)

    async def apply_observations(self, seen: Sequence[tuple[Termination, Observation]]) -> None:
        """Decide on each observation, write all decisions together, and wake the loops."""
        now = self.clock.now()
        changes = [
            (termination, self.decide(termination, observation, now))
            for termination, observation in seen
        ]
        await self.store.apply(changes, now)
        for termination, decision in changes:
            self.on_decision(termination, decision)

    def on_decision(self, before: Termination, decision: Decision) -> None:
        """Wake the loops that must act on a decision; record the duration of a drain that ended."""
        if before.schedule.set_aside is not None:
            log.warning(
                "%s: termination %s of job %s goes on: it is no longer set aside",
                self.name,
                before.id,
                before.job_id,
            )
        self.wakeups.on_decision(before, decision.after)
        if self.counts.on_decision(decision.after):
            self.wakeups.single_polls.set()
        with self._best_effort.leaving_out(f"recording drain durations of {self.name}"):
            self._drain_statistics.on_decision(decision)
        if decision.event is Event.SEEN_STOPPED:
            self._finishes.append(self.clock.monotonic())

    async def record_result(self, error: CloudError | None, limiter: RateLimiter) -> None:
        """Update and publish the health after an API call (``error`` None: the call worked).

        The start and the end of an outage are logged.
        """
        self._update_permission(error, limiter)
        self._update_health(error)
        await self.publish_health()

    async def publish_health(self) -> None:
        """Store the trouble and the allowed rate for every replica to report, if they changed."""
        health = (self.trouble, self._allowed_per_s())
        if health != self._published:
            self._published = None
            await self.store.set_health(*health)
            self._published = health

    @property
    def health_settled(self) -> bool:
        """True if the stored health is the present one, and only a call could change it."""
        health = (self._outage, None)
        return self._published == health == (self.trouble, self._allowed_per_s())

    def _allowed_per_s(self) -> float | None:
        """Return the TerminateJob rate that the cloud accepts, rounded to 1 of RATE_STEPS.

        None: the configured rate. The rate rises continuously; without the rounding, every call
        would write it.
        """
        quota = self.limiters[TERMINATE_JOB].quota
        steps = round(quota.allowed_per_s(self.clock.monotonic()) / quota.rate_per_s * RATE_STEPS)
        return quota.rate_per_s * steps / RATE_STEPS if steps < RATE_STEPS else None

    @property
    def trouble(self) -> ErrorDetail | None:
        """Reason why calls of the partition fail now; None: they work."""
        return self._outage or next(
            (each.problem for each in self._forbidden.values() if self._is_current(each)), None
        )

    def forbids(self, action: str) -> bool:
        """Return whether the last calls of this action were refused for lack of permission."""
        known = self._forbidden.get(self.limiters[action].name)
        return known is not None and self._is_current(known)

    def _is_current(self, forbidden: _Forbidden) -> bool:
        recent = self.clock.monotonic() - forbidden.last_at < FORBIDDEN_FOR_S
        return recent and forbidden.in_a_row >= DEGRADED_AFTER_FAILURES

    def _update_permission(self, error: CloudError | None, limiter: RateLimiter) -> None:
        """Count for each action the refusals in a row for lack of permission.

        Permission may be missing for a single job, so a few refusals do not degrade the account.
        """
        if error is None or error.kind is not CloudErrorKind.UNAUTHORIZED:
            before = self._forbidden.pop(limiter.name, None) if error is None else None
            if before is not None and before.in_a_row >= DEGRADED_AFTER_FAILURES:
                log.warning("%s is allowed again", limiter.name)
            return
        known = self._forbidden.get(limiter.name)
        in_a_row = known.in_a_row + 1 if known else 1
        problem = ErrorDetail(
            code=error.code, message=f"{limiter.name}: {error.message}", advice=error.advice
        )
        self._forbidden[limiter.name] = _Forbidden(problem, in_a_row, self.clock.monotonic())
        if in_a_row == DEGRADED_AFTER_FAILURES:
            log.error("%s is not allowed: %s", limiter.name, error.with_advice)

    def _update_health(self, error: CloudError | None) -> None:
        if error is None or error.kind not in _TROUBLE:
            self._failures = 0
            if self._outage is not None:
                log.warning("API calls of %s work again", self.name)
                self._logged.clear()
            self._outage = None
            return
        self._failures += 1
        lasting = error.kind in _LASTING or self._failures >= DEGRADED_AFTER_FAILURES
        if lasting and (self._outage is None or self._outage.code != error.code):
            if error.code not in self._logged:
                self._logged.add(error.code)
                log.error("API calls of %s fail: %s", self.name, error.with_advice)
            self._outage = ErrorDetail(code=error.code, message=error.message, advice=error.advice)


@dataclass(frozen=True, slots=True)
class _Forbidden:
    """Refusals in a row of an action that the account may not call, the last one at (monotonic)."""

    problem: ErrorDetail
    in_a_row: int
    last_at: float
