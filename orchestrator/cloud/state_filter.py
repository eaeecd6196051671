"""The name of the filter by which DescribeTask picks instances of some states."""

from __future__ import annotations

from typing import Final

CHINA_NAME: Final = "task-instance-state"
"""cloud.tencent.com/document/api/599/15905"""
INTERNATIONAL_NAME: Final = "task-instance-type"
"""tencentcloud.com/document/product/599/30555"""

_OTHER: Final = {CHINA_NAME: INTERNATIONAL_NAME, INTERNATIONAL_NAME: CHINA_NAME}

Task = tuple[str, str]
"""A job's id, and a task's name."""


class StateFilter:
    """Which of the two documented names the cloud takes: what follows from each filtered call.

    The vendor's sites disagree, and which codes refuse an unknown filter is not documented.  So the
    one name is tried until it does not work, then the other.
    """

    def __init__(self) -> None:
        self._name = CHINA_NAME
        self._refused: dict[Task, str] = {}
        """The one name that was refused, of those tasks of which the other was not tried yet."""

    def name_for(self, task: Task) -> str:
        """The name to ask ``task`` by: the one that worked last, or was not refused last."""
        refused = self._refused.get(task)
        return _OTHER[refused] if refused else self._name

    def refused(self, task: Task, name: str) -> bool:
        """Take note that ``name`` was refused; returns whether ``task`` is worth the other name.

        It is not where both were refused: it must then be for another reason.
        """
        self._name = _OTHER[name]
        if self._refused.get(task, name) != name:
            del self._refused[task]
            return False
        self._refused[task] = name
        return True

    def answered(self, task: Task, name: str, *, obeyed: bool) -> None:
        """Take note that a call by ``name`` was answered, by the states asked for or by any."""
        self._refused.pop(task, None)
        self._name = name if obeyed else _OTHER[name]
