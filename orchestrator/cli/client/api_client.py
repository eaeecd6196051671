"""Client of the REST API."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from orchestrator import __version__
from orchestrator.api import problems
from orchestrator.cli.client.errors import TOKEN_VARIABLE, URL_VARIABLE, RequestFailed, Unreachable
from orchestrator.cli.client.models import (
    Operation,
    OperationPage,
    Problem,
    Readiness,
    TerminationPage,
)
from orchestrator.cloud.transport import MIB, AnswerTooLarge, read_at_most, what_failed
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from orchestrator.cli.client.models import Termination

    A = TypeVar("A", bound=BaseModel)

TIMEOUT_S: Final = 15.0
CERTIFICATE_TIMEOUT_S: Final = 120.0
"""A certificate of 10,000 jobs has tens of megabytes, and can wait while others are built."""
ANSWER_BYTES_MAX: Final = 256 * MIB
OPERATIONS: Final = "/v1/operations"
REPLAYED: Final = "Idempotency-Replayed"
PAGE_LIMIT: Final = 1000
FIRST_ERROR_STATUS: Final = 300
NOT_FOUND: Final = 404
NO_SUCH_PATH: Final = problems.TYPE.format(problems.NO_SUCH_PATH)
URL_PATTERN: Final = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The operation of a request.

    ``replayed``: the idempotency key was used before, so no new operation was created.
    """

    operation: Operation
    replayed: bool


class Api:
    """Requests to the daemon at ``url``; they raise RequestFailed or Unreachable.

    ``anything_sent``: at least one request was sent, with or without a response.
    """

    def __init__(self, url: str, token: str | None) -> None:
        """Raise ConfigurationError if the URL or the token cannot be used in a request."""
        problems = []
        if not _is_usable(url):
            problems.append(
                f"the daemon's URL (--url or {URL_VARIABLE}) must be http://HOST:PORT or "
                "https://HOST:PORT, for example http://127.0.0.1:8642"
            )
        if token and not token.isprintable():
            problems.append(
                f"the bearer token (--token-file or {TOKEN_VARIABLE}) contains a line break or "
                "another character that cannot be sent: give it as it was issued, on one line"
            )
        if problems:
            raise ConfigurationError(problems)
        self.anything_sent = False
        self.url = url.rstrip("/")
        headers = {"User-Agent": f"orchestrator-cli/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._headers = headers

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(self._record_sent)
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            trace_configs=[trace],
        )
        return self

    async def _record_sent(self, *_: object) -> None:
        self.anything_sent = True

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def submit(self, body: Mapping[str, object], *, idempotency_key: str) -> Submitted:
        answer, headers = await self._exchange(
            "POST",
            OPERATIONS,
            body=json.dumps(body).encode(),
            headers={
                "Content-Type": "application/json",
                "Idempotency-Key": idempotency_key,
            },
        )
        return Submitted(self._read(Operation, answer), replayed=REPLAYED in headers)

    async def operation(self, operation_id: str) -> Operation:
        return self._read(Operation, await self._call("GET", _path(operation_id)))

    async def operations(self, limit: int, **filters: str) -> AsyncIterator[Operation]:
        """Yield the operations that match the filters, newest first, at most ``limit``."""
        parameters = dict(filters)
        while limit > 0:
            parameters["limit"] = str(min(limit, PAGE_LIMIT))
            answer = await self._call("GET", OPERATIONS, parameters=parameters)
            page = self._read(OperationPage, answer)
            for operation in page.operations[:limit]:
                yield operation
            limit -= len(page.operations)
            if page.next_page_token is None:
                return
            parameters["page_token"] = page.next_page_token

    async def terminations(self, operation_id: str, **filters: str) -> AsyncIterator[Termination]:
        """Yield all terminations of an operation that match the filters; read page by page."""
        parameters = {"limit": str(PAGE_LIMIT)} | filters
        while True:
            answer = await self._call(
                "GET", f"{_path(operation_id)}/terminations", parameters=parameters
            )
            page = self._read(TerminationPage, answer)
            for termination in page.terminations:
                yield termination
            if page.next_page_token is None:
                return
            parameters["page_token"] = page.next_page_token

    async def certificate(self, operation_id: str) -> bytes:
        """Return the certificate of an operation, byte for byte as the daemon sent it."""
        path = f"{_path(operation_id)}/certificate"
        return await self._call("GET", path, timeout_s=CERTIFICATE_TIMEOUT_S)

    async def ready(self) -> Readiness:
        """Return the readiness of the daemon; raise RequestFailed if it is not ready."""
        return self._read(Readiness, await self._call("GET", "/readyz"))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> bytes:
        body, _ = await self._exchange(method, path, parameters=parameters, timeout_s=timeout_s)
        return body

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> tuple[bytes, Mapping[str, str]]:
        """Send one request; return the body and the headers of the response."""
        url = URL(self.url + path, encoded=True).update_query(parameters)
        try:
            # Following a redirect would send the token to another server.
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as response:
                answer = await read_at_most(response, ANSWER_BYTES_MAX)
        except AnswerTooLarge as error:
            raise Unreachable(self.url, f"{error}: this server is not an orchestrator") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(self.url, what_failed(error)) from error
        if response.status >= FIRST_ERROR_STATUS:
            raise _request_failed(self.url, response.status, response.reason or "", answer)
        return answer, response.headers

    def _read(self, model: type[A], answer: bytes) -> A:
        try:
            return model.model_validate_json(answer)
        except ValidationError as error:
            reason = "the server there is not an orchestrator of this version"
            raise Unreachable(self.url, reason) from error


def _is_usable(url: str) -> bool:
    try:
        host = URL(url).host or ""
        return bool(host.encode("idna") and URL_PATTERN.fullmatch(url))
    except ValueError:
        return False


def _path(operation_id: str) -> str:
    return f"{OPERATIONS}/{quote(operation_id, safe='')}"


def _request_failed(url: str, status: int, reason: str, answer: bytes) -> RequestFailed:
    """Return the error of the response with each mistake once, or the advice on a URL's path."""
    try:
        problem = Problem.model_validate_json(answer)
    except ValidationError:
        problem = Problem(type=NO_SUCH_PATH, title=f"HTTP {status}", detail=reason)
    if status == NOT_FOUND and problem.type == NO_SUCH_PATH and URL(url).path != "/":
        detail = (
            f"the daemon's URL (--url or {URL_VARIABLE}) has the path {URL(url).path}: remove the "
            f"path ({URL(url).origin()}), unless a proxy serves the daemon under it"
        )
        return RequestFailed(status, problem.title, detail)
    lines = (f"{each.field or 'body'}: {each.message}" for each in problem.errors)
    # The detail already contains the first few mistakes.
    errors = tuple(line for line in lines if f"; {line};" not in f"; {problem.detail};")
    return RequestFailed(status, problem.title, problem.detail, errors)
