"""The comparison at the end of the demo."""

from __future__ import annotations

from rich.console import Console

from orchestrator.cli.client.models import Instances
from orchestrator.cli.demo.comparison import (
    UNKNOWN_JOBS,
    Faults,
    QuotaCount,
    Quotas,
    TrueJob,
    Truth,
    as_lines,
    as_table,
    compare,
    hidden,
)

UNKNOWN = dict.fromkeys(UNKNOWN_JOBS, "not_found")


def job(job_id: str, label: str = "running", *, live: int = 0, expect=("verified",)) -> TrueJob:
    return TrueJob(job_id=job_id, label=label, expect=list(expect), live=live)


def judge(*jobs: TrueJob, **states: str):
    return compare(Truth(jobs=list(jobs)), {**UNKNOWN, **states})


def test_all_as_expected():
    """There is a row for each label and one for the unknown ids."""
    rows = judge(job("a"), job("b"), job("c", "other"), a="verified", b="verified", c="verified")
    assert [(row.label, row.jobs, row.ok) for row in rows] == [
        ("running", 2, True),
        ("other", 1, True),
        ("unknown to the cloud", 2, True),
    ]


def test_another_final_state_is_wrong():
    """One wrong job makes its row wrong."""
    rows = judge(job("a"), job("b"), a="verified", b="refused")
    assert not rows[0].ok
    assert rows[0].got == {"verified": 1, "refused": 1}


def test_reported_stopped_while_live_is_wrong():
    """The ground truth decides, even if the scenario expects the state."""
    assert not judge(job("a", live=1), a="verified")[0].ok
    assert judge(job("a", live=1, expect=("refused",)), a="refused")[0].ok


def test_either_of_several_is_right():
    """A scenario can allow several final states."""
    rows = judge(job("a", expect=("verified", "already_finished")), a="already_finished")
    assert rows[0].ok


def test_a_job_that_is_missing_is_wrong():
    """An unknown id in any state other than not_found is also wrong."""
    assert not judge(job("a"))[0].ok
    states = {**UNKNOWN, UNKNOWN_JOBS[0]: "already_finished"}
    assert not compare(Truth(jobs=[]), states)[0].ok


def test_instances_that_are_shown_nowhere_are_wrong():
    """Hidden live instances are wrong for any states of their jobs."""
    running = Truth(jobs=[job("a", live=100), job("b")])
    shown = Instances(total=9, live=0, stopped=9, jobs_not_counted=0)
    assert hidden(running, shown) == (
        "100 instances are live in the simulator, but the orchestrator shows none as live or "
        "not counted"
    )
    assert hidden(running, shown.model_copy(update={"live": 7})) is None
    assert hidden(running, shown.model_copy(update={"jobs_not_counted": 1})) is None
    assert hidden(Truth(jobs=[job("b")]), shown) is None


def test_in_words():
    """A wrong row is marked with NO."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(as_table(judge(job("a"), a="refused")))
    assert "NO" in capture.get()
    with (narrow := Console(width=40)).capture() as capture:
        narrow.print(as_table(judge(job("a"), a="refused")))
    assert "…" not in capture.get()
    count = QuotaCount(action="TerminateJob", limit_per_s=10, calls=56, refused=1)
    faults = Faults(fired={"hang": 0, "throttle": 3})
    assert list(as_lines(Quotas(quotas=[count]), faults)) == [
        "TerminateJob: 56 API calls, limit 10 per second, 1 refused above the limit",
        "faults injected by the simulator, not counted above: throttle 3",
    ]
