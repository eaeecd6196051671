"""Every call of the REST API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import ETag, web
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.api import auth, problems, schemas
from orchestrator.api.pages import Page
from orchestrator.api.problems import Problem
from orchestrator.domain.bounds import storable
from orchestrator.domain.decisions import forecast_updates
from orchestrator.domain.errors import NotFound, StoreUnavailable
from orchestrator.domain.model import machine_capture
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.progress import verified_forecast
from orchestrator.domain.progress.operation_forecast import forecast
from orchestrator.domain.progress.verified_forecast import Verification
from orchestrator.domain.regions import zone_refused
from orchestrator.engine.runtime.best_effort import BestEffort
from orchestrator.services.explanation import UNEXPLAINED, ExplanationContext, explain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from datetime import datetime
    from enum import StrEnum

    from orchestrator.domain.forecasting.duration_distribution import Durations
    from orchestrator.domain.model.termination import Termination
    from orchestrator.domain.pacing.quota import Rate
    from orchestrator.services.certification import Certification
    from orchestrator.services.ports import (
        OperationRecord,
        Records,
        TerminationRecord,
        Unconfigured,
    )
    from orchestrator.services.submission import Submission

    E = TypeVar("E", bound=StrEnum)

BODY_BYTES_MAX: Final = 1024 * 1024
BODY_TIMEOUT_S: Final = 10
KEY_CHARACTERS_MAX: Final = 200
NAMED_MAX: Final = 100
"""Unknown query parameters that an answer names."""
PAGING: Final = ("limit", "page_token")
LIVE: Final = "live"
ASKING_S: Final = 1.0
"""How long an answer of what is known waits for the database to note that newer is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the handlers work with.

    ``rate``: TerminateJob's of a partition, given how many calls a second the cloud allows (None:
    as many as are configured); None where this replica is not configured for the partition.
    ``elsewhere``: the other replica that drives a partition, given who holds that.
    ``capture_wait_s``: how long a call waits for the capture of its job's machines.
    """

    records: Records
    unconfigured: Unconfigured
    submission: Submission
    certification: Certification
    rate: Callable[[str, float | None], Rate | None]
    elsewhere: Callable[[str, str | None], str | None]
    capture_wait_s: float
    tokens: Mapping[str, str]
    now: Callable[[], datetime]
    watched: Callable[[str], None]
    ready: Callable[[], Awaitable[Mapping[str, object]]]
    metrics: Callable[[], Awaitable[bytes]]
    informing: BestEffort = field(default_factory=BestEffort)


CONTEXT: Final = web.AppKey("context", Context)


async def _inspect(
    context: Context, record: TerminationRecord, others: Durations | None = None
) -> schemas.Inspection:
    """What is told beside a termination; ``others``: how long drains of its partition took of late.

    What of it fails is left out.
    """
    t, now, left_out = record.termination, context.now(), context.informing.leaving_out
    why, stopped, verified = UNEXPLAINED, None, Verification()
    with left_out("the explanation of a termination"):
        rate = context.rate(t.partition, record.allowed_per_s)
        surroundings = ExplanationContext(
            now=now,
            ahead=record.ahead,
            rate=rate,
            trouble=record.trouble,
            capture_wait_s=context.capture_wait_s,
            configured=rate is not None or not await _configured_nowhere(context, t),
            elsewhere=context.elsewhere(t.partition, record.holder),
        )
        why = explain(t, surroundings)
    with left_out("the forecast of a termination"):
        stopped = (
            None if record.trouble else forecast_updates.current(t, why.next_action_at, others, now)
        )
        verified = verified_forecast.of_termination(t, stopped, now)
    return schemas.Inspection(now=now, why=why, stopped=stopped, verified=verified)


async def _configured_nowhere(context: Context, termination: Termination) -> bool:
    place = termination.account, termination.region
    return any(
        (each.account, each.region) == place for each in await context.unconfigured.waiting()
    )


def application(context: Context) -> web.Application:
    app = web.Application(
        client_max_size=BODY_BYTES_MAX,
        middlewares=[problems.middleware, auth.middleware(context.tokens)],
    )
    app[CONTEXT] = context
    app.add_routes(
        [
            web.post("/v1/operations", submit),
            web.get("/v1/operations", list_operations),
            web.post("/v1/operations/{id}:stop", stop_operation),
            web.get("/v1/operations/{id}", get_operation),
            web.get("/v1/operations/{id}/terminations", list_operation_terminations),
            web.get("/v1/operations/{id}/events", list_operation_events),
            web.get("/v1/operations/{id}/certificate", get_certificate),
            web.get("/v1/terminations", list_terminations),
            web.get("/v1/terminations/{id}", get_termination),
            web.get("/v1/terminations/{id}/instances", list_instances),
            web.get("/v1/terminations/{id}/events", list_termination_events),
            web.get("/livez", livez),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics),
        ]
    )
    return app


async def submit(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    _known(request)
    key = _idempotency_key(request)
    wanted = schemas.parse_operation(await _body(request))
    created = await context.submission.submit(
        wanted, requested_by=request[auth.CALLER], idempotency_key=key
    )
    location = f"/v1/operations/{created.operation_id}"
    headers = {"Location": location, "Retry-After": "1"}
    if created.replayed:
        headers["Idempotency-Replayed"] = "true"
    body = await _operation(context, await _found_operation(context, created.operation_id))
    return web.json_response(body, status=202, headers=headers)


def _idempotency_key(request: web.Request) -> str | None:
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    (key, *more) = keys
    if more or not 1 <= len(key) <= KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        raise Problem(
            400,
            "bad-idempotency-key",
            "Idempotency-Key cannot be used",
            f"send it once, with 1 to {KEY_CHARACTERS_MAX} printable ASCII characters, a UUID say",
        )
    return key


async def _body(request: web.Request) -> bytes:
    """Read JSON.

    Only this content type: a page of another origin can send the types of forms unasked, and this
    one not.
    """
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem(
            415,
            "unsupported-media-type",
            "The body's type is not known",
            "send JSON with 'Content-Type: application/json', and no Content-Encoding",
        )
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        detail = f"the body must arrive within {BODY_TIMEOUT_S} s"
        raise Problem(408, "body-timeout", "The body did not arrive", detail) from None
    except (ConnectionError, web.RequestPayloadError) as error:
        detail = "send it again, complete"
        raise Problem(400, "body-incomplete", "The body did not arrive", detail) from error


async def _found_operation(context: Context, operation_id: str) -> OperationRecord:
    record = await context.records.operation(operation_id)
    if record is None:
        raise NotFound(f"no operation {operation_id}; GET /v1/operations lists them")
    return record


async def _operation(context: Context, record: OperationRecord) -> dict[str, object]:
    """With when it is over: nobody knows while its partition's calls fail."""
    rate = context.rate(record.partition, record.allowed_per_s)
    if record.finished_at is not None or record.trouble is not None or rate is None:
        return schemas.operation(record, rate, None, Verification())
    expected, verified = None, Verification()
    with context.informing.leaving_out("the forecast of an operation"):
        progress = await context.records.progress(record, rate.allowed_per_s)
        now = context.now()
        expected = forecast(progress, now)
        verified = verified_forecast.of_operation(progress, expected, now)
    return schemas.operation(record, rate, expected, verified)


async def list_operations(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    _known(request, *PAGING, "state", "account")
    page = Page.of(request)
    state = _choice(request, "state", ("running", "finished"))
    records = await context.records.operations(
        after=page.after,
        limit=page.limit,
        finished=None if state is None else state == "finished",
        account=_text(request, "account"),
    )
    return _list(
        request,
        "operations",
        [await _operation(context, record) for record in records],
        page.next_token([record.seq for record in records]),
    )


async def get_operation(request: web.Request) -> web.Response:
    _known(request)
    context = request.app[CONTEXT]
    operation_id = _id(request)
    body = await _operation(context, await _found_operation(context, operation_id))
    context.watched(operation_id)
    return web.json_response(body)


async def stop_operation(request: web.Request) -> web.Response:
    """End an operation that nobody can drive."""
    _known(request)
    context, operation_id = request.app[CONTEXT], request.match_info["id"]
    reason = schemas.parse_stop(await _body(request))
    await context.unconfigured.end(operation_id, by=request[auth.CALLER], reason=reason)
    body = await _operation(context, await _found_operation(context, operation_id))
    return web.json_response(body)


async def list_operation_terminations(request: web.Request) -> web.Response:
    _known(request, *PAGING, "state", "revived")
    operation_id = _id(request)
    await _found_operation(request.app[CONTEXT], operation_id)
    return await _terminations(request, operation_id)


async def list_terminations(request: web.Request) -> web.Response:
    _known(request, *PAGING, "state", "revived", "job_id", "account", "region")
    return await _terminations(request, None)


async def _terminations(request: web.Request, operation_id: str | None) -> web.Response:
    context = request.app[CONTEXT]
    page = Page.of(request)
    state = _choice(request, "state", tuple(State))
    revived = _choice(request, "revived", ("true", "false"))
    if refused := zone_refused(request.query.get("region", "")):
        raise Problem(400, "bad-parameter", "A query parameter cannot be used", refused)
    records = await context.records.terminations(
        after=page.after,
        limit=page.limit,
        operation_id=operation_id,
        state=State(state) if state else None,
        job_id=_text(request, "job_id"),
        account=_text(request, "account"),
        region=_text(request, "region"),
        revived=None if revived is None else revived == "true",
    )
    return _list(
        request,
        "terminations",
        [schemas.listed_termination(each, await _inspect(context, each)) for each in records],
        page.next_token([record.seq for record in records]),
    )


async def get_termination(request: web.Request) -> web.Response:
    _known(request)
    context, record = request.app[CONTEXT], await _found(request)
    others = None
    if record.termination.state is State.QUEUED:
        with context.informing.leaving_out("what is known of other drains"):
            others = await context.records.others(record.termination.partition)
    inspection = await _inspect(context, record, others)
    return web.json_response(schemas.termination(record, inspection))


async def _found(request: web.Request) -> TerminationRecord:
    termination_id = _id(request)
    record = await request.app[CONTEXT].records.termination(termination_id)
    if record is None:
        raise NotFound(f"no termination {termination_id}; GET /v1/terminations lists them")
    return record


async def list_instances(request: web.Request) -> web.Response:
    """Those that had a machine when they were read; none is live once all were counted down.

    Asking has the live ones read anew, within the quota: who asks once more finds them so.
    """
    _known(request, *PAGING, "state", "machine")
    page = Page.of(request)
    state = _choice(request, "state", (LIVE, *machine_capture.LIVE))
    machine = _choice(request, "machine", tuple(MachineStatus))
    termination = (await _found(request)).termination
    if not termination.state.final:
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(ASKING_S):
                await request.app[CONTEXT].records.ask_for_instances(termination.id)
    none_live = termination.instances is not None and not termination.instances.live
    states: Collection[JobState] | None = None
    if state is not None:
        wanted = machine_capture.LIVE if state == LIVE else (JobState(state),)
        states = () if none_live else wanted
    records = await request.app[CONTEXT].records.instances(
        after=page.after,
        limit=page.limit,
        termination_id=termination.id,
        states=states,
        machine=MachineStatus(machine) if machine else None,
    )
    positions = range(page.after + 1, page.after + len(records) + 1)
    instances = [schemas.instance(record) for record in records]
    return _list(request, "instances", instances, page.next_token(positions))


async def list_operation_events(request: web.Request) -> web.Response:
    operation_id = _id(request)
    await _found_operation(request.app[CONTEXT], operation_id)
    return await _events(request, operation_id=operation_id)


async def list_termination_events(request: web.Request) -> web.Response:
    record = await _found(request)
    return await _events(request, termination_id=record.termination.id)


async def _events(
    request: web.Request, *, operation_id: str | None = None, termination_id: str | None = None
) -> web.Response:
    _known(request, *PAGING)
    page = Page.of(request)
    records = await request.app[CONTEXT].records.events(
        after=page.after,
        limit=page.limit,
        operation_id=operation_id,
        termination_id=termination_id,
    )
    return _list(
        request,
        "events",
        [schemas.event(record) for record in records],
        page.next_token([record.id for record in records]),
    )


async def get_certificate(request: web.Request) -> web.Response:
    """The certificate, byte for byte, with its digest for who wants to know of changes alone.

    Repr-Digest is that of RFC 9530.
    """
    _known(request)
    operation_id = _id(request)
    certificate = await request.app[CONTEXT].certification.issue(operation_id)
    tag = ETag(certificate.digest, is_weak=True)
    if any(known.value in {tag.value, "*"} for known in request.if_none_match or ()):
        answer = web.Response(status=304)
    else:
        digest = base64.b64encode(hashlib.sha256(certificate.data).digest()).decode()
        headers = {
            "Content-Disposition": f'attachment; filename="certificate-{operation_id}.json"',
            "Repr-Digest": f"sha-256=:{digest}:",
        }
        answer = web.Response(
            body=certificate.data, content_type="application/json", headers=headers
        )
    answer.etag = tag
    return answer


async def livez(request: web.Request) -> web.Response:
    _known(request)
    return web.json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Ready when requests can be stored; a cloud that does not answer degrades, no more."""
    _known(request)
    body = await request.app[CONTEXT].ready()
    return web.json_response(body)


async def metrics(request: web.Request) -> web.Response:
    _known(request)
    headers = {"Content-Type": CONTENT_TYPE_LATEST}
    return web.Response(body=await request.app[CONTEXT].metrics(), headers=headers)


def _known(request: web.Request, *names: str) -> None:
    """Refuse what would be passed over: it may have been meant to narrow what is done."""
    unknown = sorted(set(request.query) - set(names))
    if unknown:
        possible = f"use {', '.join(names)}" if names else "none is"
        more = len(unknown) - len(unknown[:NAMED_MAX])
        named = ", ".join(unknown[:NAMED_MAX]) + (f" (and {more:,} more)" if more else "")
        detail = f"{named} is not known here; {possible}"
        raise Problem(400, "unknown-parameter", "A query parameter is not known", detail)
    if len(request.query) != len(set(request.query)):
        detail = "give each query parameter once"
        raise Problem(400, "bad-parameter", "A query parameter cannot be used", detail)


def _id(request: web.Request) -> str:
    """As a database can be asked for it: nothing has an id with NUL (%00), or one so long."""
    return storable(request.match_info["id"])


def _text(request: web.Request, name: str) -> str | None:
    given = request.query.get(name)
    return None if given is None else storable(given)


def _choice(request: web.Request, name: str, choices: tuple[str, ...]) -> str | None:
    given = request.query.get(name)
    if given is not None and given not in choices:
        detail = f"{name} must be one of {', '.join(choices)}"
        raise Problem(400, "bad-parameter", "A query parameter cannot be used", detail)
    return given


def _list(
    request: web.Request, name: str, items: list[dict[str, object]], next_token: str | None
) -> web.Response:
    headers = {}
    if next_token is not None:
        following = request.rel_url.update_query(page_token=next_token)
        headers["Link"] = f'<{following}>; rel="next"'
    return web.json_response({name: items, "next_page_token": next_token}, headers=headers)
