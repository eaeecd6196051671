"""The truth about each job, what could be known of it, and whether the engine said exactly that.

The simulator is read, never the engine.  Ten times a second, and whenever the engine writes, each
job is sampled: what the cloud shows of it, and what is true.  From these two follows

- what is TRUE: no evidence may ever be written that is above it (:meth:`Truth.after_commit`);
- what COULD BE KNOWN (:class:`Observer`) by the calls that the engine may make: how the termination
  must end, with which evidence, and not before when.  Nothing may be given up with instances live
  that a call would have stopped (:func:`hopeless`).

Levels mean what ``domain.decisions.evidence`` says.  Trusted is what DESIGN.md has each level rest
on: JobState, the instance counters and NextAction for "no instance is live", DescribeTask before
TerminateJob and DescribeInstances for "the machines are gone".  Where one of the three shows a live
instance, the job may not be called stopped; where all three show it stopped and it is not, no
reader could know better, and the evidence of level 3 is counted as ``deceived`` and is no
violation. No answer proves that machines are gone: level 4 is checked against the truth.

A machine could be known if DescribeTask showed it as TerminateJob arrived.  An instance that still
waits for one then might be given one that no call shows, and one that is STARTING may hide its own:
then not every machine is known, and 3 is the highest.  The same holds for nodes, which stay.

No reader polls all the time.  So what could be known is computed twice: for a reader that sees
everything at once, and for a reader that sees only what was true for ``patience_s``.  Where both
arrive at the same end, and without faults they nearly always do, it is the only right one: the
termination is checked ``exactly``.  Otherwise (a job ends by itself as it is called; more than a
hundred instances are read along with TerminateJob and not before it) it must lie between the two.
In a seed with faults no machine is surely captured, and a termination of which a TerminateJob was
lost, or its answer, is checked against the truth alone, as is one whose two ends differ.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile
from typing import TYPE_CHECKING, Final

from orchestrator.domain.decisions.evidence import (
    ACKNOWLEDGED,
    JOB_FINISHED,
    MACHINES_GONE,
    NO_INSTANCE_LIVE,
    READ_AGAIN,
)
from orchestrator.domain.model.lifecycle import State
from orchestrator.simulator.cloud.instance_ranges import FINISHED, OCCUPYING
from orchestrator.simulator.cloud.machines import is_hidden, machines, machines_of
from tests.simulation.checkers import HARMLESS, STOPPED, Checkers
from tests.simulation.world import HASTY, SOON_S

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from orchestrator.simulator.cloud.instance_ranges import InstanceRange
    from orchestrator.simulator.cloud.job import Job
    from orchestrator.simulator.simulator import Call, Simulator
    from tests.simulation.world import SimulatedWorld

EVERY_S: Final = 0.1
"""Time between two samples."""
PAGE: Final = 1000
BEFORE_MAX: Final = 100
"""Instances of a job whose machines are captured before TerminateJob in any case."""
WAYS_S: Final = 0.3
"""Time from when an answer leaves the cloud until the next call that rests on it may arrive."""
READS_APART_S: Final = 0.7
"""Limit of the time by which the first and last read of a settle window may arrive closer."""
EARLY_S: Final = 0.7
"""Time by which a termination may end before a reader that sees everything at once ends it."""
EXACTLY: Final = "judged exactly"
BETWEEN: Final = "judged to lie between two ends"
TRUE_ALONE: Final = "judged by what is true alone"
JUDGED: Final = (EXACTLY, BETWEEN, TRUE_ALONE)
DECEIVED: Final = "deceived"
REFUSAL: Final = "UnsupportedOperation.TerminateOperationWithEnvId"
CONFIRMED_S: Final = SOON_S
"""Time for which a job must be missing, or forbidden, until that counts."""
JUST_BEFORE_S: Final = 1e-3


class Shown(StrEnum):
    """What the cloud shows of a job."""

    FORBIDDEN = "forbidden"
    MISSING = "missing"
    SUBMITTED = "submitted"
    LIVE = "live"
    FINISHED = "finished"
    """JobState is final; its counters, or NextAction, do not say that all have stopped."""
    EMPTY = "empty"
    """JobState is SUCCEED, and no instance is counted."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One job at one moment; ``live`` and ``machines`` are the truth, whatever is shown."""

    at: float
    shown: Shown
    live: int = 0
    machines: int = 0
    """Machines of all runs that exist and are not being destroyed."""
    known_machines: int = 0
    """Those of these that DescribeTask showed as TerminateJob arrived."""
    all_known: bool = False
    """Whether these were all that the run called last had then, and it had some."""
    all_were_known: bool = False
    """The same at the moment before it ended by itself, where it was called only after that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The request to the engine, and whether the seed has faults."""

    settle_s: float
    give_up_after_s: float
    faulty: bool

    @property
    def patience_s(self) -> float:
        """Return for how long something must be shown until every reader has seen it."""
        return 12.0 if self.faulty else 2.5

    @property
    def lag_s(self) -> float:
        """Return the longest time from when something was true until it is written."""
        return 8.0 if self.faulty else 0.5


@dataclass(frozen=True, slots=True)
class End:
    state: State
    evidence: int

    def __str__(self) -> str:
        return f"{self.state} with {self.evidence}"


# --- what is so ----------------------------------------------------------------------------------


def shown(job: Job, now: float) -> Shown:
    if job.vanished_at(now) is not None or job.hidden(now):
        return Shown.MISSING
    if job.forbidden(now):
        return Shown.FORBIDDEN
    state = job.state(now)
    if state not in FINISHED:
        return Shown.SUBMITTED if state == "SUBMITTED" else Shown.LIVE
    counts = job.shown_counts(now, 0, job.spec.instances)
    ended = sum(counts[state] for state in FINISHED)
    terminating = job.next_action(now) == "TERMINATING"
    if ended == sum(counts.values()) == job.spec.instances and not terminating:
        return Shown.STOPPED
    if state == "SUCCEED" and not any(counts.values()):
        return Shown.EMPTY
    # A state that is not documented proves nothing: only the counters do.
    return Shown.LIVE if job.spec.finished_word else Shown.FINISHED


def live_before(job: Job, run: int, at: float) -> list[InstanceRange]:
    """Return the instances of a run that had not ended just before ``at``."""
    left = []
    for span in job.runs[run]:
        ended = 0
        if span.ending is not None:
            ended = span.ending.reached(at - JUST_BEFORE_S, span.count)
        if ended < span.count:
            left.append(span.cut(span.first + ended, span.end))
    return left


def nameable(job: Job, spans: Sequence[InstanceRange]) -> list[InstanceRange]:
    """Return those whose machines DescribeTask shows, and that are the job's own."""
    return [
        span
        for span in spans
        if span.state in OCCUPYING
        and not is_hidden(job.spec, span.state)
        and job.spec.env_id is None
    ]


def hopeless(job: Job, now: float) -> bool:
    """Return whether no call that may be made stops what is live."""
    return job.submitted or all(
        part.state in FINISHED or part.span.unkillable or part.span.ending is not None
        for part in job.parts(now, 0, job.spec.instances)
    )


# --- what could be known -------------------------------------------------------------------------


class Observer:
    """Derives the lifecycle's end for what is shown, seen at once or only if it lasts."""

    def __init__(self, bounds: Bounds, *, patience_s: float) -> None:
        self.end: End | None = None
        self.ended_at = 0.0
        self._deadline: float | None = None
        self._bounds, self._patience_s = bounds, patience_s
        self._shown: Shown | None = None
        self._shown_since = 0.0
        self._seen: Shown | None = None
        self._machine_at = -math.inf
        self._level = 0
        self._stopped_since: float | None = None

    def see(self, sample: Sample, calls: Sequence[Call], *, captured: bool, left: bool) -> None:
        """Apply a sample; ``calls`` are the TerminateJob calls examined so far.

        ``captured``: whether the machines of the run called last could be read in time.  ``left``:
        whether a call may have left for the cloud, with any outcome.
        """
        if self._deadline is None and left:
            self._deadline = sample.at + self._bounds.give_up_after_s
        if self._shown is None:
            # The first read sees what was true before the request.
            self._seen = sample.shown
        if sample.shown is not self._shown:
            self._shown, self._shown_since = sample.shown, sample.at
        if sample.at - self._shown_since >= self._patience_s:
            self._seen = sample.shown
        if sample.known_machines:
            self._machine_at = sample.at
        if self._seen is not None and self.end is None:
            all_known = sample.all_known or (sample.all_were_known and not self._patience_s)
            self.end = self._concluded(
                sample.at, self._seen, calls, all_known=captured and all_known
            )
            self.ended_at = sample.at

    def _concluded(
        self, now: float, seen: Shown, calls: Sequence[Call], *, all_known: bool
    ) -> End | None:
        if self._deadline is None and seen is Shown.SUBMITTED:
            self._deadline = now + self._bounds.give_up_after_s
        if not any(call.code == "OK" for call in calls):
            return self._not_called(now, seen, calls)
        match seen:
            case Shown.STOPPED:
                self._level = NO_INSTANCE_LIVE
                self._stopped_since = self._stopped_since or now
            case Shown.FINISHED | Shown.EMPTY:
                self._level, self._stopped_since = JOB_FINISHED, None
            case Shown.MISSING:
                self._level = max(self._level, ACKNOWLEDGED)
            case _:
                self._level, self._stopped_since = ACKNOWLEDGED, None
        missing = seen is Shown.MISSING
        if missing and not self._lasts(now):
            return self._late(now) if self._stopped_since is None else None
        if self._stopped_since is not None:
            return self._stopped(now, self._stopped_since, deleted=missing, all_known=all_known)
        return End(State.NOT_FOUND, self._level) if missing else self._late(now)

    def _lasts(self, now: float) -> bool:
        """Return whether what is shown has lasted for as long as it takes to count."""
        return now - self._shown_since >= CONFIRMED_S

    def _not_called(self, now: float, seen: Shown, calls: Sequence[Call]) -> End | None:
        if any(call.code == REFUSAL for call in calls):
            return End(State.REFUSED, 0)
        if seen in (Shown.FORBIDDEN, Shown.MISSING) and self._lasts(now):
            return End(State.REFUSED if seen is Shown.FORBIDDEN else State.NOT_FOUND, 0)
        if seen is Shown.EMPTY:
            return End(State.ALREADY_FINISHED, JOB_FINISHED)
        if seen is Shown.STOPPED:
            return End(State.ALREADY_FINISHED, NO_INSTANCE_LIVE)
        return self._late(now)

    def _late(self, now: float) -> End | None:
        late = self._deadline is not None and now >= self._deadline
        return End(State.UNVERIFIED, self._level) if late else None

    def _stopped(self, now: float, since: float, *, deleted: bool, all_known: bool) -> End | None:
        settle_s, give_up_after_s = self._bounds.settle_s, self._bounds.give_up_after_s
        if now - since < settle_s and not deleted:
            return None
        if now - self._machine_at > self._patience_s:
            gone = MACHINES_GONE if deleted else READ_AGAIN
            return End(State.VERIFIED, gone if all_known else NO_INSTANCE_LIVE)
        late = now - since >= settle_s + give_up_after_s
        return End(State.UNVERIFIED, NO_INSTANCE_LIVE) if late else None


class Story:
    """The truth about one job, from the time of its request."""

    def __init__(
        self, kind: str, cloud: Simulator, region: str, job_id: str, bounds: Bounds
    ) -> None:
        self.kind, self.region, self.job_id = kind, region, job_id
        self.job = cloud._jobs.get(job_id)
        self.samples: list[Sample] = []
        self.left = 0
        """How often TerminateJob left for the cloud."""
        self.may_have_left = False
        """Whether TerminateJob has left, or was stored as sent by a replica stopped by a fault.

        In both cases the deadline counts from that time."""
        self.calls: list[Call] = []
        """TerminateJob calls, as they arrived."""
        self.reads: list[Call] = []
        """DescribeTask calls."""
        self.began: dict[int, float] = {}
        """When each run was first sampled."""
        self.called: dict[int, float] = {}
        """When the first TerminateJob of each run was carried out."""
        self.claimed = 0
        self.left_up = False
        """Whether it was given up with instances live that a call would have stopped."""
        self.end: End | None = None
        self.ended_at = 0.0
        self._cloud, self._bounds = cloud, bounds
        self._began_at = cloud.now()
        self.at_once = Observer(bounds, patience_s=0.0)
        self.patient = Observer(bounds, patience_s=bounds.patience_s)

    def arrived(self, call: Call) -> None:
        if call.action == "DescribeTask":
            self.reads.append(call)
        elif call.action == "TerminateJob" and call.code:
            self.calls.append(call)
            if self.job is not None and call.code == "OK":
                self.called.setdefault(len(self.job.runs) - 1, call.at)
        self.sample()

    def sample(self) -> None:
        now = self._cloud.now()
        seen = Sample(at=now, shown=Shown.MISSING)
        if self.job is not None:
            seen = self._sampled(self.job, now)
        self.samples.append(seen)
        left = self.may_have_left
        self.at_once.see(seen, self.calls, captured=self._captured(surely=False), left=left)
        if self._bounds.faulty:
            seen = replace(seen, known_machines=0, all_known=False)
        self.patient.see(seen, self.calls, captured=self._captured(surely=True), left=left)

    def _sampled(self, job: Job, now: float) -> Sample:
        job.advance(now)
        self.began.setdefault(len(job.runs) - 1, now)
        known, all_known, all_were_known = 0, False, False
        visible = "DescribeInstances" not in self._cloud.forbidden_actions
        for run, at in self.called.items() if visible else ():
            before = live_before(job, run, at)
            named = nameable(job, before)
            for span in named:
                known += sum(some.count for some in machines_of(job, run, span, now))
            all_known = before == named != []
            ended_at = max(
                (span.last_ended_at() or 0.0 for span in job.runs[run]),
                default=0,
            )
            if not before and ended_at > self._began_at:
                before = live_before(job, run, ended_at)
                all_were_known = before == nameable(job, before) != []
        return Sample(
            at=now,
            shown=shown(job, now),
            live=job.live(now),
            machines=sum(some.count for some in machines(job, now)),
            known_machines=known,
            all_known=all_known,
            all_were_known=all_were_known,
        )

    def _captured(self, *, surely: bool) -> bool:
        """Return whether the machines of the run called last could be read before it was called.

        For more instances than are captured before the call the cloud's log decides.
        """
        if self.job is None or not self.called:
            return False
        spec = self.job.spec
        if spec.instances <= BEFORE_MAX:
            return True
        run, at = max(self.called.items())
        reads = [call.at for call in self.reads if call.at > self.began[run] and call.code == "OK"]
        if not surely:
            return sum(read_at < at for read_at in reads) >= spec.tasks
        pages = sum(
            (end - first) // PAGE + 1 for first, end in map(self.job.task_range, range(spec.tasks))
        )
        return sum(read_at < at - WAYS_S for read_at in reads) >= pages

    @property
    def over(self) -> bool:
        return None not in (self.end, self.at_once.end, self.patient.end)

    def since(self, at: float) -> list[Sample]:
        return list(takewhile(lambda each: each.at >= at, reversed(self.samples)))


def _stays_stopped(sample: Sample, end: End) -> bool:
    stopped = sample.shown in (Shown.STOPPED, Shown.MISSING, Shown.EMPTY)
    return stopped and (end.evidence < MACHINES_GONE or not sample.machines)


class Truth(Checkers):
    """Checks what is written of each job that it follows."""

    def __init__(self, world: SimulatedWorld, *, bounds: Bounds) -> None:
        super().__init__(world)
        self._bounds = bounds
        self._stories: dict[tuple[str, str], Story] = {}
        world.network.arrived = self._arrived

    def follow(self, region: str, job_id: str, kind: str) -> None:
        cloud = self._world.clouds[f"{region}.cloud"]
        self._stories[region, job_id] = Story(kind, cloud, region, job_id, self._bounds)

    def _arrived(self, host: str, call: Call) -> None:
        for job_id in call.job_ids:
            story = self._stories.get((host.removesuffix(".cloud"), job_id))
            if story is not None:
                story.arrived(call)

    async def watch(self) -> None:
        """Follow the jobs until all have ended, and the right ends are known."""
        until = self._world.loop.time() + 4 * self._bounds.give_up_after_s
        while self._world.loop.time() < until:
            going = [story for story in self._stories.values() if not story.over]
            if not going:
                return
            for story in going:
                story.sample()
            await asyncio.sleep(EVERY_S)
        for story in self._stories.values():
            if not story.over:
                self.violated(
                    "liveness",
                    f"{story.kind}: ends {story.end}, {story.at_once.end}, {story.patient.end}",
                )

    # --- at every call, and at every commit -------------------------------------------------------

    def on_call(self, action: str, host: str, body: bytes) -> None:
        super().on_call(action, host, body)
        if action == "TerminateJob":
            story = self._stories[host.removesuffix(".cloud"), json.loads(body)["JobId"]]
            story.left += 1
            story.may_have_left = True

    def after_commit(self) -> None:
        super().after_commit()
        for row in self.rows("SELECT region, job_id, evidence, calls_begun_at FROM terminations"):
            story = self._stories[row["region"], row["job_id"]]
            if self._bounds.faulty and row["calls_begun_at"] is not None:
                story.may_have_left = True
            if row["evidence"] > story.claimed:
                self._check_claim(story, row["evidence"])
            story.claimed = row["evidence"]

    def _check_claim(self, story: Story, evidence: int) -> None:
        """Check raised evidence: it must have been true when the job was last read."""
        story.sample()
        # That machines are gone is written with the next read of the job.
        written_later_s = HASTY["poll"]["settling_interval_s"] if evidence == MACHINES_GONE else 0.0
        recent = story.since(story.samples[-1].at - self._bounds.lag_s - written_later_s)
        if evidence == ACKNOWLEDGED:
            true = any(call.code == "OK" and self._received(call) for call in story.calls)
        elif evidence == JOB_FINISHED:
            finished = (Shown.FINISHED, Shown.STOPPED, Shown.EMPTY)
            true = any(each.shown in finished for each in recent)
        else:
            true = any(self._stopped(story, each, evidence) for each in recent)
        if not true:
            self.violated(
                "truth", f"{story.kind}: {story.job_id} has evidence {evidence}: {recent[0]}"
            )

    def _stopped(self, story: Story, sample: Sample, evidence: int) -> bool:
        if evidence >= MACHINES_GONE and sample.machines:
            return False
        if evidence == READ_AGAIN:
            settled_s = self._bounds.settle_s - READS_APART_S
            window = [each for each in story.since(sample.at - settled_s) if each.at <= sample.at]
            # One that is not found for a moment is found again before it counts as settled.
            still = all(each.shown in (Shown.STOPPED, Shown.MISSING) for each in window)
            return still and sample.shown is Shown.STOPPED
        if sample.shown is Shown.STOPPED and sample.live:
            self._world.fired[DECEIVED] += 1
        return sample.shown is Shown.STOPPED or (
            evidence == MACHINES_GONE and sample.shown is Shown.MISSING
        )

    def _received(self, call: Call) -> bool:
        return call.fault in HARMLESS and call.request_id not in self._world.network.unreceived

    def _check_end(self, event: sqlite3.Row) -> None:
        story = self._stories[event["region"], event["job_id"]]
        story.sample()
        story.end = End(State(event["to_state"]), event["evidence"])
        story.ended_at = story.samples[-1].at
        recent = story.since(story.ended_at - self._bounds.lag_s)
        if story.end.state in STOPPED and not any(
            _stays_stopped(each, story.end) for each in recent
        ):
            self.violated("truth", f"{story.kind}: {story.job_id} ends {story.end}: {recent[0]}")
        story.left_up = (
            story.end.state is State.UNVERIFIED
            and story.job is not None
            and not hopeless(story.job, story.ended_at)
        )

    # --- at the end ------------------------------------------------------------------------------

    def check_ends(self) -> None:
        """Check that every end is the one that could be known."""
        for story in self._stories.values():
            if not story.over:
                continue
            self._world.fired[f"{story.kind} ended {story.end}"] += 1
            how, right = self._right(story)
            self._world.fired[how] += 1
            best = story.at_once
            early_s = best.ended_at - story.ended_at
            if best.end == story.end and early_s > EARLY_S:
                self.violated(
                    "early", f"{story.kind}: {story.job_id} ends {story.end} {early_s:.1f} s early"
                )
            if not right:
                self.violated(
                    "known",
                    f"{story.kind}: {story.job_id} ends {story.end}, left up: {story.left_up},"
                    f" and known is {story.at_once.end}, surely {story.patient.end}:"
                    f" {story.job and story.job.spec}",
                )

    def _right(self, story: Story) -> tuple[str, bool]:
        best, surely, end = story.at_once.end, story.patient.end, story.end
        assert best is not None
        assert surely is not None
        assert end is not None
        if self._bounds.faulty and (best != surely or story.left_up or self._lost(story)):
            return TRUE_ALONE, True
        if story.left_up:
            return EXACTLY, False
        if best == surely:
            return EXACTLY, end == best
        if best.state is surely.state is end.state:
            low, high = sorted((best.evidence, surely.evidence))
            return BETWEEN, low <= end.evidence <= high
        # More than what was sure to be known may have been; what is not true is found elsewhere.
        more = end.state is surely.state and end.evidence >= surely.evidence
        return BETWEEN, end == best or more

    def _lost(self, story: Story) -> bool:
        """Return whether a TerminateJob never arrived, or its outcome was not recorded.

        The engine's own record decides, for the replica that received an answer may have died with
        it.
        """
        tried = self.rows(
            "SELECT a.request_id FROM attempts a JOIN terminations t ON t.id = a.termination_id"
            " WHERE t.region = ? AND t.job_id = ? AND a.action = 'TerminateJob'",
            story.region,
            story.job_id,
        )
        accepted = {call.request_id for call in story.calls if call.code == "OK"}
        written = accepted <= {row["request_id"] for row in tried}
        return not (written and len(tried) == story.left == len(story.calls))
