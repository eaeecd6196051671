"""JSON of the REST API: parsing of request bodies, formatting of responses."""

from __future__ import annotations

import json
import unicodedata
from codecs import BOM_UTF8
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from orchestrator.api.problems import Problem
from orchestrator.domain.bounds import EARLIEST
from orchestrator.domain.clock_steps import elapsed_s
from orchestrator.domain.decisions.capture_coverage import missed
from orchestrator.domain.ids import JOB_ID
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.termination import OnSubmitted
from orchestrator.domain.text import shows_something
from orchestrator.services.submission import (
    GIVE_UP_AFTER_MAX_S,
    RETERMINATE_FOR_MAX_S,
    SETTLE_MAX_S,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic_core import ErrorDetails

    from orchestrator.domain.forecasting.forecast import Forecast
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Rate
    from orchestrator.domain.progress.verified_forecast import VerifiedForecast
    from orchestrator.services.inspection import InspectedOperation, InspectedTermination
    from orchestrator.services.ports import (
        AttemptRecord,
        EventRecord,
        InstanceRecord,
        OperationRecord,
        TerminationRecord,
    )

JOBS_MAX: Final = 10_000
DIGITS_MAX: Final = 100
CONTAINERS_MAX: Final = 2_000
"""Opening brackets in a body, those in its strings included; a valid request has few of them."""
ERRORS_MAX: Final = 100
ERRORS_IN_DETAIL: Final = 3
ECHO_MAX: Final = 100
"""Characters of a caller's text that a problem repeats."""
TASKS_LISTED_MAX: Final = 1_000
NO_STATE: Final = "UNKNOWN"
"""Key of the tasks whose state is not known, in counts of tasks by state."""

M = TypeVar("M", bound=BaseModel)


def _is_job_id(value: object) -> bool:
    return isinstance(value, str) and JOB_ID.fullmatch(value) is not None


def _job_id(text: str) -> str:
    if not _is_job_id(text):
        raise ValueError(f"{text[:ECHO_MAX]!r} is no job id; a job id looks like job-dwukenxr")
    return text


def _reason(text: str) -> str:
    if not shows_something(text):
        raise ValueError("give a reason that has visible characters")
    if any(unicodedata.category(c) == "Cc" and c not in "\t\n\r" for c in text):
        raise ValueError("remove the control characters")
    return text


def _utc(at: datetime) -> datetime:
    try:
        at = at.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range in UTC") from None
    if at < EARLIEST:
        raise ValueError(f"must be {EARLIEST:%Y-%m-%d} or later; leave it out to start at once")
    return at


Reason = Annotated[str, Field(max_length=1000), AfterValidator(_reason)]


class OperationRequest(BaseModel):
    """Body of ``POST /v1/operations``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    jobs: Annotated[
        list[Annotated[str, AfterValidator(_job_id)]], Field(min_length=1, max_length=JOBS_MAX)
    ]
    reason: Reason
    account: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    region: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    on_submitted: OnSubmitted = OnSubmitted.HOLD
    not_before: Annotated[AwareDatetime, AfterValidator(_utc)] | None = None
    give_up_after_s: Annotated[float, Field(gt=0, le=GIVE_UP_AFTER_MAX_S)] | None = None
    settle_s: Annotated[float, Field(ge=0, le=SETTLE_MAX_S)] | None = None
    escalate: bool = True
    reterminate_for_s: Annotated[float, Field(gt=0, le=RETERMINATE_FOR_MAX_S)] | None = None

    def request(self) -> Request:
        """Return the body as the submission service takes it."""
        return Request(
            jobs=tuple(self.jobs),
            account=self.account,
            region=self.region,
            reason=self.reason,
            on_submitted=self.on_submitted,
            not_before=self.not_before,
            give_up_after_s=self.give_up_after_s,
            settle_s=self.settle_s,
            escalate=self.escalate,
            reterminate_for_s=self.reterminate_for_s,
        )


class StopRequest(BaseModel):
    """Body of ``POST /v1/operations/{id}:stop``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: Reason


def parse_operation(body: bytes) -> Request:
    """Parse the body of a submission; raises Problem with the first 100 mistakes in ``errors``."""
    return _parsed(OperationRequest, body).request()


def parse_stop(body: bytes) -> str:
    """Return the reason in the body of a stop request; raises Problem like parse_operation."""
    return _parsed(StopRequest, body).reason


def _parsed(model: type[M], body: bytes) -> M:
    """Parse a body; a null field counts as absent, because many clients send every field."""
    body = body.removeprefix(BOM_UTF8)
    document, left_out = _document(body), 0
    if isinstance(document, dict):
        given = {name: value for name, value in document.items() if value is not None}
        left_out = _leave_out_most_mistakes(given, model.model_fields)
        if left_out or len(given) < len(document):
            body = json.dumps(given).encode()
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise _invalid(found, left_out, sorted(model.model_fields)) from error


def _document(body: bytes) -> object:
    if body.count(b"[") + body.count(b"{") > CONTAINERS_MAX:
        raise _malformed(f"it has more than {CONTAINERS_MAX:,} arrays and objects")
    try:
        document: object = json.loads(
            body.decode(),
            object_pairs_hook=_no_key_twice,
            parse_constant=_no_constant,
            parse_int=_no_endless_number,
        )
    except RecursionError:
        raise _malformed("it is nested too deeply") from None
    except ValueError as error:
        raise _malformed(str(error)) from error
    return document


def _leave_out_most_mistakes(given: dict[str, object], fields: Collection[str]) -> int:
    """Keep at most 100 mistakes of each kind; return how many mistakes are left out.

    pydantic has no such limit, and reporting each of 90,000 mistakes would block the event loop.
    """
    unknown = [name for name in given if name not in fields][ERRORS_MAX:]
    jobs = given.get("jobs") if "jobs" in fields else None
    if not isinstance(jobs, list) or len(jobs) > JOBS_MAX:
        jobs = []
    wrong = [at for at, job in enumerate(jobs) if not _is_job_id(job)][ERRORS_MAX:]
    for name in unknown:
        del given[name]
    if wrong:
        del jobs[wrong[0] :]
    return len(unknown) + len(wrong)


def _malformed(why: str) -> Problem:
    return Problem(400, "malformed-json", "Malformed JSON", f"send one JSON object: {why}")


def _invalid(found: list[ErrorDetails], left_out: int, fields: list[str]) -> Problem:
    if found[0]["type"] == "json_invalid":
        return _malformed(found[0]["msg"])
    errors = [
        {
            "field": ".".join(str(part) for part in each["loc"])[:ECHO_MAX],
            "message": _message(each, fields),
        }
        for each in found[:ERRORS_MAX]
    ]
    mistakes = [
        f"{each['field'] or 'body'}: {each['message']}" for each in errors[:ERRORS_IN_DETAIL]
    ]
    more = len(found) + left_out - len(mistakes)
    if more:
        mistakes.append(f"and {more:,} more mistakes")
    return Problem(
        422,
        "invalid-request",
        "Invalid request",
        "; ".join(mistakes),
        more={"errors": errors},
    )


def _message(found: ErrorDetails, fields: list[str]) -> str:
    match found["type"]:
        case "extra_forbidden":
            return f"unknown field; use {', '.join(fields)}"
        case "model_type":
            return "must be an object"
        case "missing":
            return "is required"
        case "too_short":
            return "name at least one"
        case "too_long":
            return (
                f"name at most {found['ctx']['max_length']:,}; split the others into more requests"
            )
        case _:
            return found["msg"].removeprefix("Value error, ")


def _no_key_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("an object has a key twice")
    return values


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _no_endless_number(digits: str) -> int:
    if len(digits) > DIGITS_MAX:
        raise ValueError(f"a number has more than {DIGITS_MAX} digits")
    return int(digits)


def timestamp(at: datetime | None) -> str | None:
    """Return the time as RFC 3339 in UTC, with milliseconds."""
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def operation(inspected: InspectedOperation) -> dict[str, object]:
    """Format one operation."""
    record, rate = inspected.record, inspected.rate
    total = sum(record.jobs_by_state.values())
    return {
        "id": record.id,
        "account": record.account,
        "region": record.region,
        "state": "running" if record.finished_at is None else "finished",
        "outcome": record.outcome,
        "reason": record.reason,
        "requested_by": record.requested_by,
        "duplicates_merged": record.duplicates_merged,
        "reterminate_for_s": record.reterminate_for_s,
        "reterminates_for": record.reterminates_for,
        "created_at": timestamp(record.created_at),
        "finished_at": timestamp(record.finished_at),
        "progress": {
            "jobs": {"total": total}
            | {state: record.jobs_by_state.get(state, 0) for state in State},
            "instances": {
                "total": record.instances.total,
                "live": record.instances.live,
                "stopped": record.instances.stopped,
                "jobs_not_counted": record.instances.jobs_not_counted,
                "left_by_final_state": {
                    state: asdict(left)
                    for state, left in record.instances.left_by_final_state.items()
                },
            },
            "machines": {
                "total": record.machines.total,
                "up": record.machines.up,
                "gone": record.machines.gone,
            },
            "revived": record.revived,
            "quota": {
                "action": "TerminateJob",
                "allowed_per_s": rate and rate.allowed_per_s,
                "configured_per_s": rate and rate.configured_per_s,
                "used_per_s": _used_per_s(record, rate),
            },
            **_forecast(inspected.stopped, inspected.verified),
            "observed_at": timestamp(record.observed_at),
        },
    }


def _used_per_s(record: OperationRecord, rate: Rate | None) -> float:
    """Return requests a second, at most the configured rate: the counted period may end early."""
    used = record.calls_per_s if rate is None else min(record.calls_per_s, rate.configured_per_s)
    return round(used, 2)


def termination(inspected: InspectedTermination) -> dict[str, object]:
    """Format a single termination, with the first 1,000 of its tasks."""
    tasks = inspected.record.termination.drain.tasks[:TASKS_LISTED_MAX]
    return listed_termination(inspected) | {"tasks": [asdict(task) for task in tasks]}


def listed_termination(inspected: InspectedTermination) -> dict[str, object]:
    """Format one termination of a list; its tasks, which can be thousands, are only counted."""
    record, explanation = inspected.record, inspected.explanation
    t = record.termination
    return {
        "id": t.id,
        "operation_ids": list(record.operation_ids),
        "account": t.account,
        "region": t.region,
        "job_id": t.job_id,
        "job_name": t.job.name,
        "state": t.state,
        "evidence": t.evidence,
        "job_state": t.job.state,
        "instances": _instances(record),
        "tasks_by_state": Counter(task.state or NO_STATE for task in t.drain.tasks),
        "machines": _machines(t),
        "escalation": {
            "allowed": t.request.escalate,
            "level": t.escalation.level,
            "round": t.escalation.round,
            "since": timestamp(t.escalation.started_at),
        },
        "attempts": [_attempt(attempt) for attempt in record.attempts],
        "waiting_for": explanation.waiting_for,
        "next_action": explanation.next_action,
        "next_action_at": timestamp(explanation.next_action_at),
        **_forecast(inspected.stopped, inspected.verified),
        "observed_at": timestamp(t.job.observed_at),
        "age_s": _age_s(t.job.observed_at, inspected.now),
        "error": asdict(t.problem) if t.problem else None,
        "set_aside": t.schedule.set_aside,
        "created_at": timestamp(t.request.created_at),
        "give_up_at": timestamp(t.schedule.give_up_at),
        "finished_at": timestamp(t.finished_at),
        "revived_at": timestamp(t.watch.revival.at) if t.watch.revival else None,
        "reterminated_by": t.watch.revival and t.watch.revival.reterminated_by,
    }


def _age_s(at: datetime | None, now: datetime) -> float | None:
    age_s = None if at is None else elapsed_s(at, now)
    return None if age_s is None else round(age_s, 3)


def _forecast(forecast: Forecast | None, verified: VerifiedForecast) -> dict[str, object]:
    """Format a forecast; each member is null if it is not known."""
    return {
        "eta": _span(forecast.p50_at, forecast.p90_at) if forecast else None,
        "verified_eta": _span(verified.p50_at, verified.p90_at),
        "settle_until": timestamp(verified.settle_until),
        "rate_per_s": forecast.rate_per_s if forecast else None,
        "stalled_since": timestamp(forecast.stalled_since) if forecast else None,
    }


def _span(p50_at: datetime | None, p90_at: datetime | None) -> dict[str, object] | None:
    return {"p50": timestamp(p50_at), "p90": timestamp(p90_at)} if p50_at else None


def _instances(record: TerminationRecord) -> dict[str, object] | None:
    instances = record.termination.drain.counters
    if instances is None:
        return None
    return {
        **asdict(instances),
        "total": instances.total,
        "live": instances.live,
        "observed_at": timestamp(record.termination.drain.counted_at),
    }


def _machines(t: Termination) -> dict[str, object]:
    """Format machine counts; nodes of compute environments are counted apart and never read."""
    capture = t.captures.machines
    tasks = capture.tasks if capture else ()
    return {
        "captured_at": timestamp(capture.ended_at) if capture else None,
        "not_captured": missed(t),
        "total": t.machines.total,
        "listed": t.machines.listed,
        "up": t.machines.up,
        "gone": t.machines.gone,
        "nodes": capture.nodes if capture else 0,
        "env_ids": sorted({task.env_id for task in tasks if task.env_id}),
        "observed_at": timestamp(t.machines.observed_at),
        "error": asdict(t.machines.problem) if t.machines.problem else None,
    }


def instance(record: InstanceRecord) -> dict[str, object]:
    """Format one task instance."""
    return {
        **asdict(record),
        "observed_at": timestamp(record.observed_at),
        "machine_observed_at": timestamp(record.machine_observed_at),
    }


def _attempt(record: AttemptRecord) -> dict[str, object]:
    return {
        **asdict(record),
        "sent_at": timestamp(record.sent_at),
        "answered_at": timestamp(record.answered_at),
    }


def event(record: EventRecord) -> dict[str, object]:
    """Format one event; ``why`` is null if it has no reason."""
    return {**asdict(record), "at": timestamp(record.at)}
