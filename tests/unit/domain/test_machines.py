"""Which states mean that a machine runs no more, of itself."""

from __future__ import annotations

from orchestrator.domain.machines import MachineState


def test_only_machines_that_nothing_will_run_on_again_are_going() -> None:
    """One that is stopped, restarts or is moved may run on."""
    assert {state.name for state in MachineState if state.going} == {
        "SHUTDOWN",
        "TERMINATING",
        "LAUNCH_FAILED",
    }
