"""Tests of the explanation of a termination, in every state and its situations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.domain.forecasting.forecast import Forecast
from orchestrator.domain.model.batch_job import InstanceCounters, JobState, TaskSubmitted
from orchestrator.domain.model.error_detail import ErrorDetail
from orchestrator.domain.model.instance_scan import InstanceScan
from orchestrator.domain.model.lifecycle import FINAL_STATES, LIVE_STATES, State
from orchestrator.domain.model.termination import EscalationLevel, PollKind
from orchestrator.domain.model.unconfirmed import Unconfirmed, Verdict
from orchestrator.domain.pacing.quota import Rate
from orchestrator.services.explanation.explain import explain
from orchestrator.services.explanation.phrases import LATE_S
from orchestrator.services.explanation.values import Explanation, ExplanationContext
from tests.unit.domain.build import LIVE, NOW, STOPPED, later, machines, termination

if TYPE_CHECKING:
    from datetime import datetime

    Situation = tuple[str, dict[str, Any], str, str, datetime | None]
    """Its name, what is known, and parts of the explanation: why it waits, what is next, when."""

THROTTLED = ErrorDetail(code="RequestLimitExceeded", message="too many calls")
TROUBLE = ErrorDetail(code="Client.Timeout", message="no answer", advice="check the network")
UNCOUNTED = ErrorDetail(
    code="Client.Uncounted", message="the cloud's answer had no instance counters", advice="wait"
)
GIVEN_UP = "nothing: the deadline passed with "
NOT_READ_AGAIN = (
    "nothing: every instance was observed stopped, but they could not be counted again after the "
    "settle window"
)
COUNTED: dict[str, Any] = {"settle_until": NOW, "instances_observed_at": NOW}
FINISHED = {"next_poll_at": None, "finished_at": NOW}


def unconfirmed(verdict: Verdict, *sources: str) -> Unconfirmed:
    return Unconfirmed(
        verdict=verdict, since=later(-60), last_at=NOW, until=later(60), answers=2, sources=sources
    )


def explained(state: State, **known: Any) -> Explanation:
    """Explain a termination with these values, in a context with those that it has."""
    context: dict[str, Any] = {"now": NOW, "jobs_ahead": 0, "rate": Rate(2, 2), "trouble": None}
    context |= {"capture_wait_s": 10.0, "other_replica": None, "configured": True}
    context |= {name: known.pop(name) for name in context.keys() & known.keys()}
    if state in FINAL_STATES:
        known = FINISHED | known
    return explain(termination(state, **known), ExplanationContext(**context))


@pytest.mark.parametrize("state", State, ids=str)
def test_every_state_says_why(state: State) -> None:
    """A new state without an explanation fails here."""
    found = explained(state)
    assert found.waiting_for
    assert found.waiting_for.startswith("nothing: ") == (state in FINAL_STATES)
    assert found.next_action or state in FINAL_STATES
    assert found.next_action_at is None or state in LIVE_STATES


@pytest.mark.parametrize("state", [State.NOT_FOUND, State.REFUSED, State.UNVERIFIED], ids=str)
def test_an_end_without_success_says_what_to_do(state: State) -> None:
    assert "request the termination again" in str(explained(state).next_action)


@pytest.mark.parametrize(
    "state", [State.VERIFIED, State.ALREADY_FINISHED, State.WITHDRAWN], ids=str
)
def test_a_successful_end_leaves_nothing_to_do(state: State) -> None:
    assert explained(state).next_action is None


QUEUED: list[Situation] = [
    (
        "not polled yet",
        {"next_poll_at": later(3)},
        "a poll of the job before TerminateJob is sent",
        "poll the job, then send TerminateJob",
        later(3),
    ),
    (
        "asked for later",
        {"not_before": later(60), "next_poll_at": later(60)},
        "its start time (not_before)",
        "poll the job (DescribeJobs), then send TerminateJob",
        later(60),
    ),
    (
        "its time has come",
        {"jobs_ahead": 0, "not_before": NOW, "terminate_after": NOW},
        "its turn for TerminateJob; jobs ahead of it: 0; 2 requests a second are allowed",
        "TerminateJob",
        NOW,
    ),
    (
        "in the queue",
        {"jobs_ahead": 10, "rate": Rate(5, 5), "terminate_after": NOW},
        "its turn for TerminateJob; jobs ahead of it: 10; 5 requests a second are allowed",
        "TerminateJob",
        later(2),
    ),
    (
        "in the queue, and the cloud allows less than is configured",
        {"jobs_ahead": 12, "rate": Rate(20, 3), "terminate_after": later(-60)},
        "; the cloud accepts 3.0 requests a second for now; 20 are configured",
        "TerminateJob",
        later(4),
    ),
    (
        "called again after a pause",
        {"jobs_ahead": 0, "terminate_after": later(8), "revision": 2, "problem": THROTTLED},
        "may be sent (last error: RequestLimitExceeded: too many calls)",
        "TerminateJob",
        later(8),
    ),
    (
        "a call that did not get through",
        {"next_poll_at": later(4), "problem": THROTTLED},
        "TerminateJob is sent (last error: RequestLimitExceeded: too many calls)",
        "poll the job, then send TerminateJob",
        later(4),
    ),
    (
        "its machines are to be captured first",
        {"terminate_after": later(-2), "run": 1},
        "its machines to be captured before TerminateJob is sent, 10 s at most",
        "read its tasks and instances, then send TerminateJob",
        later(8),
    ),
    (
        "its machines were to be captured first",
        {"terminate_after": later(-10), "run": 1},
        "its turn for TerminateJob; jobs ahead of it: 0",
        "TerminateJob",
        NOW,
    ),
    (
        "too large to be captured first",
        {"terminate_after": later(-2), "run": 1, "awaits_capture": False},
        "its turn for TerminateJob; jobs ahead of it: 0",
        "TerminateJob",
        NOW,
    ),
    (
        "finished before any call",
        {"job_state": JobState.FAILED, "poll_kind": PollKind.SINGLE},
        "a count of its instances, because its state is already finished",
        "(DescribeJob); send TerminateJob only if it is not proven stopped",
        NOW,
    ),
    (
        "submitted as something else than is counted",
        {"job_state": JobState.FAILED, "poll_kind": PollKind.SUBMIT_INFO},
        "the number of instances it was submitted with, because it may have finished already",
        "(DescribeJobSubmitInfo), then count its instances",
        NOW,
    ),
    (
        "not found, and never was",
        {"unconfirmed": unconfirmed(Verdict.MISSING, "DescribeJobs"), "next_poll_at": later(9)},
        (
            "the job to be found: missing from DescribeJobs since 2026-01-01T11:59:00Z; the "
            "termination ends at 2026-01-01T12:01:00Z unless the job is found"
        ),
        "poll the job again",
        later(9),
    ),
    (
        "forbidden for now",
        {"unconfirmed": unconfirmed(Verdict.FORBIDDEN, "TerminateJob"), "problem": TROUBLE},
        (
            "permission for TerminateJob, refused since 2026-01-01T11:59:00Z; the termination ends "
            "as refused at 2026-01-01T12:01:00Z unless permission is granted (last error: "
        ),
        "poll the job again",
        NOW,
    ),
]
HELD: list[Situation] = [
    (
        "submitted",
        {"next_poll_at": later(2)},
        "the job to leave SUBMITTED, where the cloud forbids TerminateJob",
        "poll the job again (DescribeJobs), then send TerminateJob ahead of other jobs",
        later(2),
    ),
    (
        "submitted, and not to be read",
        {"problem": THROTTLED},
        "forbids TerminateJob (last error: RequestLimitExceeded: too many calls)",
        "poll the job again (DescribeJobs), then send TerminateJob ahead of other jobs",
        NOW,
    ),
]
SENDING: list[Situation] = [
    (
        "a call under way",
        {"next_poll_at": None},
        "the cloud's answer to TerminateJob",
        "record the answer",
        None,
    ),
    (
        "an answer that was lost",
        {"outcome_unknown": True, "next_poll_at": later(1), "problem": TROUBLE},
        "whether its TerminateJob request had effect (last error: Client.Timeout: no",
        "send TerminateJob again only if the request had no effect",
        later(1),
    ),
    (
        "a process that ended in between",
        {"outcome_unknown": True},
        "a read of the job: it is not known whether its TerminateJob request had effect",
        "send TerminateJob again only if the request had no effect",
        NOW,
    ),
]
DRAINING: list[Situation] = [
    (
        "not read since the call",
        {},
        "its instances, not counted yet, to stop; the job state is not known",
        "poll the job again; it counts as stopped once it is finished and no instance is live",
        NOW,
    ),
    (
        "draining",
        {"job_state": JobState.RUNNING, "instances": LIVE, "next_poll_at": later(5)},
        "4 of 10 instances to stop; the job state is RUNNING",
        "it counts as stopped once it is finished and no instance is live",
        later(5),
    ),
    (
        "no progress",
        {
            "job_state": JobState.RUNNING,
            "instances": LIVE,
            "forecast": Forecast(made_at=NOW, rate_per_s=0.0, stalled_since=later(-600)),
        },
        "the job state is RUNNING; no progress since 2026-01-01T11:50:00Z",
        "poll the job again",
        NOW,
    ),
    (
        "no progress, to be called again",
        {
            "terminate_after": NOW,
            "job_state": JobState.RUNNING,
            "awaits_capture": False,
            "forecast": Forecast(made_at=NOW, rate_per_s=0.0, stalled_since=later(-600)),
        },
        "TerminateJob request: the job state is RUNNING; no progress since 2026-01-01T11:50:00Z",
        "TerminateJob",
        NOW,
    ),
    (
        "finished, instances live",
        {"job_state": JobState.FAILED, "instances": InstanceCounters(failed_interrupted=1)},
        "1 of 1 instances to stop; the job state is FAILED",
        "poll the job again",
        NOW,
    ),
    (
        "instances stopped, the job not",
        {"job_state": JobState.RUNNING, "instances": STOPPED},
        "the job to finish; no instance was live at the last count; the job state is RUNNING",
        "poll the job again",
        NOW,
    ),
    (
        "finished since its instances were counted",
        {"job_state": JobState.FAILED, "instances": STOPPED},
        "proof that all instances stopped: the last count showed none live but is no proof; ",
        "poll the job again",
        NOW,
    ),
    (
        "something pending",
        {"job_state": JobState.FAILED, "instances": STOPPED, "job_next_action": "TERMINATING"},
        "the pending TERMINATING to end; no instance was live at the last count; the job state is ",
        "poll the job again",
        NOW,
    ),
    (
        "draining, and not to be read",
        {"instances": LIVE, "problem": TROUBLE},
        "(last error: Client.Timeout: no answer)",
        "poll the job again",
        NOW,
    ),
    (
        "runs after its call, to be called again",
        {"jobs_ahead": 4, "terminate_after": later(-5), "job_state": JobState.RUNNING},
        "; 2 requests a second are allowed; the job kept running, or was revived, after the last ",
        "TerminateJob",
        later(2),
    ),
    (
        "to be called again, but later",
        {"terminate_after": later(8), "acknowledged_at": later(-90), "job_state": JobState.RUNNING},
        "the time from which TerminateJob may be sent; the job kept running, or was revived, after",
        "TerminateJob",
        later(8),
    ),
    (
        "not found any more",
        {
            "unconfirmed": unconfirmed(Verdict.MISSING, "DescribeJob", "DescribeJobs"),
            "observed_at": later(-90),
        },
        "the job to be found again: missing from DescribeJob and DescribeJobs since 2026-01-01T11:",
        "poll the job again",
        NOW,
    ),
    (
        "not readable past its deadline",
        {"unconfirmed": unconfirmed(Verdict.UNREADABLE, "DescribeJob")},
        (
            "a successful read: reads fail since 2026-01-01T11:59:00Z; "
            "the termination ends at 2026-01-01T12:01:00Z unless the job can be read"
        ),
        "poll the job again",
        NOW,
    ),
]
SETTLING: list[Situation] = [
    (
        "settled, but for its machines",
        COUNTED | {"next_poll_at": later(5)} | machines(gone=1, up=2),
        "3 of 4 machines to be gone (2 of them up): all instances were observed stopped",
        "it is verified if no instance",
        later(5),
    ),
    (
        "settling",
        {"settle_until": later(30), "next_poll_at": later(5)},
        "the settle window to end: all instances were observed stopped, but RetryJobs can revive",
        "it is verified if no instance is live and no machine is up",
        later(30),
    ),
    (
        "settling, and not to be read",
        {"settle_until": later(30), "next_poll_at": later(40), "problem": TROUBLE},
        "RetryJobs can revive the job (last error: Client.Timeout: no answer)",
        "it is verified if no instance",
        later(40),
    ),
    (
        "settled, but for its instances",
        {"settle_until": NOW, "instances_observed_at": later(-1), "next_poll_at": later(-1)},
        "a count of its instances after the settle window (DescribeJob): all instances were",
        "count its instances and read its machines once more",
        NOW,
    ),
    (
        "settled, but for the second read of its machines",
        COUNTED | {"next_poll_at": later(5)} | machines(all_observed_at=later(-1)),
        "a read of its machines after the settle window (DescribeInstances): all instances",
        "it is verified if no instance",
        later(5),
    ),
    (
        "settled, but for the last poll",
        COUNTED | {"next_poll_at": later(-1)},
        "a last poll, because the settle window has ended: all instances were observed stopped",
        "it is verified if no instance",
        NOW,
    ),
]
SITUATIONS = {
    State.QUEUED: QUEUED,
    State.HELD: HELD,
    State.SENDING: SENDING,
    State.DRAINING: DRAINING,
    State.SETTLING: SETTLING,
}


@pytest.mark.parametrize(
    ("state", "known", "waiting_for", "next_action", "at"),
    [
        pytest.param(state, *situation, id=f"{state}: {name}")
        for state, situations in SITUATIONS.items()
        for name, *situation in situations
    ],
)
def test_the_wait_of_a_live_termination(
    state: State, known: dict[str, Any], waiting_for: str, next_action: str, at: datetime | None
) -> None:
    found = explained(state, **known)
    assert waiting_for in found.waiting_for
    assert next_action in str(found.next_action)
    assert found.next_action_at == at


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_poll_that_is_a_little_late_is_due_now(state: State) -> None:
    """The time of the next action is never in the past."""
    late: dict[str, Any] = {"next_poll_at": later(-LATE_S), "settle_until": later(-LATE_S)}
    found = explained(state, **late, outcome_unknown=True)
    assert found.next_action_at == NOW
    assert "overdue since" not in found.waiting_for


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_poll_behind_others_has_no_time(state: State) -> None:
    """Otherwise it would read as due now in every response, for minutes."""
    usual = explained(state, outcome_unknown=True, settle_until=later(30), problem=THROTTLED)
    late: dict[str, Any] = {"next_poll_at": later(-LATE_S - 1), "settle_until": later(30)}
    late |= {"problem": THROTTLED, "outcome_unknown": True}
    found = explained(state, **late)
    due = f"{usual.waiting_for}; the poll has been overdue since 2026-01-01T11:59:54Z"
    known = "other polls come first, or its database row is locked (see the log)"
    assert found.waiting_for == f"{due}: {known}"
    assert (found.next_action, found.next_action_at) == (usual.next_action, None)
    troubled = explained(state, trouble=TROUBLE, **late)
    assert troubled.waiting_for == f"{due}; cloud API calls fail (Client.Timeout: no answer)"
    assert troubled.next_action_at is None


@pytest.mark.parametrize("state", [State.QUEUED, State.DRAINING], ids=str)
def test_a_termination_that_waits_for_its_call_waits_for_no_poll(state: State) -> None:
    found = explained(state, next_poll_at=later(-300), terminate_after=later(-300))
    assert "overdue since" not in found.waiting_for
    assert found.next_action_at == NOW


@pytest.mark.parametrize(
    ("state", "changes", "waiting_for"),
    [
        (State.QUEUED, {}, "a poll of the job before TerminateJob is sent"),
        (
            State.SENDING,
            {"outcome_unknown": True},
            "a read of the job: it is not known whether its TerminateJob request had effect",
        ),
        (State.DRAINING, {}, "its instances, not counted yet, to stop; the job state is FAILED"),
        (State.DRAINING, {"instances": LIVE}, "4 of 10 instances to stop; the job state is FAILED"),
        (State.UNVERIFIED, {}, f"{GIVEN_UP}its instances never counted; the job state is FAILED"),
        (State.UNVERIFIED, {"evidence": 3}, NOT_READ_AGAIN),
    ],
)
def test_an_answer_without_counters_is_reported(
    state: State, changes: dict[str, Any], waiting_for: str
) -> None:
    found = explained(state, **changes, job_state=JobState.FAILED, problem=UNCOUNTED)
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
            f"{GIVEN_UP}4 of 10 instances live at the last count; the job state is RUNNING",
        ),
        ({"evidence": 3}, NOT_READ_AGAIN),
    ],
)
def test_a_passed_deadline_is_stated_once(
    changes: dict[str, Any], given_up: str, more: str, why: str
) -> None:
    message = f"the job was not proven stopped by its deadline{more}"
    problem = ErrorDetail(code="Client.DeadlinePassed", message=message)
    assert explained(State.UNVERIFIED, **changes, problem=problem).waiting_for == given_up + why


@pytest.mark.parametrize(
    ("state", "changes", "why"),
    [
        (
            State.VERIFIED,
            {"instances_observed_at": later(5), "settle_until": later(5)},
            "every instance was observed stopped, also after the settle window",
        ),
        (
            State.VERIFIED,
            {"observed_at": later(4), "settle_until": later(5)},
            "every instance was observed stopped, and the job was deleted since",
        ),
        (State.VERIFIED, machines(), "; all 4 machines are gone"),
        (
            State.VERIFIED,
            {},
            "; it is not proven that its machines are gone: its machines were not",
        ),
        (
            State.VERIFIED,
            machines(gone=3, problem=THROTTLED),
            (
                "are gone: reading them failed: RequestLimitExceeded: too many calls; 3 of the 4 "
                "captured machines are gone"
            ),
        ),
        (State.VERIFIED, machines(gone=3), "; 3 of the 4 captured machines are gone"),
        (State.VERIFIED, machines(listed=False), "DescribeInstances never listed any of them"),
        (State.UNVERIFIED, machines(up=1) | {"evidence": 3}, "1 of 4 machines were still up"),
        (State.UNVERIFIED, machines(up=1) | {"instances": LIVE}, "with 4 of 10 instances live"),
        (State.ALREADY_FINISHED, {}, "finished before any TerminateJob request had effect"),
        (State.NOT_FOUND, {}, "nothing: the cloud knows no such job in this account and region"),
        (
            State.NOT_FOUND,
            {"observed_at": NOW},
            "showed the job at 2026-01-01T12:00:00Z and no longer knows it; the job was deleted ",
        ),
        (
            State.NOT_FOUND,
            {"observed_at": NOW, "acknowledged_at": later(5), "evidence": 1},
            "acknowledged TerminateJob at 2026-01-01T12:00:05Z and no longer knows it; the job ",
        ),
        (
            State.NOT_FOUND,
            {"observed_at": NOW, "acknowledged_at": later(5)},
            "the cloud acted on the job at 2026-01-01T12:00:05Z and no longer knows it; the job ",
        ),
        (State.REFUSED, {"problem": THROTTLED}, "refused for good; `error` has the reason"),
        (State.WITHDRAWN, {}, "withdrawn before TerminateJob was sent"),
        (
            State.UNVERIFIED,
            {"instances": LIVE, "job_state": JobState.RUNNING},
            "passed with 4 of 10 instances live at the last count; the job state is RUNNING",
        ),
        (
            State.UNVERIFIED,
            {"instances": STOPPED, "job_state": JobState.RUNNING},
            "with 0 of 10 instances live at the last count; the job state is RUNNING",
        ),
        (
            State.UNVERIFIED,
            {"instances": STOPPED, "evidence": 3, "problem": TROUBLE},
            "stopped, but they could not be counted again after the settle window (last error: ",
        ),
        (
            State.UNVERIFIED,
            {"problem": TROUBLE},
            "with its instances never counted; the job state is not known (last error: ",
        ),
    ],
)
def test_why_it_ended(state: State, changes: dict[str, Any], why: str) -> None:
    assert why in explained(state, **changes).waiting_for


def test_machines_that_are_left_are_named_with_the_command_that_ends_them() -> None:
    left = explained(State.UNVERIFIED, evidence=3, **machines(gone=3, up=1))
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
            f"none of its machines is up (captured machines: {LISTED}",
            "",
        ),
        (
            ALL_STOPPED,
            "in the console that the job has stopped and that none of its machines is up",
            "",
        ),
    ],
)
@pytest.mark.parametrize("end", [(State.UNVERIFIED, {}), (State.DRAINING, OF_PERSON)])
def test_no_person_is_sent_to_an_empty_list(
    changes: dict[str, Any], named: str, command: str, end: tuple[State, dict[str, Any]]
) -> None:
    """The live instances are listed only while there are some, the machines that are up always."""
    state, more = end
    next_action = str(explained(state, **(changes | more)).next_action)
    assert named in next_action
    assert command in next_action
    assert ("?state=live" in next_action) == ("?state=live" in named)


@pytest.mark.parametrize("known", [{}, {"instances": LIVE}])
def test_where_no_instance_was_ever_read_the_cloud_is_asked_for_them(known: dict[str, Any]) -> None:
    """That holds after the end: until then, a request for the list has them read."""
    next_action = str(explained(State.UNVERIFIED, **known).next_action)
    assert "tccli batch DescribeTask --region ap-guangzhou --JobId job-1" in next_action
    assert LISTED not in next_action
    waiting: dict[str, Any] = {"instances": LIVE} | OF_PERSON
    assert f"{LISTED}?state=live" in str(explained(State.DRAINING, **waiting).next_action)


def test_nodes_stay_billed_and_it_says_what_to_do() -> None:
    tasks = tuple(
        TaskSubmitted(name=name, instances=2, env_id=env_id)
        for name, env_id in (("a", "env-2"), ("b", None), ("c", "env-1"), ("d", "env-1"))
    )
    capture = InstanceScan(run=1, tasks=tasks, nodes=3, ended_at=NOW)
    stopped = explained(State.VERIFIED, run=1, capture=capture)
    assert stopped.waiting_for.endswith(
        "work stopped; 3 nodes of env-1, env-2 restart and stay billed"
    )
    assert "TerminateComputeNodes" in str(stopped.next_action)


@pytest.mark.parametrize("known", ["observed_at", "acknowledged_at"])
def test_of_a_job_that_is_gone_its_machines_are_to_be_checked_not_its_id(known: str) -> None:
    seen: dict[str, Any] = {known: NOW}
    next_action = str(explained(State.NOT_FOUND, **seen).next_action)
    assert "check in the console that none of its machines is left" in next_action
    assert "job id" not in next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_failing_cloud_is_reported_with_what_to_do(state: State) -> None:
    usual, troubled = explained(state), explained(state, trouble=TROUBLE)
    assert troubled.waiting_for == (
        f"{usual.waiting_for}; cloud API calls fail (Client.Timeout: no answer)"
    )
    assert troubled.next_action == f"{usual.next_action}; check the network"
    assert troubled.next_action_at == usual.next_action_at
    without_advice = explained(state, trouble=THROTTLED)
    assert without_advice.next_action == usual.next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_a_failure_of_another_replica_names_it(state: State) -> None:
    """The advice is about that replica's machine and configuration, not this one's."""
    usual = explained(state)
    troubled = explained(state, trouble=TROUBLE, other_replica="host-7")
    assert troubled.waiting_for == (
        f"{usual.waiting_for}; cloud API calls of replica host-7 fail (Client.Timeout: no answer)"
    )
    assert troubled.next_action == f"{usual.next_action}; at replica host-7: check the network"


@pytest.mark.parametrize("changes", [{}, {"terminate_after": later(-1)}], ids=["polled", "called"])
@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_an_account_that_only_another_replica_is_configured_for(
    state: State, changes: dict[str, Any]
) -> None:
    """Only that replica knows the request rate; everything else is the same on both."""
    there = explained(state, rate=Rate(2, 2), jobs_ahead=4, **changes)
    here = explained(state, rate=None, jobs_ahead=4, **changes)
    assert here.waiting_for == there.waiting_for.replace("; 2 requests a second are allowed", "")
    assert here.next_action == there.next_action


@pytest.mark.parametrize("state", LIVE_STATES, ids=str)
def test_an_account_that_is_configured_no_longer(state: State) -> None:
    """No API call is made for it, so waiting would have no end."""
    found = explained(state, rate=None, trouble=TROUBLE, configured=False)
    assert found.waiting_for == (
        "account 'main' and its region 'ap-guangzhou' to be configured again"
    )
    assert "restart the daemon" in str(found.next_action)
    assert found.next_action_at is None


@pytest.mark.parametrize("state", FINAL_STATES, ids=str)
def test_a_final_state_is_explained_the_same_in_every_context(state: State) -> None:
    found = explained(state, rate=None, trouble=TROUBLE, jobs_ahead=None, configured=False)
    assert found == explained(state)
