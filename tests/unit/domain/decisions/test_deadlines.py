"""All escalation levels fit into the deadline, however short it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.decisions.escalation import (
    COUNTED_EVERY_S,
    EscalationPolicy,
    count_due_at,
    going_on,
    next_level,
)
from orchestrator.domain.forecasting.drain_history import begin, observe
from orchestrator.domain.model.batch_job import InstanceCounters, JobState
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import CallAcknowledged, CallStarted
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.progress.termination_forecast import with_forecast
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import NOW, POLICY, later, read, termination

if TYPE_CHECKING:
    from datetime import datetime

    from orchestrator.domain.forecasting.drain_history import DrainHistory
    from orchestrator.domain.model.batch_job import JobSeen
    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination

DAY_S = 86400.0
LEVELS_THAT_FIT = 4
"""Number of levels before the last one that get their time, however short the deadline."""


@dataclass
class Drain:
    """A job that was terminated at NOW and is polled as if no client watches it."""

    give_up_after_s: float
    policy: EscalationPolicy
    state: JobState
    next_action: str
    live: int
    moves_at_s: float = 0.0
    """Until then one more instance is live; 0: no instance ever stops."""
    lag_s: float = 0.0
    """Delay of every poll."""
    levels: list[tuple[float, EscalationLevel]] = field(default_factory=list)
    calls_s: list[float] = field(default_factory=list)
    """Times at which TerminateJob was repeated."""
    history: DrainHistory | None = None

    def run(self) -> None:
        """Poll until manual action is required, and record the start of each level."""
        sent = termination(
            State.SENDING,
            give_up_after_s=self.give_up_after_s,
            give_up_at=later(self.give_up_after_s),
            first_sent_at=NOW,
            run=1,
            job_state=JobState.RUNNING,
        )
        now, known = NOW, self._decide(sent, CallAcknowledged("r-1"), NOW)
        while known.escalation.level is not EscalationLevel.MANUAL:
            assert not known.state.final, "it ended before manual action was required"
            now = max(now, self._counted_at(known)) + timedelta(seconds=self.lag_s)
            known = with_fields(known, escalation_finished_at=now) if going_on(known) else known
            known = self._decide(known, self._count(now), now)
            if known.schedule.terminate_after is not None:
                self.calls_s.append((now - NOW).total_seconds())
                known = self._decide(known, CallStarted(), now)
                known = self._decide(known, CallAcknowledged("r-2"), now)

    def _counted_at(self, known: Termination) -> datetime:
        """Return when its counters are read next; polls that show only its state change nothing."""
        if known.schedule.poll_kind is PollKind.SINGLE and known.schedule.next_poll_at is not None:
            return known.schedule.next_poll_at
        long_ago = (known.drain.counted_at or NOW) + timedelta(seconds=COUNTED_EVERY_S)
        return count_due_at(known) or long_ago

    def _count(self, now: datetime) -> JobSeen:
        live = self.live + (now < later(self.moves_at_s))
        counted = InstanceCounters(running=live, failed=10 - live)
        return read(self.state, counted, next_action=self.next_action, at=now)

    def _decide(self, known: Termination, seen: Observation, now: datetime) -> Termination:
        # A job that reads FAILED is polled every second: in a day, that is often enough for less.
        poll = replace(POLICY.poll, recount_min_interval_s=max(0.5, self.give_up_after_s / 1000))
        policy = replace(POLICY, escalation=self.policy, poll=poll)
        decision = decide(known, seen, now, policy)
        after = with_forecast(known, decision.after, now, None)
        self.history = after.drain.history
        if decision.event is Event.ESCALATED:
            self.levels.append(((now - NOW).total_seconds(), after.escalation.level))
        return after


POLICIES = st.builds(
    EscalationPolicy,
    after_s=st.floats(0.1, DAY_S),
    rounds_max=st.integers(0, 20),
    machines=st.booleans(),
)
DRAINS = st.builds(
    Drain,
    give_up_after_s=st.floats(10, DAY_S),
    policy=POLICIES,
    state=st.sampled_from([JobState.RUNNING, JobState.FAILED]),
    next_action=st.sampled_from(["", "TERMINATING"]),
    live=st.integers(1, 9),
)


@settings(max_examples=50, deadline=None)
@given(DRAINS, st.floats(0, 0.3), st.floats(0, 0.01))
def test_all_levels_fit_into_the_deadline(drain: Drain, moves: float, lag: float) -> None:
    """The first begins within a third of it after the last progress, all within two thirds."""
    deadline_s, policy = drain.give_up_after_s, drain.policy
    drain.moves_at_s, drain.lag_s = moves * deadline_s, min(lag * deadline_s, 5.0)
    drain.run()
    levels = [escalation_level for _, escalation_level in drain.levels]
    assert levels[-1] is EscalationLevel.MANUAL
    assert levels.count(EscalationLevel.MANUAL) == 1
    assert levels.count(EscalationLevel.MACHINES) == policy.machines
    assert drain.history is not None
    last_move_s = drain.history.last_progress_at - NOW.timestamp()
    first_s, last_s = drain.levels[0][0], drain.levels[-1][0]
    assert first_s <= last_move_s + deadline_s / 3
    assert last_s <= last_move_s + deadline_s * 2 / 3
    rounds = levels.count(EscalationLevel.INSTANCES)
    assert rounds >= min(policy.rounds_max, LEVELS_THAT_FIT - policy.machines)
    untouched = drain.state is JobState.RUNNING and not drain.next_action
    if untouched and not drain.moves_at_s:
        assert drain.calls_s[0] < first_s, "TerminateJob is repeated first"


@given(
    st.floats(6 * 3600.0, 30 * DAY_S),
    st.floats(0, 5000),
    st.floats(0, 7000),
    st.integers(1, 9),
    st.sampled_from([EscalationLevel.NONE, EscalationLevel.INSTANCES]),
)
def test_long_deadlines_hurry_nothing(
    deadline_s: float,
    moved_s: float,
    stalled_for_s: float,
    live: int,
    escalation_level: EscalationLevel,
) -> None:
    """From the default deadline on, only the times of progress and stall decide on escalation."""
    history = observe(begin(NOW, 10), later(moved_s), live)
    known = termination(
        State.DRAINING,
        give_up_after_s=deadline_s,
        acknowledged_at=NOW,
        instances=InstanceCounters(running=live, failed=10 - live),
        last_progress_at=later(moved_s),
        escalation_level=escalation_level,
        escalation_round=int(escalation_level is EscalationLevel.INSTANCES),
        escalation_started_at=NOW,
        escalation_finished_at=later(1),
    )
    assert count_due_at(known) is None
    asked = later(moved_s + stalled_for_s), EscalationPolicy()
    assert next_level(with_fields(known, history=history), *asked) is next_level(known, *asked)
