"""Errors of the simulated API, and of scenarios and control documents."""

from __future__ import annotations


class ApiError(Exception):
    """An error response: a vendor code, and a message on which clients must not depend."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ScenarioError(Exception):
    """All mistakes in a scenario or in a control document, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
