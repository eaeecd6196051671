"""The actions of the service CVM, version 2017-03-12: describe and terminate machines.

cloud.tencent.com/document/api/213/15728 (DescribeInstances), 213/15723 (TerminateInstances) and
213/15753 (the structures). The error codes are those that the vendor lists for each action.
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
    "zone": lambda machines: [machines.job.spec.zone],
    "instance-name": lambda machines: [_name(machines)],
    "instance-state": lambda machines: [machines.state],
    "tag-key": lambda machines: machines.job.spec.tags.keys(),
    "tag-value": lambda machines: machines.job.spec.tags.values(),
}
"""The supported filters: those for which jobs have data; any other filter is refused."""
TAG: Final = "tag:"
NOT_TERMINABLE: Final[Mapping[str, str]] = {
    "PENDING": "UnsupportedOperation.InstanceStatePending",
    "REBOOTING": "UnsupportedOperation.InstanceStateRebooting",
    "TERMINATING": "UnsupportedOperation.InstanceStateTerminating",
}
"""States in which a machine cannot be terminated, with the error code of each."""


def describe_instances(region: Region, arguments: Arguments) -> Document:
    """Return a page of the named machines or of those that match the filters.

    Unknown ids are omitted.
    """
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
        found = [machines for machines in named if machines is not None]
    else:
        found = [
            machines
            for machines in region.machines()
            if all(_passes(machines, one) for one in arguments.filters)
        ]
    page = rows(found, offset=arguments.offset, limit=limit)
    return {
        "TotalCount": sum(machines.count for machines in found),
        "InstanceSet": [_instance(machines, index) for machines, index in page],
    }


def terminate_instances(region: Region, arguments: Arguments) -> Document:
    """Terminate the named machines, or none if one of them cannot be terminated."""
    if not arguments.instance_ids:
        raise missing_parameter("InstanceIds")
    _check_ids(arguments.instance_ids)
    machines = []
    for one in dict.fromkeys(arguments.instance_ids):
        found = region.machine(one)
        if found is None:
            raise ApiError("InvalidInstanceId.NotFound", f"The instance `{one}` does not exist.")
        if found.state in NOT_TERMINABLE:
            raise ApiError(NOT_TERMINABLE[found.state], f"The instance `{one}` is {found.state}.")
        machines.append(found)
    for machine in machines:
        machine.job.terminate_machine(machine.run, machine.first, region.now)
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


def _passes(machines: MachineRange, one: Filter) -> bool:
    if one.name.startswith(TAG):
        return machines.job.spec.tags.get(one.name.removeprefix(TAG)) in one.values
    return not one.values.isdisjoint(FILTERS[one.name](machines))


def _instance(machines: MachineRange, index: int) -> dict[str, object]:
    spec = machines.job.spec
    return {
        "InstanceId": machine_id(machines.job, machines.run, index),
        "InstanceName": _name(machines),
        "InstanceState": machines.state,
        "Placement": {"Zone": spec.zone, "ProjectId": 0},
        "CreatedTime": time_text(
            machines.job.revived_at if machines.run else machines.job.created_at
        ),
        "LatestOperation": machines.operation,
        "LatestOperationState": "SUCCESS" if machines.state == "RUNNING" else "OPERATING",
        "Tags": tag_list(spec.tags),
    }


def _name(machines: MachineRange) -> str:
    """Return the environment of a node, or the submitted name of another machine."""
    return machines.job.spec.env_id or machines.job.spec.name
