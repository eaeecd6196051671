"""No final state rests on one answer: a read that would end a termination is repeated over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.decisions.decide import decide
from orchestrator.domain.errors import CloudError, CloudErrorKind
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import Event, State
from orchestrator.domain.model.observation import CallStarted, JobUnlisted, ReadFailed
from orchestrator.domain.model.termination import PollKind
from tests.support.termination_fields import with_fields
from tests.unit.domain.build import (
    LIVE,
    NOW,
    POLICY,
    batch_read,
    call_failed,
    later,
    read,
    termination,
)

if TYPE_CHECKING:
    from orchestrator.domain.decisions.decision import Decision
    from orchestrator.domain.model.observation import Observation
    from orchestrator.domain.model.termination import Termination

FAILED, RUNNING = JobState.FAILED, JobState.RUNNING
UNKNOWN = ReadFailed(CloudError(CloudErrorKind.JOB_NOT_FOUND, "ResourceNotFound.Job", "not found"))
READ: dict[str, Any] = {"job_state": RUNNING, "observed_at": later(-9)}


def failed(kind: CloudErrorKind) -> ReadFailed:
    return ReadFailed(CloudError(kind, "Some.Code", "what happened", advice="do this"))


@dataclass
class Asked:
    """A termination whose job is read at each planned poll; ``polls``: their kinds and times."""

    termination: Termination
    at_s: float = 0.0
    polls: list[tuple[PollKind, float]] = field(default_factory=list)
    last: Decision | None = None

    def until_it_ends(self, by_job: Observation, by_jobs: Observation) -> Asked:
        """Answer every read with these, until the termination ends."""
        while not self.termination.state.final:
            self.read_once(by_job, by_jobs)
        return self

    def read_once(self, by_job: Observation, by_jobs: Observation) -> None:
        assert self.termination.schedule.next_poll_at is not None
        assert len(self.polls) < 100
        self.at_s = max(self.at_s, (self.termination.schedule.next_poll_at - NOW).total_seconds())
        self.polls.append((self.termination.schedule.poll_kind, self.at_s))
        seen = by_jobs if self.termination.schedule.poll_kind is PollKind.BATCH else by_job
        self.last = decide(self.termination, seen, later(self.at_s), POLICY)
        self.termination = self.last.after


# --- jobs that are not found ---------------------------------------------------------------------


def test_a_job_that_was_never_read_is_polled_for_two_minutes_by_describe_jobs() -> None:
    """10,000 outdated ids cost no DescribeJob request."""
    asked = Asked(termination()).until_it_ends(UNKNOWN, JobUnlisted())
    assert asked.polls == [(PollKind.BATCH, at_s) for at_s in (0, 5, 15, 45, 120)]
    assert asked.termination.state is State.NOT_FOUND
    assert asked.termination.problem is not None
    assert "check the job id, the region and the account" in str(asked.termination.problem.advice)


@pytest.mark.parametrize(
    "before",
    [
        termination(**READ),
        termination(State.HELD, **READ),
        termination(
            State.SENDING,
            outcome_unknown=True,
            poll_kind=PollKind.SINGLE,
            give_up_at=later(3600),
            **READ,
        ),
        termination(State.DRAINING, give_up_at=later(3600), **READ),
    ],
    ids=lambda each: each.state,
)
def test_a_job_that_was_read_before_is_read_by_both_actions_for_a_minute(
    before: Termination,
) -> None:
    asked = Asked(before).until_it_ends(UNKNOWN, JobUnlisted())
    assert asked.termination.state is State.NOT_FOUND
    assert asked.at_s == 60
    assert {poll_kind for poll_kind, _ in asked.polls} == {PollKind.BATCH, PollKind.SINGLE}


def test_a_job_of_which_describe_jobs_is_refused_is_read_more_often() -> None:
    asked = Asked(termination(**READ)).until_it_ends(UNKNOWN, UNKNOWN)
    assert asked.termination.state is State.NOT_FOUND
    assert len(asked.polls) >= 5


OVERDUE = {"give_up_at": later(-1), "acknowledged_at": later(-60), **READ}
FAILS, FORBIDS = failed(CloudErrorKind.OUTCOME_UNKNOWN), failed(CloudErrorKind.UNAUTHORIZED)


@pytest.mark.parametrize("seed", range(20))
def test_a_read_that_fails_now_and_then_does_not_restart_the_time(seed: int) -> None:
    """The record was deleted; past the deadline, three of ten DescribeJob requests fail."""
    asked, random = Asked(termination(State.DRAINING, **OVERDUE)), Random(seed)
    while not asked.termination.state.final:
        fails = asked.termination.schedule.poll_kind is PollKind.SINGLE and random.random() < 0.3
        asked.read_once(FAILS if fails else UNKNOWN, JobUnlisted())
    assert asked.termination.state is State.NOT_FOUND
    assert 60 <= asked.at_s <= 120


@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize(
    "before",
    [
        termination(State.DRAINING, **OVERDUE),
        termination(State.SETTLING, settle_until=later(-9000), **OVERDUE),
    ],
    ids=lambda each: each.state,
)
def test_a_job_that_cannot_be_read_ends_after_its_deadline_with_any_answers(
    before: Termination, seed: int
) -> None:
    asked, random = Asked(before), Random(seed)
    weights = [random.random() for _ in range(3)]
    while not asked.termination.state.final:
        (seen,) = random.choices([UNKNOWN, FAILS, FORBIDS], weights)
        by_jobs: list[Observation] = [JobUnlisted(), FAILS, FORBIDS]
        asked.read_once(seen, random.choice(by_jobs))
    assert asked.at_s <= 1800


def test_one_refusal_by_chance_delays_nothing() -> None:
    """The job was never read, and the cloud does not know it."""
    asked = Asked(termination(poll_kind=PollKind.SINGLE))
    asked.read_once(FORBIDS, FORBIDS)
    asked.until_it_ends(UNKNOWN, JobUnlisted())
    assert asked.termination.state is State.NOT_FOUND
    assert asked.at_s <= 130


def test_a_job_that_one_action_does_not_list_and_the_other_may_not_read_ends_too() -> None:
    """DescribeJob is forbidden, and DescribeJobs does not list the job."""
    asked = Asked(termination(**READ)).until_it_ends(FORBIDS, JobUnlisted())
    assert asked.termination.state is State.REFUSED
    assert asked.at_s <= 1300


def test_a_job_that_is_found_again_is_driven_on() -> None:
    missing = decide(termination(terminate_after=NOW, **READ), JobUnlisted(), NOW, POLICY).after
    assert (missing.unconfirmed is not None, missing.schedule.terminate_after) == (True, None)
    found = decide(missing, batch_read(RUNNING), later(5), POLICY).after
    assert (found.unconfirmed, found.schedule.terminate_after) == (None, later(5))
    again = decide(found, JobUnlisted(), later(61), POLICY)
    assert again.event is None, "the answer of a minute ago does not count any more"


def test_a_job_that_terminate_job_did_not_find_is_read_before_it_ends() -> None:
    sending = decide(termination(terminate_after=NOW, **READ), CallStarted(), NOW, POLICY).after
    unknown = call_failed(UNKNOWN.error)
    doubtful = decide(sending, unknown, later(1), POLICY)
    assert (
        doubtful.event,
        doubtful.after.calls.outcome_unknown,
        doubtful.after.schedule.poll_kind,
    ) == (
        None,
        True,
        PollKind.SINGLE,
    )
    found = decide(doubtful.after, read(RUNNING, LIVE), later(2), POLICY)
    assert found.event is Event.CALL_NOT_EXECUTED
    asked = Asked(doubtful.after, at_s=1).until_it_ends(UNKNOWN, JobUnlisted())
    assert (asked.termination.state, asked.at_s) == (State.NOT_FOUND, 61)


def test_answers_from_before_a_long_silence_do_not_count() -> None:
    """The daemon was not running, so no request was sent meanwhile."""
    missing = decide(termination(**READ), JobUnlisted(), NOW, POLICY).after
    asked = Asked(missing, at_s=9000).until_it_ends(UNKNOWN, JobUnlisted())
    assert asked.at_s == 9060


def test_answers_from_before_the_clock_was_set_back_do_not_count() -> None:
    missing = decide(termination(**READ), JobUnlisted(), later(9000), POLICY).after
    asked = Asked(with_fields(missing, next_poll_at=NOW)).until_it_ends(UNKNOWN, JobUnlisted())
    assert asked.at_s == 60


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (termination(**READ), "its record was deleted before TerminateJob was acknowledged"),
        (
            termination(State.DRAINING, acknowledged_at=NOW, give_up_at=later(3600), **READ),
            "its record was deleted before its instances were observed stopped",
        ),
    ],
)
def test_a_record_that_was_deleted_has_words_of_its_own(before: Termination, message: str) -> None:
    asked = Asked(before).until_it_ends(UNKNOWN, JobUnlisted())
    problem = asked.termination.problem
    assert problem is not None
    assert problem.code == "Client.JobDeleted"
    assert message in problem.message
    assert problem.advice is not None
    assert "check the job id" not in problem.advice


# --- permissions ---------------------------------------------------------------------------------


def test_a_read_that_is_not_allowed_is_tried_for_ten_minutes() -> None:
    forbidden = failed(CloudErrorKind.UNAUTHORIZED)
    asked = Asked(termination(poll_kind=PollKind.SINGLE)).until_it_ends(forbidden, forbidden)
    assert asked.termination.state is State.REFUSED
    assert 600 <= asked.at_s <= 660
    assert len(asked.polls) < 25


def test_a_call_that_is_not_allowed_is_tried_for_ten_minutes_between_reads_that_are() -> None:
    known, at_s, calls = termination(terminate_after=NOW, **READ), 0.0, 0
    error = CloudError(CloudErrorKind.UNAUTHORIZED, "UnauthorizedOperation", "no")
    while not known.state.final:
        calls += 1
        assert calls < 30
        sending = decide(known, CallStarted(), later(at_s), POLICY).after
        known = decide(sending, call_failed(error), later(at_s), POLICY).after
        if known.schedule.next_poll_at is not None:
            at_s = (known.schedule.next_poll_at - NOW).total_seconds()
            known = decide(known, batch_read(RUNNING, at=later(at_s)), later(at_s), POLICY).after
    assert known.state is State.REFUSED
    assert 600 <= at_s <= 660
    assert known.problem is not None
    assert known.problem.code == "UnauthorizedOperation"


def test_a_permission_that_is_granted_in_time_changes_nothing() -> None:
    forbidden = decide(termination(), failed(CloudErrorKind.UNAUTHORIZED), NOW, POLICY).after
    allowed = decide(forbidden, batch_read(RUNNING), later(1), POLICY).after
    assert (allowed.unconfirmed, allowed.schedule.terminate_after) == (None, later(1))


# --- deadlines -----------------------------------------------------------------------------------

PAST = [
    termination(State.HELD, poll_kind=PollKind.SINGLE, give_up_at=NOW),
    termination(State.SENDING, poll_kind=PollKind.SINGLE, outcome_unknown=True, give_up_at=NOW),
    termination(State.DRAINING, poll_kind=PollKind.SINGLE, give_up_at=NOW),
    termination(State.SETTLING, poll_kind=PollKind.SINGLE, settle_until=later(-3600), evidence=3),
    termination(poll_kind=PollKind.SINGLE, created_at=later(-3600)),
]


@pytest.mark.parametrize("away_s", [0.0, 8 * 3600.0])
@pytest.mark.parametrize(
    ("kind", "tried_s"),
    [(CloudErrorKind.OUTCOME_UNKNOWN, 60), (CloudErrorKind.NOT_SENT, 600)],
)
@pytest.mark.parametrize("before", PAST, ids=lambda each: each.state)
def test_a_job_that_cannot_be_read_past_its_deadline_is_tried_from_the_first_read_on(
    before: Termination, kind: CloudErrorKind, tried_s: float, away_s: float
) -> None:
    """However long the daemon was not running by then."""
    asked = Asked(before, at_s=away_s).until_it_ends(failed(kind), failed(kind))
    assert asked.termination.state is State.UNVERIFIED
    assert tried_s <= asked.at_s - away_s <= tried_s + 60
    problem = asked.termination.problem
    assert problem is not None
    assert problem.code == "Client.DeadlinePassed"
    assert problem.message.endswith("; last error: Some.Code: what happened")


@pytest.mark.parametrize("before", PAST, ids=lambda each: each.state)
def test_nothing_ends_because_of_a_clock(before: Termination) -> None:
    """The signature was too old or too new, so the job was not read."""
    known, at_s = before, 0.0
    for _ in range(50):
        known = decide(known, failed(CloudErrorKind.CLOCK_SKEW), later(at_s), POLICY).after
        assert not known.state.final
        assert known.schedule.next_poll_at is not None
        at_s = (known.schedule.next_poll_at - NOW).total_seconds()
    assert at_s > 2000


def test_a_job_that_could_never_be_read_has_its_time_from_when_it_may_begin() -> None:
    """No TerminateJob has started its deadline; a later read of the job postpones the start."""
    unread = failed(CloudErrorKind.OUTCOME_UNKNOWN)
    for begins_s, before in (
        (0, termination()),
        (10, termination(observed_at=later(10))),
        (100, termination(not_before=later(100))),
    ):
        in_time = decide(before, unread, later(begins_s + 3599), POLICY).after
        assert in_time.unconfirmed is None
        late = decide(before, unread, later(begins_s + 3600), POLICY).after
        assert late.unconfirmed is not None
    assert decide(
        termination(), batch_read(RUNNING), later(9999), POLICY
    ).after.schedule.terminate_after == later(9999)
