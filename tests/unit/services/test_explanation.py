"""Why a job is not down yet or how it ended: in every state, and in what situations it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.batch_job import InstanceCounters, JobState, TaskSubmitted
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.lifecycle import FINAL_STATES, LIVE_STATES, State
from orchestrator.domain.model.machine_capture import Capture
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.model.unconfirmed import Unconfirmed, Verdict
from orchestrator.domain.pacing.quota import Rate
from orchestrator.services.explanation import LATE_S, Explanation, ExplanationContext, explain
from tests.unit.domain.build import LIVE, NOW, STOPPED, later, machines, termination

if TYPE_CHECKING:
    from datetime import datetime

THROTTLED = ErrorDetail(code="RequestLimitExceeded", message="too many calls")
TROUBLE = ErrorDetail(code="Client.Timeout", message="no answer", advice="check the network")
UNCOUNTED = ErrorDetail(
    code="Client.Uncounted", message="the cloud's answer had no instance counters", advice="wait"
)
GIVEN_UP = "nothing: it was given up at its deadline with "
NOT_READ_AGAIN = (
    "nothing: every instance was seen down, but the job could not be read again after the settle "
    "window"
)
COUNTED: dict[str, Any] = {"settle_until": NOW, "instances_observed_at": NOW}
FINISHED = {"next_poll_at": None, "finished_at": NOW}


def unconfirmed(verdict: Verdict, *sources: str) -> Unconfirmed:
    return Unconfirmed(
        verdict=verdict,
        since=later(-60),
        last_at=NOW,
        until=later(60),
        answers=2,
        sources=sources,
    )


def told(state: State, around: dict[str, Any] | None = None, **changes: Any) -> Explanation:
    values: dict[str, Any] = {"now": NOW, "ahead": 0, "rate": Rate(2, 2), "trouble": None}
    values["capture_wait_s"] = 10.0
    if state in FINAL_STATES:
        changes = FINISHED | changes
    return explain(termination(state, **changes), ExplanationContext(**(values | (around or {}))))


@pytest.mark.parametrize("state", State, ids=str)
def test_every_state_says_why(state: State) -> None:
    """A new state without an explanation fails here."""
    found = told(state)
    assert found.waiting_for
    assert found.waiting_for.startswith("nothing: ") == (state in FINAL_STATES)
    assert found.next_action or state in FINAL_STATES
    assert found.next_action_at is None or state in LIVE_STATES


@pytest.mark.parametrize("state", [State.NOT_FOUND, State.REFUSED, State.UNVERIFIED], ids=str)
def test_an_end_that_is_no_success_says_what_a_person_can_do(state: State) -> None:
    assert "submit" in str(told(state).next_action)


@pytest.mark.parametrize(
    "state", [State.VERIFIED, State.ALREADY_FINISHED, State.WITHDRAWN], ids=str
)
def test_a_good_end_leaves_nothing_to_do(state: State) -> None:
    assert told(state).next_action is None


SITUATIONS: list[tuple[str, State, dict[str, Any], dict[str, Any], str, str, datetime | None]] = [
    (
        "not yet looked at",
        State.QUEUED,
        {},
        {"next_poll_at": later(3)},
        "a look at the job before it is called",
        "look at the job, then TerminateJob",
        later(3),
    ),
    (
        "asked for later",
        State.QUEUED,
        {},
        {"not_before": later(60), "next_poll_at": later(60)},
        "the time before which it was asked not to be called (not_before)",
        "look at the job (DescribeJobs), then TerminateJob",
        later(60),
    ),
    (
        "its time has come",
        State.QUEUED,
        {"ahead": 0},
        {"not_before": NOW, "terminate_after": NOW},
        "its turn to be called, 0 ahead of it; 2 a second are allowed",
        "TerminateJob",
        NOW,
    ),
    (
        "in the queue",
        State.QUEUED,
        {"ahead": 10, "rate": Rate(5, 5)},
        {"terminate_after": NOW},
        "its turn to be called, 10 ahead of it; 5 a second are allowed",
        "TerminateJob",
        later(2),
    ),
    (
        "in the queue, and the cloud allows less than is configured",
        State.QUEUED,
        {"ahead": 12, "rate": Rate(20, 3)},
        {"terminate_after": later(-60)},
        "; the cloud lets 3.0 a second through for now; 20 are configured",
        "TerminateJob",
        later(4),
    ),
    (
        "called again after a pause",
        State.QUEUED,
        {"ahead": 0},
        {"terminate_after": later(8), "revision": 2, "problem": THROTTLED},
        "may be called (last error: RequestLimitExceeded: too many calls)",
        "TerminateJob",
        later(8),
    ),
    (
        "a call that did not get through",
        State.QUEUED,
        {},
        {"next_poll_at": later(4), "problem": THROTTLED},
        "a look at the job before it is called (last error: RequestLimitExceeded: too many calls)",
        "look at the job, then TerminateJob",
        later(4),
    ),
    (
        "submitted",
        State.HELD,
        {},
        {"next_poll_at": later(2)},
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "look again (DescribeJobs), then TerminateJob first in line",
        later(2),
    ),
    (
        "submitted, and not to be read",
        State.HELD,
        {},
        {"problem": THROTTLED},
        "forbids TerminateJob (last error: RequestLimitExceeded: too many calls)",
        "look again (DescribeJobs), then TerminateJob first in line",
        NOW,
    ),
    (
        "a call under way",
        State.SENDING,
        {},
        {"next_poll_at": None},
        "the cloud's answer to TerminateJob",
        "record the answer",
        None,
    ),
    (
        "an answer that was lost",
        State.SENDING,
        {},
        {"in_doubt": True, "next_poll_at": later(1), "problem": TROUBLE},
        "whether its TerminateJob call had effect is not known (last error: Client.Timeout: no",
        "read the job (DescribeJob), then call again only if it runs on untouched",
        later(1),
    ),
    (
        "a process that ended in between",
        State.SENDING,
        {},
        {"in_doubt": True},
        "a look at the job: whether its TerminateJob call had effect is not known",
        "then call again only if it runs on untouched",
        NOW,
    ),
    (
        "not looked at since the call",
        State.DRAINING,
        {},
        {},
        "its instances, which are not counted yet, to go down; the job's state is not known",
        "look again; call it down when the job is finished and no instance is live",
        NOW,
    ),
    (
        "draining",
        State.DRAINING,
        {},
        {"job_state": JobState.RUNNING, "instances": LIVE, "next_poll_at": later(5)},
        "4 of 10 instances to go down; the job reads RUNNING",
        "call it down when the job is finished and no instance is live",
        later(5),
    ),
    (
        "nothing moves",
        State.DRAINING,
        {},
        {
            "job_state": JobState.RUNNING,
            "instances": LIVE,
            "forecast": Forecast(made_at=NOW, rate_per_s=0.0, stalled_since=later(-600)),
        },
        "the job reads RUNNING; nothing has moved since 2026-01-01T11:50:00Z",
        "look again",
        NOW,
    ),
    (
        "nothing moves, to be called again",
        State.DRAINING,
        {},
        {
            "terminate_after": NOW,
            "job_state": JobState.RUNNING,
            "awaits_capture": False,
            "forecast": Forecast(made_at=NOW, rate_per_s=0.0, stalled_since=later(-600)),
        },
        "after its last call: the job reads RUNNING; nothing has moved since 2026-01-01T11:50:00Z",
        "TerminateJob",
        NOW,
    ),
    (
        "finished, instances live",
        State.DRAINING,
        {},
        {"job_state": JobState.FAILED, "instances": InstanceCounters(failed_interrupted=1)},
        "1 of 1 instances to go down; the job reads FAILED",
        "look again",
        NOW,
    ),
    (
        "instances down, the job not",
        State.DRAINING,
        {},
        {"job_state": JobState.RUNNING, "instances": STOPPED},
        "the job to finish; no instance was live at the last count; the job reads RUNNING",
        "look again",
        NOW,
    ),
    (
        "finished since its instances were counted",
        State.DRAINING,
        {},
        {"job_state": JobState.FAILED, "instances": STOPPED},
        "a count that proves its instances down; none was live at the last one; the job reads FAI",
        "look again",
        NOW,
    ),
    (
        "something pending",
        State.DRAINING,
        {},
        {"job_state": JobState.FAILED, "instances": STOPPED, "job_next_action": "TERMINATING"},
        "the end of TERMINATING; no instance was live at the last count; the job reads FAILED",
        "look again",
        NOW,
    ),
    (
        "draining, and not to be read",
        State.DRAINING,
        {},
        {"instances": LIVE, "problem": TROUBLE},
        "(last error: Client.Timeout: no answer)",
        "look again",
        NOW,
    ),
    (
        "runs after its call, to be called again",
        State.DRAINING,
        {"ahead": 4},
        {"terminate_after": later(-5), "job_state": JobState.RUNNING},
        "4 ahead of it; 2 a second are allowed; it ran on or was revived after its last call: the",
        "TerminateJob",
        later(2),
    ),
    (
        "to be called again, but put off",
        State.DRAINING,
        {},
        {"terminate_after": later(8), "acknowledged_at": later(-90), "job_state": JobState.RUNNING},
        "the time from which it may be called; it ran on or was revived after its last call:",
        "TerminateJob",
        later(8),
    ),
    (
        "its machines are to be captured first",
        State.QUEUED,
        {},
        {"terminate_after": later(-2), "run": 1},
        "its machines to be captured before it is called, 10 s at most",
        "read its tasks and instances, then TerminateJob",
        later(8),
    ),
    (
        "its machines were to be captured first",
        State.QUEUED,
        {},
        {"terminate_after": later(-10), "run": 1},
        "its turn to be called, 0 ahead of it",
        "TerminateJob",
        NOW,
    ),
    (
        "too large to be captured first",
        State.QUEUED,
        {},
        {"terminate_after": later(-2), "run": 1, "awaits_capture": False},
        "its turn to be called, 0 ahead of it",
        "TerminateJob",
        NOW,
    ),
    (
        "submitted as something else than is counted",
        State.QUEUED,
        {},
        {"job_state": JobState.FAILED, "poll_kind": PollKind.SUBMIT_INFO},
        "the number of instances it was submitted with, for it reads finished already",
        "(DescribeJobSubmitInfo), then count its instances",
        NOW,
    ),
    (
        "not found, and never was",
        State.QUEUED,
        {},
        {"unconfirmed": unconfirmed(Verdict.MISSING, "DescribeJobs"), "next_poll_at": later(9)},
        (
            "the job to be found: DescribeJobs did not find it since 2026-01-01T11:59:00Z; it ends "
            "at 2026-01-01T12:01:00Z unless it is found"
        ),
        "read the job again",
        later(9),
    ),
    (
        "not found any more",
        State.DRAINING,
        {},
        {
            "unconfirmed": unconfirmed(Verdict.MISSING, "DescribeJob", "DescribeJobs"),
            "observed_at": later(-90),
        },
        "the job to be found again: DescribeJob and DescribeJobs did not find it since",
        "read the job again",
        NOW,
    ),
    (
        "forbidden for now",
        State.QUEUED,
        {},
        {"unconfirmed": unconfirmed(Verdict.FORBIDDEN, "TerminateJob"), "problem": TROUBLE},
        (
            "the permission for TerminateJob, which is refused since 2026-01-01T11:59:00Z; it ends "
            "refused at 2026-01-01T12:01:00Z unless the permission is granted (last error: "
        ),
        "read the job again",
        NOW,
    ),
    (
        "not readable past its deadline",
        State.DRAINING,
        {},
        {"unconfirmed": unconfirmed(Verdict.UNREADABLE, "DescribeJob")},
        (
            "the job to be read: its deadline has passed, reads fail since 2026-01-01T11:59:00Z; "
            "it is given up at 2026-01-01T12:01:00Z unless the job can be read"
        ),
        "read the job again",
        NOW,
    ),
    (
        "settled, but for its machines",
        State.SETTLING,
        {},
        COUNTED | {"next_poll_at": later(5)} | machines(gone=1, up=2),
        "3 of 4 machines to be gone (2 of them seen up): all instances were seen down",
        "call it verified",
        later(5),
    ),
    (
        "settling",
        State.SETTLING,
        {},
        {"settle_until": later(30), "next_poll_at": later(5)},
        "the settle window to pass: all instances were seen down",
        "call it verified if no instance is live and no machine is up",
        later(30),
    ),
    (
        "settling, and not to be read",
        State.SETTLING,
        {},
        {"settle_until": later(30), "next_poll_at": later(40), "problem": TROUBLE},
        "RetryJobs (last error: Client.Timeout: no answer)",
        "call it verified",
        later(40),
    ),
    (
        "settled, but for its instances",
        State.SETTLING,
        {},
        {"settle_until": NOW, "instances_observed_at": later(-1), "next_poll_at": later(-1)},
        "a count of its instances after the settle window (DescribeJob): all instances were seen",
        "count its instances and look up its machines once more",
        NOW,
    ),
    (
        "settled, but for the second look at its machines",
        State.SETTLING,
        {},
        COUNTED | {"next_poll_at": later(5)} | machines(all_observed_at=later(-1)),
        "its machines to be looked up after the settle window (DescribeInstances): all instances",
        "call it verified",
        later(5),
    ),
    (
        "settled, but for the last look",
        State.SETTLING,
        {},
        COUNTED | {"next_poll_at": later(-1)},
        "a last look, for the settle window has passed: all instances were seen down",
        "call it verified",
        NOW,
    ),
]


@pytest.mark.parametrize(
    ("state", "around", "changes", "waiting_for", "next_action", "at"),
    [case[1:] for case in SITUATIONS],
    ids=[f"{case[1]}: {case[0]}" for case in SITUATIONS],
)
def test_what_a_live_one_waits_for(
    state: State,
    around: dict[str, Any],
    changes: dict[str, Any],
    waiting_for: str,
    next_action: str,
    at: datetime | None,
) -> None:
    found = told(state, around, **changes)
    assert waiting_for in found.waiting_for
    assert next_action in str(found.next_action)
    assert found.next_action_at == at


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_look_that_is_a_little_late_is_due_now(state: State) -> None:
    """Nothing is planned for the past."""
    late: dict[str, Any] = {"next_poll_at": later(-LATE_S), "settle_until": later(-LATE_S)}
    found = told(state, **late, in_doubt=True)
    assert found.next_action_at == NOW
    assert "due since" not in found.waiting_for


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_look_behind_others_has_no_time(state: State) -> None:
    """Or it would be due now at every poll, for minutes; what is asked for stands beside it."""
    usual = told(state, in_doubt=True, settle_until=later(30), problem=THROTTLED)
    late: dict[str, Any] = {"next_poll_at": later(-LATE_S - 1), "settle_until": later(30)}
    late |= {"problem": THROTTLED, "in_doubt": True}
    found = told(state, **late)
    due = f"{usual.waiting_for}; look due since 2026-01-01T11:59:54Z"
    known = "behind other looks, or its row in the database is locked (see the log)"
    assert found.waiting_for == f"{due}, {known}"
    assert (found.next_action, found.next_action_at) == (usual.next_action, None)
    troubled = told(state, {"trouble": TROUBLE}, **late)
    assert troubled.waiting_for == f"{due}; calls to the cloud fail (Client.Timeout: no answer)"
    assert troubled.next_action_at is None


@pytest.mark.parametrize("state", [State.QUEUED, State.DRAINING], ids=str)
def test_what_waits_for_its_call_waits_for_no_look(state: State) -> None:
    found = told(state, next_poll_at=later(-300), terminate_after=later(-300))
    assert "due since" not in found.waiting_for
    assert found.next_action_at == NOW


@pytest.mark.parametrize(
    ("state", "changes", "waiting_for"),
    [
        (State.QUEUED, {}, "a look at the job before it is called"),
        (
            State.SENDING,
            {"in_doubt": True},
            "a look at the job: whether its TerminateJob call had effect is not known",
        ),
        (
            State.DRAINING,
            {},
            "its instances, which are not counted yet, to go down; the job reads FAILED",
        ),
        (
            State.DRAINING,
            {"instances": LIVE},
            "4 of 10 instances to go down; the job reads FAILED",
        ),
        (
            State.UNVERIFIED,
            {},
            f"{GIVEN_UP}its instances never counted; the job reads FAILED",
        ),
        (State.UNVERIFIED, {"evidence": 3}, NOT_READ_AGAIN),
    ],
)
def test_an_answer_without_counters_is_told(
    state: State, changes: dict[str, Any], waiting_for: str
) -> None:
    found = told(state, **changes, job_state=JobState.FAILED, problem=UNCOUNTED)
    assert found.waiting_for == (
        f"{waiting_for} (last error: Client.Uncounted: the cloud's answer had no instance counters)"
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("", ""),
        (
            "; last error: InternalError: busy; try again",
            " (last error: InternalError: busy; try again)",
        ),
    ],
)
@pytest.mark.parametrize(
    ("changes", "given_up"),
    [
        (
            {"instances": LIVE, "job_state": JobState.RUNNING},
            f"{GIVEN_UP}4 of 10 instances live at the last count; the job reads RUNNING",
        ),
        ({"evidence": 3}, NOT_READ_AGAIN),
    ],
)
def test_that_the_deadline_passed_is_said_once(
    changes: dict[str, Any], given_up: str, more: str, why: str
) -> None:
    message = f"the job was not seen down by its deadline{more}"
    problem = ErrorDetail(code="Client.DeadlinePassed", message=message)
    assert told(State.UNVERIFIED, **changes, problem=problem).waiting_for == given_up + why


@pytest.mark.parametrize(
    ("state", "changes", "why"),
    [
        (
            State.VERIFIED,
            {"observed_at": later(5), "settle_until": later(5)},
            "still so after the settle window",
        ),
        (
            State.VERIFIED,
            {"observed_at": later(4), "settle_until": later(5)},
            "the job was deleted since",
        ),
        (State.VERIFIED, machines(), "; all 4 machines are gone"),
        (State.VERIFIED, {}, "; that its machines are gone is not proven: its machines were not"),
        (
            State.VERIFIED,
            machines(gone=3, problem=THROTTLED),
            (
                "not proven: looking them up failed: RequestLimitExceeded: too many calls; 3 of "
                "the 4 machines that were captured are gone"
            ),
        ),
        (State.VERIFIED, machines(gone=3), "; 3 of the 4 machines that were captured are gone"),
        (State.VERIFIED, machines(listed=False), "not one of them was ever listed"),
        (State.UNVERIFIED, machines(up=1) | {"evidence": 3}, "1 of 4 machines were still up"),
        (State.UNVERIFIED, machines(up=1) | {"instances": LIVE}, "with 4 of 10 instances live"),
        (State.ALREADY_FINISHED, {}, "finished before any call had effect"),
        (State.NOT_FOUND, {}, "nothing: the cloud knows no such job in this account and region"),
        (
            State.NOT_FOUND,
            {"observed_at": NOW},
            "showed the job at 2026-01-01T12:00:00Z and knows the job no longer; it was deleted b",
        ),
        (
            State.NOT_FOUND,
            {"observed_at": NOW, "acknowledged_at": later(5), "evidence": 1},
            "acknowledged TerminateJob at 2026-01-01T12:00:05Z and knows the job no longer; it was",
        ),
        (
            State.NOT_FOUND,
            {"observed_at": NOW, "acknowledged_at": later(5)},
            "the cloud acted on it at 2026-01-01T12:00:05Z and knows the job no longer; it was",
        ),
        (State.REFUSED, {"problem": THROTTLED}, "refused for good; `error` has the reason"),
        (State.WITHDRAWN, {}, "taken back before a call was sent"),
        (
            State.UNVERIFIED,
            {"instances": LIVE, "job_state": JobState.RUNNING},
            "at its deadline with 4 of 10 instances live at the last count; the job reads RUNNING",
        ),
        (
            State.UNVERIFIED,
            {"instances": STOPPED, "job_state": JobState.RUNNING},
            "with 0 of 10 instances live at the last count; the job reads RUNNING",
        ),
        (
            State.UNVERIFIED,
            {"instances": STOPPED, "evidence": 3, "problem": TROUBLE},
            "seen down, but the job could not be read again after the settle window (last error: ",
        ),
        (
            State.UNVERIFIED,
            {"problem": TROUBLE},
            "with its instances never counted; the job's state is not known (last error: ",
        ),
    ],
)
def test_why_it_ended(state: State, changes: dict[str, Any], why: str) -> None:
    assert why in told(state, **changes).waiting_for


def test_machines_that_are_left_are_named_with_the_command_that_ends_them() -> None:
    left = told(State.UNVERIFIED, evidence=3, **machines(gone=3, up=1))
    assert "/v1/terminations/trm_1/instances?machine=up" in str(left.next_action)
    assert "tccli cvm TerminateInstances --region ap-guangzhou" in str(left.next_action)


LISTED = "/v1/terminations/trm_1/instances"
ALL_STOPPED = {"instances": STOPPED, "job_state": JobState.RUNNING, "evidence": 1}
STILL_LIVE = {"instances": LIVE, "job_state": JobState.RUNNING, "evidence": 1}
OF_PERSON = {
    "escalation_level": EscalationLevel.MANUAL,
    "escalation_started_at": NOW,
    "next_poll_at": NOW,
    "finished_at": None,
}


@pytest.mark.parametrize(
    ("changes", "named", "command"),
    [
        (STILL_LIVE | machines(gone=0, up=4), f"{LISTED}?state=live", "TerminateTaskInstance"),
        (machines(gone=0, up=4), f"{LISTED}?state=live", "TerminateTaskInstance"),
        (ALL_STOPPED | machines(gone=1, up=3), f"{LISTED}?machine=up", "TerminateInstances"),
        (
            ALL_STOPPED | machines(gone=1, up=0),
            f"none of its machines is up (those captured: {LISTED}",
            "",
        ),
        (
            ALL_STOPPED,
            "in the console that the job is down and that none of its machines is up",
            "",
        ),
    ],
)
@pytest.mark.parametrize("end", [(State.UNVERIFIED, {}), (State.DRAINING, OF_PERSON)])
def test_no_person_is_sent_to_an_empty_list(
    changes: dict[str, Any], named: str, command: str, end: tuple[State, dict[str, Any]]
) -> None:
    """The live ones are listed only while some are; the machines that are up, whatever is live."""
    state, more = end
    next_action = str(told(state, **(changes | more)).next_action)
    assert named in next_action
    assert command in next_action
    assert ("?state=live" in next_action) == ("?state=live" in named)


@pytest.mark.parametrize("known", [{}, {"instances": LIVE}])
def test_where_no_instance_was_ever_read_the_cloud_is_asked_for_them(known: dict[str, Any]) -> None:
    """After the end, that is: until then, asking for the list has them read."""
    next_action = str(told(State.UNVERIFIED, **known).next_action)
    assert "tccli batch DescribeTask --region ap-guangzhou --JobId job-1" in next_action
    assert LISTED not in next_action
    waiting: dict[str, Any] = {"instances": LIVE} | OF_PERSON
    assert f"{LISTED}?state=live" in str(told(State.DRAINING, **waiting).next_action)


def test_nodes_stay_billed_and_it_says_what_to_do() -> None:
    tasks = tuple(
        TaskSubmitted(name=name, instances=2, env_id=env_id)
        for name, env_id in (("a", "env-2"), ("b", None), ("c", "env-1"), ("d", "env-1"))
    )
    capture = Capture(run=1, tasks=tasks, nodes=3, ended_at=NOW)
    stopped = told(State.VERIFIED, run=1, capture=capture)
    assert stopped.waiting_for.endswith(
        "work stopped; 3 nodes of env-1, env-2 restart and stay billed"
    )
    assert "TerminateComputeNodes" in str(stopped.next_action)


@pytest.mark.parametrize("known", ["observed_at", "acknowledged_at"])
def test_of_a_job_that_is_gone_its_machines_are_to_be_checked_not_its_id(known: str) -> None:
    seen: dict[str, Any] = {known: NOW}
    next_action = str(told(State.NOT_FOUND, **seen).next_action)
    assert "see in the console that none of its machines is left" in next_action
    assert "job id" not in next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_trouble_with_the_cloud_is_told_with_what_a_person_can_do(state: State) -> None:
    usual, troubled = told(state), told(state, {"trouble": TROUBLE})
    assert troubled.waiting_for == (
        f"{usual.waiting_for}; calls to the cloud fail (Client.Timeout: no answer)"
    )
    assert troubled.next_action == f"{usual.next_action}; check the network"
    assert troubled.next_action_at == usual.next_action_at
    without_advice = told(state, {"trouble": THROTTLED})
    assert without_advice.next_action == usual.next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_trouble_of_another_replica_names_it(state: State) -> None:
    """What a person is advised to look at is there, and nowhere else."""
    usual = told(state)
    troubled = told(state, {"trouble": TROUBLE, "elsewhere": "host-7"})
    assert troubled.waiting_for == (
        f"{usual.waiting_for}; calls to the cloud of replica host-7 fail "
        "(Client.Timeout: no answer)"
    )
    assert troubled.next_action == f"{usual.next_action}; at replica host-7: check the network"


@pytest.mark.parametrize("changes", [{}, {"terminate_after": later(-1)}], ids=["polled", "called"])
@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_an_account_that_only_another_replica_is_configured_for(
    state: State, changes: dict[str, Any]
) -> None:
    """It knows how many calls are made a second; all else is told as there."""
    there = told(state, {"rate": Rate(2, 2), "ahead": 4}, **changes)
    here = told(state, {"rate": None, "ahead": 4}, **changes)
    assert here.waiting_for == there.waiting_for.replace("; 2 a second are allowed", "")
    assert here.next_action == there.next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_an_account_that_is_configured_no_longer(state: State) -> None:
    """Nothing of it is called: to wait would be in vain."""
    found = told(state, {"rate": None, "trouble": TROUBLE, "configured": False})
    assert found.waiting_for == (
        "account 'main' and its region 'ap-guangzhou' to be in the configuration again"
    )
    assert "start the daemon again" in str(found.next_action)
    assert found.next_action_at is None


@pytest.mark.parametrize("state", FINAL_STATES, ids=str)
def test_an_end_is_the_same_whatever_goes_on_around_it(state: State) -> None:
    around = {"rate": None, "trouble": TROUBLE, "ahead": None, "configured": False}
    assert told(state, around) == told(state)
