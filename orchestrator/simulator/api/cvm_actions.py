"""The actions of the service CVM, version 2017-03-12: what is told of machines, and their taking.

cloud.tencent.com/document/api/213/15728 (DescribeInstances), 213/15723 (TerminateInstances) and
213/15753 (the structures); the codes are those that the vendor lists for each action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator.simulator.api.documents import tag_list, time_text
from orchestrator.simulator.api.paging import check_page, rows
from orchestrator.simulator.api.parameters import missing_parameter
from orchestrator.simulator.cloud.machines import MACHINE_ID, machine_id
from orchestrator.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestrator.simulator.api.batch_actions import Action, Document
    from orchestrator.simulator.api.parameters import Arguments, Filter
    from orchestrator.simulator.cloud.machines import MachineRange
    from orchestrator.simulator.cloud.region import Region

IDS_MAX: Final = 100
LIMIT: Final = 20
LIMIT_MAX: Final = 100
FILTERS_MAX: Final = 10
FILTER_VALUES_MAX: Final = 5
FILTERS: Final[Mapping[str, Callable[[MachineRange], Iterable[str]]]] = {
    "zone": lambda some: [some.job.spec.zone],
    "instance-name": lambda some: [_name(some)],
    "instance-state": lambda some: [some.state],
    "tag-key": lambda some: some.job.spec.tags.keys(),
    "tag-value": lambda some: some.job.spec.tags.values(),
}
"""Of the vendor's filters those that jobs have something for; any other is refused."""
TAG: Final = "tag:"
IN_THE_WAY: Final[Mapping[str, str]] = {
    "PENDING": "UnsupportedOperation.InstanceStatePending",
    "REBOOTING": "UnsupportedOperation.InstanceStateRebooting",
    "TERMINATING": "UnsupportedOperation.InstanceStateTerminating",
}
"""States in which a machine cannot be taken, with the code that says so."""


def describe_instances(region: Region, arguments: Arguments) -> Document:
    """A page of the machines named, or of those that pass the filters; unknown ids are left out."""
    if arguments.instance_ids and arguments.filters:
        raise ApiError("InvalidParameter", "InstanceIds and Filters must not be given together.")
    limit = LIMIT if arguments.limit is None else arguments.limit
    check_page(arguments.offset, limit)
    if limit > LIMIT_MAX:
        raise ApiError("InvalidParameterValue", "Limit must not be more than 100.")
    _check_filters(arguments.filters)
    _check_ids(arguments.instance_ids)
    if arguments.instance_ids:
        named = (region.machine(one) for one in sorted(set(arguments.instance_ids)))
        found = [some for some in named if some is not None]
    else:
        found = [
            some
            for some in region.machines()
            if all(_passes(some, one) for one in arguments.filters)
        ]
    page = rows(found, offset=arguments.offset, limit=limit)
    return {
        "TotalCount": sum(some.count for some in found),
        "InstanceSet": [_instance(some, index) for some, index in page],
    }


def terminate_instances(region: Region, arguments: Arguments) -> Document:
    """Take the machines named, or none of them where one cannot be taken."""
    if not arguments.instance_ids:
        raise missing_parameter("InstanceIds")
    _check_ids(arguments.instance_ids)
    taken = []
    for one in dict.fromkeys(arguments.instance_ids):
        found = region.machine(one)
        if found is None:
            raise ApiError("InvalidInstanceId.NotFound", f"The instance `{one}` does not exist.")
        if found.state in IN_THE_WAY:
            raise ApiError(IN_THE_WAY[found.state], f"The instance `{one}` is {found.state}.")
        taken.append(found)
    for some in taken:
        some.job.take_machine(some.run, some.first, region.now)
    return {}


ACTIONS: Final[Mapping[str, Action]] = {
    "DescribeInstances": describe_instances,
    "TerminateInstances": terminate_instances,
}


def _check_ids(machine_ids: tuple[str, ...]) -> None:
    if len(machine_ids) > IDS_MAX:
        raise ApiError("InvalidParameterValue.LimitExceeded", "At most 100 ids can be given.")
    for one in machine_ids:
        if not MACHINE_ID.fullmatch(one):
            raise ApiError("InvalidInstanceId.Malformed", f"The instance id `{one}` is malformed.")


def _check_filters(filters: tuple[Filter, ...]) -> None:
    if len(filters) > FILTERS_MAX:
        raise ApiError("InvalidParameterValue.LimitExceeded", "At most 10 filters can be given.")
    for one in filters:
        if one.name not in FILTERS and not one.name.startswith(TAG):
            raise ApiError("InvalidFilter", f"The filter `{one.name}` is not supported.")
        if len(one.values) > FILTER_VALUES_MAX:
            raise ApiError("InvalidFilterValue.LimitExceeded", "A filter has at most 5 values.")


def _passes(some: MachineRange, one: Filter) -> bool:
    if one.name.startswith(TAG):
        return some.job.spec.tags.get(one.name.removeprefix(TAG)) in one.values
    return not one.values.isdisjoint(FILTERS[one.name](some))


def _instance(some: MachineRange, index: int) -> dict[str, object]:
    spec = some.job.spec
    return {
        "InstanceId": machine_id(some.job, some.run, index),
        "InstanceName": _name(some),
        "InstanceState": some.state,
        "Placement": {"Zone": spec.zone, "ProjectId": 0},
        "CreatedTime": time_text(some.job.revived_at if some.run else some.job.created_at),
        "LatestOperation": some.operation,
        "LatestOperationState": "SUCCESS" if some.state == "RUNNING" else "OPERATING",
        "Tags": tag_list(spec.tags),
    }


def _name(some: MachineRange) -> str:
    """The environment of a node; of other machines the name they were submitted with."""
    return some.job.spec.env_id or some.job.spec.name
