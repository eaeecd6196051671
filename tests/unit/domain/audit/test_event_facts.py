"""Facts that an event stores of the observations behind a decision."""

from __future__ import annotations

from orchestrator.domain.audit.event_facts import of_revival
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.termination import Revival
from tests.unit.domain.build import NOW


def test_the_event_of_a_revival_holds_what_was_observed_and_nothing_else() -> None:
    assert of_revival(Revival(at=NOW, job_state=JobState.RUNNING)) == {
        "job_state": "RUNNING",
        "observed_at": "2026-01-01T12:00:00.000000Z",
    }
    assert set(of_revival(Revival(at=NOW, job_state=JobState.FAILED, job_end_time="E"))) == {
        "job_state",
        "job_end_time",
        "observed_at",
    }
