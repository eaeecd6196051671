"""One job: the effect of TerminateJob and TerminateTaskInstance, and its state at a time.

The transitions are those of cloud.tencent.com/document/api/599/15908 and 599/15911. The ``now`` of
successive method calls must not go back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.cloud.instance_ranges import (
    FINISHED,
    STATES,
    WAITING,
    ExitSchedule,
    InstanceRange,
    RangeView,
    drain,
    mark_tail,
    replace_range,
)
from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.simulator.cloud.job_spec import JobSpec

AGE_S: Final = 600.0
"""Age of a job that is added in a state after SUBMITTED."""
TERMINATING_S: Final = 5.0
"""Time from TerminateInstances until the machine is gone."""
TASK_STATE_ORDER: Final = (
    "RUNNING",
    "STARTING",
    "FAILED_INTERRUPTED",
    "RUNNABLE",
    "PENDING",
    "SUBMITTED",
    "FAILED",
    "SUCCEED",
)
"""The state of a task is the first of these states that one of its instances has."""


class Job:
    """A job that was added to the simulator at ``added_at``."""

    def __init__(self, spec: JobSpec, *, added_at: float, first_machine: int) -> None:
        self.spec = spec
        self.first_machine = first_machine
        """Number of its first machine; see ``machines``."""
        self.submitted = spec.state == "SUBMITTED"
        self.created_at = added_at if self.submitted else added_at - AGE_S
        self.terminated_at: float | None = None
        """Arrival time of the TerminateJob that stops this run of the job."""
        self.revived_at: float | None = None
        self.terminations_accepted = 0
        self.terminations_acted = 0
        self.instance_terminations = 0
        self._added_at = added_at
        self._ended_by_itself = False
        self._reads_failed_at = self._initial_end_time() if spec.state == "FAILED" else None
        self._live_state = spec.state
        self._counted_before: list[InstanceRange] = []
        """The instances at the time when the last TerminateJob took effect."""
        self.runs = [self._first_ranges()]
        """The instances of each run: the first, and one more after each revival."""

    def advance(self, now: float) -> None:
        """Apply the job's own events up to ``now``: start, end, revival, relapse."""
        spec = self.spec
        if self.submitted and spec.submitted_s is not None:
            starts_at = self._added_at + spec.submitted_s
            if now >= starts_at:
                self._start()
        ending = self._own_ending()
        if ending is not None and now >= ending.first_at:
            self._ended_by_itself = True
            self.runs[-1] = [
                span if span.ending else replace(span, ending=ending) for span in self.runs[-1]
            ]
        self._revive_if_due(now)
        self._relapse_if_due(now)

    def terminate(self, now: float) -> None:
        """Execute TerminateJob; raise ``ApiError`` if it is refused."""
        spec = self.spec
        if spec.refuse is not None:
            raise ApiError(spec.refuse, "The operation is refused.")
        if spec.env_id is not None and spec.refuse_env:
            raise _env_refused()
        if self.submitted:
            raise ApiError(spec.submitted_code, "The job is in the state `SUBMITTED`.")
        if self.terminating(now) and spec.again == "in_use":
            raise ApiError("ResourceInUse.Job", "The job is in use.")
        self.terminations_accepted += 1
        if not self.live(now) or self.terminating(now):
            return
        self.terminations_acted += 1
        self.terminated_at = now
        self._counted_before = self.runs[-1]
        self.runs[-1] = drain(self.runs[-1], now=now, drain_s=spec.drain_s, stuck=spec.stuck)
        if spec.failed_early_s and self._reads_failed_at is None:
            self._reads_failed_at = max(now, self._last_ending_at(now) - spec.failed_early_s)

    def terminate_instance(self, index: int, now: float) -> None:
        """Execute TerminateTaskInstance for an index that runs over all tasks of the job."""
        if self.spec.env_id is not None and self.spec.refuse_env:
            raise _env_refused()
        self.instance_terminations += 1
        part = next(part for part in self.parts(now, index, index + 1) if part.count)
        if part.state in FINISHED or part.span.unkillable:
            return
        stopped_at = now if part.state in WAITING else now + self.spec.instance_drain_s
        planned_at = part.span.ended_at(index)
        if planned_at is not None:
            stopped_at = min(stopped_at, planned_at)
        piece = part.span.cut(index, index + 1)
        self.runs[-1] = replace_range(
            self.runs[-1], replace(piece, ending=ExitSchedule("FAILED", stopped_at))
        )

    def terminate_machine(self, run: int, index: int, now: float) -> None:
        """Execute TerminateInstances for a machine; its instance ends with it at the latest."""
        gone_at = now + TERMINATING_S
        span = next(one for one in self.runs[run] if one.first <= index < one.end)
        piece = span.cut(index, index + 1)
        if piece.ending is None or piece.ending.first_at > gone_at:
            piece = replace(piece, ending=ExitSchedule("FAILED", gone_at))
        self.runs[run] = replace_range(self.runs[run], replace(piece, released_at=gone_at))

    def parts(self, now: float, first: int, end: int) -> list[RangeView]:
        """Return the instances with the indices ``first`` to ``end`` - 1 at ``now``, in order."""
        return _parts(self.runs[-1], now, first, end)

    def counts(self, now: float, first: int, end: int) -> dict[str, int]:
        """Return the number of instances in each of the eight states."""
        return _counts(self.parts(now, first, end))

    def shown_counts(self, now: float, first: int, end: int) -> dict[str, int]:
        """Return the counts of TaskInstanceMetrics, which can be wrong after a TerminateJob."""
        return self._limited(self._metrics(now, first, end))

    def _metrics(self, now: float, first: int, end: int) -> dict[str, int]:
        counts = self.counts(now, first, end)
        if self.spec.counters == "none":
            return dict.fromkeys(STATES, 0)
        if self.terminated_at is None:
            return counts
        if now < self.terminated_at + self.spec.lying_counters_s:
            succeeded = counts["SUCCEED"]
            wrong = {"SUCCEED": succeeded, "FAILED": sum(counts.values()) - succeeded}
            return dict.fromkeys(STATES, 0) | wrong
        if self.spec.counters == "stale":
            return _counts(_parts(self._counted_before, self.terminated_at, first, end))
        return counts if self.spec.counters == "true" else dict.fromkeys(STATES, 0)

    def _limited(self, counts: dict[str, int]) -> dict[str, int]:
        left = self.spec.counted_max
        if left is None:
            return counts
        for state in ("FAILED", "SUCCEED", *(each for each in STATES if each not in FINISHED)):
            counts[state] = min(counts[state], left)
            left -= counts[state]
        return counts

    def live(self, now: float) -> int:
        """Return the number of instances that have not ended."""
        counts = self.counts(now, 0, self.spec.instances)
        return sum(count for state, count in counts.items() if state not in FINISHED)

    def terminating(self, now: float) -> bool:
        return self.terminated_at is not None and self.live(now) > 0

    def next_action(self, now: float) -> str:
        """Return the NextAction of DescribeJob."""
        if self.spec.next_action is not None:
            return self.spec.next_action
        hidden = self.spec.next_action_hidden or not self.terminating(now)
        return "" if hidden else "TERMINATING"

    def state(self, now: float) -> str:
        """Return JobState, which does not summarise the instances while some are live."""
        counts = self.counts(now, 0, self.spec.instances)
        if counts["SUCCEED"] == self.spec.instances:
            return "SUCCEED"
        if counts["SUCCEED"] + counts["FAILED"] == self.spec.instances:
            return "FAILED"
        if self._reads_failed_at is not None and now >= self._reads_failed_at:
            return "FAILED"
        return self._live_state

    def shown_state(self, now: float) -> str:
        """Return JobState as the API shows it; it can be a word that no vendor page has."""
        state = self.state(now)
        if state in FINISHED:
            return self.spec.finished_word or state
        return state if state == "SUBMITTED" else self.spec.live_word or state

    def task_range(self, task: int) -> tuple[int, int]:
        """Return the indices of a task's instances, over all tasks: first, and last + 1."""
        each, more = divmod(self.spec.instances, self.spec.tasks)
        first = task * each + min(task, more)
        return first, first + each + (task < more)

    def task_state(self, task: int, now: float) -> str:
        counts = self.counts(now, *self.task_range(task))
        return next(state for state in TASK_STATE_ORDER if counts[state])

    def stopped_at(self, now: float, first: int, end: int) -> float | None:
        """Return when the last of these instances ended; None while one is live."""
        parts = self.parts(now, first, end)
        if any(part.state not in FINISHED for part in parts):
            return None
        return max(part.span.ended_at(part.end - 1) or 0.0 for part in parts)

    def end_time(self, now: float) -> float | None:
        """Return EndTime as the API shows it; None while JobState is not a finished state."""
        if self.state(now) not in FINISHED:
            return None
        if self._reads_failed_at is not None:
            return self._reads_failed_at
        return self.stopped_at(now, 0, self.spec.instances)

    def vanished_at(self, now: float) -> float | None:
        """Return when another actor deleted the job; None while it exists."""
        stopped_at = self.stopped_at(now, 0, self.spec.instances)
        if stopped_at is None or self.spec.vanish_after_s is None:
            return None
        vanished_at = max(self._added_at, stopped_at) + self.spec.vanish_after_s
        return vanished_at if now >= vanished_at else None

    def hidden(self, now: float) -> bool:
        """Return whether API calls do not find the job although it exists."""
        since = self._added_at + self.spec.hidden_after_s
        return since <= now < since + self.spec.hidden_s

    def forbidden(self, now: float) -> bool:
        """Return whether API calls that name the job are refused for lack of permission."""
        return self.spec.forbidden or now < self._added_at + self.spec.forbidden_s

    def _initial_end_time(self) -> float:
        return self._added_at - AGE_S / 2

    def _last_ending_at(self, now: float) -> float:
        endings = (span.last_ended_at() for span in self.runs[-1])
        return max((ended_at for ended_at in endings if ended_at is not None), default=now)

    def _first_ranges(self) -> list[InstanceRange]:
        if self.submitted:
            return [InstanceRange(0, self.spec.instances, "SUBMITTED")]
        return self._mixed(self.spec.state, self.spec.mix)

    def _mixed(self, state: str, mix: Mapping[str, float]) -> list[InstanceRange]:
        spans = []
        for task in range(self.spec.tasks):
            first, end = self.task_range(task)
            size = end - first
            for other, share in mix.items():
                count = min(round(size * share), end - first)
                spans.append(self._range_in_state(first, count, other))
                first += count
            spans.append(self._range_in_state(first, end - first, state))
        filled = [span for span in spans if span.count]
        marked = mark_tail(filled, self.spec.immortal, lambda last: replace(last, unkillable=True))
        return mark_tail(
            marked, self.spec.machines_stay, lambda last: replace(last, machine_stays=True)
        )

    def _range_in_state(self, first: int, count: int, state: str) -> InstanceRange:
        if state in FINISHED:
            return InstanceRange(
                first, count, "RUNNING", ExitSchedule(state, self._initial_end_time())
            )
        return InstanceRange(first, count, state)

    def _start(self) -> None:
        self.submitted = False
        self._live_state = "RUNNING"
        ended = [span for span in self.runs[-1] if span.ending]
        self.runs[-1] = self._mixed("RUNNING", self.spec.mix)
        for span in ended:
            self.runs[-1] = replace_range(self.runs[-1], span)

    def _own_ending(self) -> ExitSchedule | None:
        if self._ended_by_itself or self.terminated_at is not None or self.submitted:
            return None
        starts_at = self._added_at + (self.spec.submitted_s or 0.0)
        if self.spec.succeeds_after_s is not None:
            return ExitSchedule("SUCCEED", starts_at + self.spec.succeeds_after_s)
        if self.spec.fails_after_s is not None:
            return ExitSchedule("FAILED", starts_at + self.spec.fails_after_s)
        return None

    def _revive_if_due(self, now: float) -> None:
        """Apply a RetryJobs of another actor: a FAILED job runs again with every instance."""
        after_s = self.spec.revive_after_s
        if after_s is None or len(self.runs) > self.spec.revivals:
            return
        stopped_at = self.stopped_at(now, 0, self.spec.instances)
        if stopped_at is None:
            return
        revived_at = max(self._added_at, stopped_at) + after_s
        if now < revived_at or self.state(now) != "FAILED":
            return
        self.revived_at = revived_at
        self.terminated_at = None
        self._ended_by_itself = True
        self._reads_failed_at = None
        self._live_state = self.spec.revived_state
        self.runs.append(self._mixed(self.spec.revived_state, {}))

    def _relapse_if_due(self, now: float) -> None:
        """Let instances of a finished job run again, visible only in the instances."""
        after_s = self.spec.relapse_after_s
        if after_s is None or self.revived_at is not None or self.state(now) != "FAILED":
            return
        stopped_at = self.stopped_at(now, 0, self.spec.instances)
        if stopped_at is None or now < max(self._added_at, stopped_at) + after_s:
            return
        self._reads_failed_at = self.end_time(now)
        self.revived_at = max(self._added_at, stopped_at) + after_s
        self.terminated_at = None
        ended = InstanceRange(0, self.spec.instances, "RUNNING", ExitSchedule("FAILED", stopped_at))
        first = max(0, self.spec.instances - self.spec.relapse)
        live = InstanceRange(first, self.spec.instances - first, "RUNNING")
        self.runs.append(replace_range([ended], live))


def _parts(spans: Iterable[InstanceRange], now: float, first: int, end: int) -> list[RangeView]:
    parts = (part for span in spans for part in span.parts(now))
    clipped = (part.within(first, end) for part in parts)
    return [part for part in clipped if part.count]


def _counts(parts: Iterable[RangeView]) -> dict[str, int]:
    counts = dict.fromkeys(STATES, 0)
    for part in parts:
        counts[part.state] += part.count
    return counts


def _env_refused() -> ApiError:
    return ApiError(
        "UnsupportedOperation.TerminateOperationWithEnvId",
        "Jobs in a given compute environment do not support this operation.",
    )
