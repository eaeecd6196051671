"""Operations as the submission service stores them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from orchestrator.domain.model.operation import NewOperation
from orchestrator.domain.model.termination import TerminationRequest

_ASKED = {field.name for field in fields(TerminationRequest)}


def new_operation(operation_id: str, *job_ids: str, **values: Any) -> NewOperation:
    """Return an operation on these jobs; ``values`` are fields of it or of its request."""
    asked = {name: value for name, value in values.items() if name in _ASKED}
    of_operation: dict[str, Any] = {
        "id": operation_id,
        "account": "main",
        "region": "ap-guangzhou",
        "partition": "main@cloud",
        "duplicates_merged": 0,
        "reason": "budget",
        "requested_by": "me",
        "idempotency_key": None,
        "request_hash": "h",
    }
    of_operation |= {name: value for name, value in values.items() if name not in _ASKED}
    windows = {"settle_s": 30.0, "give_up_after_s": 3600.0}
    return NewOperation(
        job_ids=job_ids,
        request=TerminationRequest(**(windows | asked)),
        **of_operation,
    )
