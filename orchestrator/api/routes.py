"""Routes and handlers of the REST API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from aiohttp import ETag, web
from prometheus_client import CONTENT_TYPE_LATEST

from orchestrator.api import auth, indentation, problems, schemas
from orchestrator.api.pagination import Page
from orchestrator.api.problems import Problem
from orchestrator.domain.bounds import storable
from orchestrator.domain.errors import NotFound, StoreUnavailable
from orchestrator.domain.model import instance_scan
from orchestrator.domain.model.batch_job import JobState
from orchestrator.domain.model.lifecycle import State
from orchestrator.domain.model.machine import MachineStatus
from orchestrator.domain.regions import zone_refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from enum import StrEnum

    from orchestrator.services.certification import Certification
    from orchestrator.services.inspection import Inspection
    from orchestrator.services.ports import (
        FoundOperation,
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
"""Number of unknown query parameters that a problem lists."""
PAGING: Final = ("limit", "page_token")
LIVE: Final = "live"
REFRESH_TIMEOUT_S: Final = 1.0
"""Seconds that a list of instances waits for the database to store that newer ones are wanted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Services that the handlers use.

    ``on_viewed`` is called with the id of an operation that was read.
    """

    records: Records
    unconfigured: Unconfigured
    submission: Submission
    inspection: Inspection
    certification: Certification
    tokens: Mapping[str, str]
    on_viewed: Callable[[str], None]
    ready: Callable[[], Awaitable[Mapping[str, object]]]
    metrics: Callable[[], Awaitable[bytes]]


CONTEXT: Final = web.AppKey("context", Context)


def application(context: Context) -> web.Application:
    """Return the REST API as an aiohttp application."""
    app = web.Application(
        client_max_size=BODY_BYTES_MAX,
        middlewares=[
            indentation.middleware,
            problems.middleware,
            auth.middleware(context.tokens),
        ],
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
    reject_unknown_parameters(request)
    key = _idempotency_key(request)
    operation = schemas.parse_operation(await _body(request))
    result = await context.submission.submit(
        operation, requested_by=request[auth.CALLER], idempotency_key=key
    )
    location = f"/v1/operations/{result.operation_id}"
    headers = {"Location": location, "Retry-After": "1"}
    if result.replayed:
        headers["Idempotency-Replayed"] = "true"
    body = (
        await _operation(context, result.operation_id)
        if result.record is None
        else schemas.operation(context.inspection.accepted(result.record))
    )
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
            "Invalid Idempotency-Key",
            f"send it once, with 1 to {KEY_CHARACTERS_MAX} printable ASCII characters, such as a "
            "UUID",
        )
    return key


async def _body(request: web.Request) -> bytes:
    """Read a JSON body; raises Problem.

    Only this content type is accepted: a web page of another origin can send the content types of
    forms without a CORS preflight request, and JSON only with one.
    """
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise Problem(
            415,
            "unsupported-media-type",
            "Unsupported media type",
            "send JSON with 'Content-Type: application/json', and no Content-Encoding",
        )
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        detail = f"send the whole body within {BODY_TIMEOUT_S} s"
        raise Problem(408, "body-timeout", "Request timeout", detail) from None
    except (ConnectionError, web.RequestPayloadError) as error:
        detail = "the connection failed before the whole body arrived: send it again"
        raise Problem(400, "body-incomplete", "Incomplete request body", detail) from error


async def find_operation(context: Context, operation_id: str) -> FoundOperation:
    """Return an operation; raises NotFound."""
    found = await context.records.find_operation(operation_id)
    if found is None:
        raise NotFound(f"no operation {operation_id}; GET /v1/operations lists them")
    return found


async def _operation(context: Context, operation_id: str) -> dict[str, object]:
    found = await find_operation(context, operation_id)
    (inspected,) = await context.inspection.operations([found])
    return schemas.operation(inspected)


async def list_operations(request: web.Request) -> web.Response:
    context = request.app[CONTEXT]
    reject_unknown_parameters(request, *PAGING, "state", "account")
    page = Page.of(request)
    state = _choice(request, "state", ("running", "finished"))
    found = await context.records.find_operations(
        after=page.after,
        limit=page.limit,
        finished=None if state is None else state == "finished",
        account=_text(request, "account"),
    )
    return _list(
        request,
        "operations",
        [schemas.operation(each) for each in await context.inspection.operations(found)],
        page.next_token([each.seq for each in found]),
    )


async def get_operation(request: web.Request) -> web.Response:
    reject_unknown_parameters(request)
    context = request.app[CONTEXT]
    operation_id = _id(request)
    body = await _operation(context, operation_id)
    context.on_viewed(operation_id)
    return web.json_response(body)


async def stop_operation(request: web.Request) -> web.Response:
    """End an operation whose account and region no replica is configured for."""
    reject_unknown_parameters(request)
    context, operation_id = request.app[CONTEXT], _id(request)
    reason = schemas.parse_stop(await _body(request))
    await context.unconfigured.end(operation_id, by=request[auth.CALLER], reason=reason)
    return web.json_response(await _operation(context, operation_id))


async def list_operation_terminations(request: web.Request) -> web.Response:
    reject_unknown_parameters(request, *PAGING, "state", "revived")
    operation_id = _id(request)
    await find_operation(request.app[CONTEXT], operation_id)
    return await _terminations(request, operation_id)


async def list_terminations(request: web.Request) -> web.Response:
    reject_unknown_parameters(request, *PAGING, "state", "revived", "job_id", "account", "region")
    return await _terminations(request, None)


async def _terminations(request: web.Request, operation_id: str | None) -> web.Response:
    context = request.app[CONTEXT]
    page = Page.of(request)
    state = _choice(request, "state", tuple(State))
    revived = _choice(request, "revived", ("true", "false"))
    if refused := zone_refused(request.query.get("region", "")):
        raise _bad_parameter(refused)
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
        [
            schemas.listed_termination(each)
            for each in await context.inspection.terminations(records)
        ],
        page.next_token([record.seq for record in records]),
    )


async def get_termination(request: web.Request) -> web.Response:
    reject_unknown_parameters(request)
    record = await load_termination(request)
    inspected = await request.app[CONTEXT].inspection.termination(record)
    return web.json_response(schemas.termination(inspected))


async def load_termination(request: web.Request) -> TerminationRecord:
    """Return the termination that the path names; raises NotFound."""
    termination_id = _id(request)
    record = await request.app[CONTEXT].records.termination(termination_id)
    if record is None:
        raise NotFound(f"no termination {termination_id}; GET /v1/terminations lists them")
    return record


async def list_instances(request: web.Request) -> web.Response:
    """List the instances that had a machine when they were read.

    None is listed as live once a count has shown no live instance. The request also has the live
    ones read again, within the quota: a later request returns the result.
    """
    reject_unknown_parameters(request, *PAGING, "state", "machine")
    page = Page.of(request)
    state = _choice(request, "state", (LIVE, *instance_scan.LIVE))
    machine = _choice(request, "machine", tuple(MachineStatus))
    termination = (await load_termination(request)).termination
    if not termination.state.final:
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(REFRESH_TIMEOUT_S):
                await request.app[CONTEXT].records.ask_for_instances(termination.id)
    none_live = termination.drain.counters is not None and not termination.drain.counters.live
    states: Collection[JobState] | None = None
    if state is not None:
        wanted = instance_scan.LIVE if state == LIVE else (JobState(state),)
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
    await find_operation(request.app[CONTEXT], operation_id)
    return await _events(request, operation_id=operation_id)


async def list_termination_events(request: web.Request) -> web.Response:
    record = await load_termination(request)
    return await _events(request, termination_id=record.termination.id)


async def _events(
    request: web.Request, *, operation_id: str | None = None, termination_id: str | None = None
) -> web.Response:
    reject_unknown_parameters(request, *PAGING)
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
    """Return the certificate byte for byte, with an ETag for callers who only look for changes.

    ``Repr-Digest`` is that of RFC 9530.
    """
    reject_unknown_parameters(request)
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
    reject_unknown_parameters(request)
    return web.json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Return 200 if requests can be stored and jobs terminated, else 503.

    An account that cannot reach the cloud only degrades it: requests are still accepted.
    """
    reject_unknown_parameters(request)
    body = await request.app[CONTEXT].ready()
    return web.json_response(body)


async def metrics(request: web.Request) -> web.Response:
    reject_unknown_parameters(request)
    headers = {"Content-Type": CONTENT_TYPE_LATEST}
    return web.Response(body=await request.app[CONTEXT].metrics(), headers=headers)


def reject_unknown_parameters(request: web.Request, *names: str) -> None:
    """Raise Problem for a query parameter that would be ignored, or that is given twice.

    A parameter that is ignored may have been meant to restrict what is done. ``pretty`` is known to
    every GET.
    """
    if request.method in indentation.METHODS:
        names = (*names, indentation.PARAMETER)
    unknown = sorted(set(request.query) - set(names))
    if unknown:
        possible = f"use {', '.join(names)}" if names else "this request takes none"
        more = len(unknown) - len(unknown[:NAMED_MAX])
        named = ", ".join(unknown[:NAMED_MAX]) + (f" (and {more:,} more)" if more else "")
        detail = f"unknown: {named}; {possible}"
        raise Problem(400, "unknown-parameter", "Unknown query parameter", detail)
    if len(request.query) != len(set(request.query)):
        raise _bad_parameter("give each query parameter once")
    if request.query.get(indentation.PARAMETER, "") not in indentation.VALUES:
        raise _bad_parameter(f"{indentation.PARAMETER} must be true, or have no value")


def _bad_parameter(detail: str) -> Problem:
    return Problem(400, "bad-parameter", "Invalid query parameter", detail)


def _id(request: web.Request) -> str:
    """Return the id in the path, made safe for the database: no id has NUL (%00) or is so long."""
    return storable(request.match_info["id"])


def _text(request: web.Request, name: str) -> str | None:
    given = request.query.get(name)
    return None if given is None else storable(given)


def _choice(request: web.Request, name: str, choices: tuple[str, ...]) -> str | None:
    given = request.query.get(name)
    if given is not None and given not in choices:
        raise _bad_parameter(f"{name} must be one of {', '.join(choices)}")
    return given


def _list(
    request: web.Request, name: str, items: list[dict[str, object]], next_token: str | None
) -> web.Response:
    headers = {}
    if next_token is not None:
        following = request.rel_url.update_query(page_token=next_token)
        headers["Link"] = f'<{following}>; rel="next"'
    return web.json_response({name: items, "next_page_token": next_token}, headers=headers)
