"""The parameters of each action: names, types, and which are required.

From the vendor's pages: cloud.tencent.com/document/api/599/15911 (TerminateJob), 15908
(TerminateTaskInstance), 15904 (DescribeJob), 15910 (DescribeJobSubmitInfo), 15909 (DescribeJobs),
15905 (DescribeTask); of CVM cloud.tencent.com/document/api/213/15728 (DescribeInstances) and 15723
(TerminateInstances).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping


WHOLE: Final = re.compile(r"-?[0-9]{1,18}")


class ParameterType(Enum):
    TEXT = auto()
    WHOLE = auto()
    TEXTS = auto()
    FLAG = auto()
    """A flag that is checked, but has no effect in the simulator."""
    FILTERS = auto()


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter; an item matches if one of its values matches. All filters of a call must match."""

    name: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """The checked parameters of a call; the action determines which are given."""

    job_id: str = ""
    task_name: str = ""
    task_instance_index: int = 0
    job_ids: tuple[str, ...] = ()
    instance_ids: tuple[str, ...] = ()
    filters: tuple[Filter, ...] = ()
    offset: int = 0
    limit: int | None = None


PARAMETERS: Final[Mapping[str, Mapping[str, ParameterType]]] = {
    "TerminateJob": {"JobId": ParameterType.TEXT},
    "TerminateTaskInstance": {
        "JobId": ParameterType.TEXT,
        "TaskName": ParameterType.TEXT,
        "TaskInstanceIndex": ParameterType.WHOLE,
    },
    "DescribeJob": {"JobId": ParameterType.TEXT},
    "DescribeJobSubmitInfo": {"JobId": ParameterType.TEXT},
    "DescribeJobs": {
        "JobIds": ParameterType.TEXTS,
        "Filters": ParameterType.FILTERS,
        "Offset": ParameterType.WHOLE,
        "Limit": ParameterType.WHOLE,
    },
    "DescribeTask": {
        "JobId": ParameterType.TEXT,
        "TaskName": ParameterType.TEXT,
        "Filters": ParameterType.FILTERS,
        "Offset": ParameterType.WHOLE,
        "Limit": ParameterType.WHOLE,
    },
    "DescribeInstances": {
        "InstanceIds": ParameterType.TEXTS,
        "Filters": ParameterType.FILTERS,
        "Offset": ParameterType.WHOLE,
        "Limit": ParameterType.WHOLE,
    },
    "TerminateInstances": {
        "InstanceIds": ParameterType.TEXTS,
        "ReleaseAddress": ParameterType.FLAG,
        "ReleasePrepaidDataDisks": ParameterType.FLAG,
    },
}
REQUIRED: Final = frozenset({"JobId", "TaskName", "TaskInstanceIndex"})
"""Parameters that are required in every action that has them."""


def check(action: str, params: Mapping[str, object], *, textual: bool) -> Arguments:
    """Return the arguments of a call; raise ``ApiError`` if a parameter is not valid.

    ``textual``: numbers and flags may be text.
    """
    kinds = PARAMETERS[action]
    for name in params:
        if name not in kinds:
            raise ApiError("UnknownParameter", f"The parameter `{name}` is not recognized.")
    given = {name: value for name, value in params.items() if value is not None}
    for name in kinds:
        if name in REQUIRED and name not in given:
            raise missing_parameter(name)
    for name, kind in kinds.items():
        if kind is ParameterType.FLAG:
            _check_flag(name, given.get(name, False), textual)
    limit = given.get("Limit")
    return Arguments(
        job_id=_text("JobId", given.get("JobId", "")),
        task_name=_text("TaskName", given.get("TaskName", "")),
        task_instance_index=_whole("TaskInstanceIndex", given.get("TaskInstanceIndex", 0), textual),
        job_ids=_texts("JobIds", given.get("JobIds", [])),
        instance_ids=_texts("InstanceIds", given.get("InstanceIds", [])),
        filters=_filters(given.get("Filters", [])),
        offset=_whole("Offset", given.get("Offset", 0), textual),
        limit=None if limit is None else _whole("Limit", limit, textual),
    )


def missing_parameter(name: str) -> ApiError:
    return ApiError("MissingParameter", f"The request is missing a required parameter `{name}`.")


def named_jobs(params: Mapping[str, object]) -> tuple[str, ...]:
    """Return the job ids of an unchecked call, as far as they can be recognised."""
    names = [params.get("JobId")]
    several = params.get("JobIds")
    if isinstance(several, list):
        names.extend(several)
    return tuple(name for name in names if isinstance(name, str))


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name)
    return value


def _whole(name: str, value: object, textual: bool) -> int:
    if textual and isinstance(value, str) and WHOLE.fullmatch(value):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong_type(name)
    return value


def _check_flag(name: str, value: object, textual: bool) -> None:
    if textual and isinstance(value, str) and value.lower() in {"true", "false"}:
        return
    if not isinstance(value, bool):
        raise _wrong_type(name)


def _texts(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _wrong_type(name)
    return tuple(_text(f"{name}.{index}", item) for index, item in enumerate(value))


def _filters(value: object) -> tuple[Filter, ...]:
    if not isinstance(value, list):
        raise _wrong_type("Filters")
    return tuple(_filter(f"Filters.{index}", item) for index, item in enumerate(value))


def _filter(where: str, value: object) -> Filter:
    if not isinstance(value, dict):
        raise _wrong_type(where)
    for name in value:
        if name not in {"Name", "Values"}:
            raise ApiError("UnknownParameter", f"The parameter `{where}.{name}` is not recognized.")
    for name in ("Name", "Values"):
        if value.get(name) is None:
            raise missing_parameter(f"{where}.{name}")
    return Filter(
        name=_text(f"{where}.Name", value["Name"]),
        values=frozenset(_texts(f"{where}.Values", value["Values"])),
    )


def _wrong_type(name: str) -> ApiError:
    return ApiError("InvalidParameter", f"The value type of parameter `{name}` is not valid.")
