"""Name of DescribeTask's filter by instance state, which differs between the vendor's sites."""

from __future__ import annotations

from typing import Final

CHINA_NAME: Final = "task-instance-state"
"""cloud.tencent.com/document/api/599/15905"""
INTERNATIONAL_NAME: Final = "task-instance-type"
"""tencentcloud.com/document/product/599/30555"""

_OTHER: Final = {CHINA_NAME: INTERNATIONAL_NAME, INTERNATIONAL_NAME: CHINA_NAME}

Task = tuple[str, str]
"""Job id and task name."""


class StateFilter:
    """The filter name that the cloud accepts, learned from the reply to each filtered request.

    The documentation of the two sites differs, and the error codes for an unknown filter are not
    documented. One name is used until it fails, then the other.
    """

    def __init__(self) -> None:
        self._name = CHINA_NAME
        self._refused: dict[Task, str] = {}
        """By task: the name that was refused, until the other name was tried."""

    def name_for(self, task: Task) -> str:
        """Return the name for the next request about ``task``.

        That is the last name that worked, or the one that was not the last to be refused.
        """
        refused = self._refused.get(task)
        return _OTHER[refused] if refused else self._name

    def refused(self, task: Task, name: str) -> bool:
        """Record that ``name`` was refused; return whether to try the other name for ``task``.

        If both names were refused, the refusal has another reason, and the result is false.
        """
        self._name = _OTHER[name]
        if self._refused.get(task, name) != name:
            del self._refused[task]
            return False
        self._refused[task] = name
        return True

    def answered(self, task: Task, name: str, *, obeyed: bool) -> None:
        """Record a reply to a request with ``name``; ``obeyed``: all rows match the filter."""
        self._refused.pop(task, None)
        self._name = name if obeyed else _OTHER[name]
