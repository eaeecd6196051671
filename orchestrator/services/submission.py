"""Submission of an operation: resolve its account and region, fill in defaults, store it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import InvalidRequest
from orchestrator.domain.ids import new_id, new_ids
from orchestrator.domain.model.operation import NewOperation
from orchestrator.domain.model.termination import TerminationRequest
from orchestrator.domain.regions import zone_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from orchestrator.domain.model.termination import OnSubmitted
    from orchestrator.services.ports import Records, SubmissionResult

SETTLE_MAX_S: Final = 86_400.0
GIVE_UP_AFTER_MAX_S: Final = 30 * 86_400.0
RETERMINATE_FOR_MAX_S: Final = 30 * 86_400.0
NOT_BEFORE_MAX: Final = timedelta(days=30)
"""Limit of ``not_before``: a wrong year must not leave a job running for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to terminate jobs; None means the configuration decides."""

    jobs: tuple[str, ...]
    account: str | None
    region: str | None
    reason: str
    on_submitted: OnSubmitted
    not_before: datetime | None
    give_up_after_s: float | None
    settle_s: float | None
    escalate: bool = True
    """Whether more than TerminateJob may be called for instances that do not stop."""
    reterminate_for_s: float | None = None
    """Seconds after its stop during which a revived job is terminated again; None: never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRoutes:
    """The regions of a configured account, and the partition of each."""

    partitions: Mapping[str, str]
    default_region: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Use case: accept a request to terminate jobs.

    ``on_accepted`` is called with the partition that has new work.
    """

    records: Records
    accounts: Mapping[str, AccountRoutes]
    default_settle_s: float
    default_give_up_after_s: float
    revival_watch_s: float
    now: Callable[[], datetime]
    random: Random
    on_accepted: Callable[[str], None]

    async def submit(
        self, request: Request, *, requested_by: str, idempotency_key: str | None
    ) -> SubmissionResult:
        """Store the request durably.

        Raises InvalidRequest, IdempotencyKeyReused and StoreUnavailable.
        """
        account, region, partition = self.resolve_target(request)
        created_at = self.now()
        if request.not_before is not None and request.not_before - created_at > NOT_BEFORE_MAX:
            raise InvalidRequest(
                f"not_before is more than {NOT_BEFORE_MAX.days} days ahead: choose an earlier "
                "time, or submit the request later"
            )
        job_ids = tuple(dict.fromkeys(request.jobs))
        operation = NewOperation(
            id=new_id("op", self.random),
            account=account,
            region=region,
            partition=partition,
            job_ids=job_ids,
            duplicates_merged=len(request.jobs) - len(job_ids),
            reason=request.reason,
            requested_by=requested_by,
            idempotency_key=idempotency_key,
            request_hash=_hash(request),
            request=TerminationRequest(
                created_at=created_at,
                settle_s=self.default_settle_s if request.settle_s is None else request.settle_s,
                give_up_after_s=(
                    self.default_give_up_after_s
                    if request.give_up_after_s is None
                    else request.give_up_after_s
                ),
                on_submitted=request.on_submitted,
                not_before=request.not_before,
                revival_watch_s=max(self.revival_watch_s, request.reterminate_for_s or 0.0),
                escalate=request.escalate,
            ),
            reterminate_for_s=request.reterminate_for_s,
        )
        termination_ids = new_ids("trm", len(job_ids), self.random)
        result = await self.records.create(operation, termination_ids)
        self.on_accepted(partition)
        return result

    def resolve_target(self, request: Request) -> tuple[str, str, str]:
        """Return the account, region and partition of a request; raises InvalidRequest."""
        account = request.account
        if account is None:
            account = only_choice(self.accounts, "account")
        routes = self.accounts.get(account)
        if routes is None:
            raise InvalidRequest(
                f"account {account!r} is not configured: use one of {_names(self.accounts)}"
            )
        region = request.region
        if region is None:
            region = routes.default_region or only_choice(routes.partitions, "region")
        partition = routes.partitions.get(region)
        if partition is None:
            raise InvalidRequest(
                zone_refused(region)
                or f"region {region!r} is not configured for account {account!r}: "
                f"use one of {_names(routes.partitions)}"
            )
        return account, region, partition


def only_choice(choices: Mapping[str, object], what: str) -> str:
    """Return the only key of ``choices``; raises InvalidRequest if there are more or none."""
    if len(choices) != 1:
        raise InvalidRequest(f"{what} is required: use one of {_names(choices)}")
    return next(iter(choices))


def _names(choices: Mapping[str, object]) -> str:
    return ", ".join(sorted(choices))


def _hash(request: Request) -> str:
    """Return the SHA-256 of the request, without the order and repetition of its jobs."""
    meaning = {
        "jobs": sorted(set(request.jobs)),
        "account": request.account,
        "region": request.region,
        "reason": request.reason,
        "on_submitted": request.on_submitted,
        "not_before": request.not_before.astimezone(UTC).isoformat()
        if request.not_before
        else None,
        "give_up_after_s": request.give_up_after_s,
        "settle_s": request.settle_s,
    }
    # Left out at the default: requests of versions without these fields must keep their hash.
    if request.reterminate_for_s is not None:
        meaning["reterminate_for_s"] = request.reterminate_for_s
    if not request.escalate:
        meaning["escalate"] = False
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
