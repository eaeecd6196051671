"""The two ways of saying no: an error of the API, and mistakes in what the simulator was given."""

from __future__ import annotations


class ApiError(Exception):
    """An error answer: a vendor code, and a message that clients must not depend on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ScenarioError(Exception):
    """Every mistake found in a scenario or in a control document, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
