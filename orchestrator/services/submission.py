"""Take a request to terminate jobs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import InvalidRequest
from orchestrator.domain.ids import new_id
from orchestrator.domain.model.operation import NewOperation
from orchestrator.domain.regions import zone_refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

    from orchestrator.domain.model.termination import OnSubmitted
    from orchestrator.services.ports import Created, Records

SETTLE_MAX_S: Final = 86_400.0
GIVE_UP_AFTER_MAX_S: Final = 30 * 86_400.0
RETERMINATE_FOR_MAX_S: Final = 30 * 86_400.0
NOT_BEFORE_MAX: Final = timedelta(days=30)
"""How far ahead a call may be put off: a wrong year must not leave a job running for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a caller asks for; None means the configuration decides."""

    jobs: tuple[str, ...]
    account: str | None
    region: str | None
    reason: str
    on_submitted: OnSubmitted
    not_before: datetime | None
    give_up_after_s: float | None
    settle_s: float | None
    escalate: bool = True
    """Whether more than TerminateJob may be called for instances that do not go down."""
    reterminate_for_s: float | None = None
    """How long after it was down a job that comes back is brought down again; None: not at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountOffer:
    """An account that may be asked for: its regions, and the partition of each."""

    partitions: Mapping[str, str]
    default_region: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The use case, and what it needs.

    ``on_accepted`` is told the partition that has new work.
    """

    records: Records
    accounts: Mapping[str, AccountOffer]
    default_settle_s: float
    default_give_up_after_s: float
    revival_watch_s: float
    now: Callable[[], datetime]
    random: Random
    on_accepted: Callable[[str], None]

    async def submit(
        self, request: Request, *, requested_by: str, idempotency_key: str | None
    ) -> Created:
        """Store the request durably; raises InvalidRequest, Conflict, StoreUnavailable."""
        account, region, partition = self._where(request)
        created_at = self.now()
        if request.not_before is not None and request.not_before - created_at > NOT_BEFORE_MAX:
            raise InvalidRequest(
                f"not_before is more than {NOT_BEFORE_MAX.days} days ahead: ask again nearer to it"
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
            on_submitted=request.on_submitted,
            not_before=request.not_before,
            give_up_after_s=(
                self.default_give_up_after_s
                if request.give_up_after_s is None
                else request.give_up_after_s
            ),
            settle_s=self.default_settle_s if request.settle_s is None else request.settle_s,
            created_at=created_at,
            escalate=request.escalate,
            revival_watch_s=max(self.revival_watch_s, request.reterminate_for_s or 0.0),
            reterminate_for_s=request.reterminate_for_s,
        )
        termination_ids = [new_id("trm", self.random) for _ in job_ids]
        created = await self.records.create(operation, termination_ids)
        self.on_accepted(partition)
        return created

    def _where(self, request: Request) -> tuple[str, str, str]:
        account = _only(self.accounts, "account") if request.account is None else request.account
        offer = self.accounts.get(account)
        if offer is None:
            raise InvalidRequest(
                f"account {account!r} is not configured: use one of {_names(self.accounts)}"
            )
        region = request.region
        if region is None:
            region = offer.default_region or _only(offer.partitions, "region")
        partition = offer.partitions.get(region)
        if partition is None:
            raise InvalidRequest(
                zone_refused(region)
                or f"region {region!r} is not configured for account {account!r}: "
                f"use one of {_names(offer.partitions)}"
            )
        return account, region, partition


def _only(choices: Mapping[str, object], what: str) -> str:
    if len(choices) != 1:
        raise InvalidRequest(f"{what} is needed: name one of {_names(choices)}")
    return next(iter(choices))


def _names(choices: Mapping[str, object]) -> str:
    return ", ".join(sorted(choices))


def _hash(request: Request) -> str:
    """SHA-256 of what the request means, the order of its jobs left aside."""
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
    # Requests of the versions before had none of these, and may still be sent again.
    if request.reterminate_for_s is not None:
        meaning["reterminate_for_s"] = request.reterminate_for_s
    if not request.escalate:
        meaning["escalate"] = False
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()
