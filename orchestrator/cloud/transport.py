"""One POST over aiohttp: a reply, or a CloudError that says whether the request was sent."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from orchestrator.cloud import error_codes
from orchestrator.cloud.egress import Egress
from orchestrator.cloud.threads import Resolver
from orchestrator.domain.model.error_detail import ClientCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace

    from orchestrator.cloud.egress import Proxy
    from orchestrator.domain.errors import CloudError


MIB: Final = 1024 * 1024
ANSWER_BYTES_MAX: Final = 16 * MIB
"""Many times the size of the largest page of any action."""


class AnswerTooLarge(ValueError):
    """The body of a reply is larger than the limit."""


async def read_at_most(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """Return the decompressed body; raise AnswerTooLarge as soon as it exceeds ``bytes_max``.

    aiohttp decompresses only what is read, so a small body that decompresses into a huge one takes
    no more memory than any other. If a part stays unread, aiohttp closes the connection.
    """
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise AnswerTooLarge(f"the reply is larger than {bytes_max:,} bytes")
    return bytes(body)


def what_failed(error: Exception) -> str:
    """Return the reason of a failed HTTP request, in one line.

    The messages of aiohttp are not used as they are: they contain URLs, also one with a password,
    and parts of the reply.
    """
    match error:
        case aiohttp.ClientResponseError(message=message) if isinstance(
            error.__cause__, aiohttp.http.HttpProcessingError
        ):
            return f"it sent invalid HTTP: {message.partition(':')[0]}"
        case aiohttp.ClientResponseError(status=status, message=message):
            return f"it answered {status} {message}".rstrip()
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection before it answered"
        case _:
            return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A complete HTTP reply with any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Sends requests; a simulation replaces the network here."""

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        """Send these bytes once, or nothing if ``before_send`` raises; raise CloudError."""


class AiohttpTransport:
    """Transport that keeps connections alive, follows no redirect and sends no request twice.

    Create it inside the running loop; it raises ConfigurationError. After a dead connection aiohttp
    repeats only requests with idempotent methods, and POST is not one.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 5.0,
        total_timeout_s: float = 30.0,
        egress: Egress | None = None,
    ) -> None:
        self._egress = egress or Egress()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, ssl=self._egress.trusted() or True, resolver=Resolver()
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(connect=connect_timeout_s, total=total_timeout_s),
            trace_configs=[_before_send_trace()],
            trust_env=False,
        )

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, before_send: Callable[[], None]
    ) -> HttpAnswer:
        proxy = self._egress.proxy_for(url)
        # A password in the proxy's URL would appear in aiohttp's messages about that URL.
        authorization = proxy.authorization if proxy else {}
        plain = url.startswith("http://")
        sending = _Sending(before_send)
        try:
            async with self._session.post(
                url,
                data=body,
                headers={**headers, **authorization} if plain else headers,
                allow_redirects=False,
                proxy=proxy.address if proxy else None,
                proxy_headers=None if plain else authorization,
                trace_request_ctx=sending,
            ) as answer:
                if proxy is not None and answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                    raise _proxy_failed(proxy, "it answered 407: it refuses the user or password")
                read = await read_at_most(answer, ANSWER_BYTES_MAX)
                return HttpAnswer(status=answer.status, headers=answer.headers, body=read)
        except AnswerTooLarge as error:
            raise error_codes.error(ClientCode.ANSWER_TOO_LARGE, str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            if sending.started:
                raise _unanswered(error) from error
            raise _not_connected(error, proxy) from error

    async def close(self) -> None:
        await self._session.close()


@dataclass(slots=True)
class _Sending:
    """State of one request; ``started``: from here on, bytes may have left this host."""

    before_send: Callable[[], None]
    started: bool = False


def _before_send_trace() -> aiohttp.TraceConfig:
    """Return a trace that calls ``before_send`` once the connection is open.

    Opening a connection may take long, so a check before that would be outdated.
    """

    async def on_connected(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.before_send()
        context.trace_request_ctx.started = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(on_connected)
    trace.on_connection_reuseconn.append(on_connected)
    return trace


def _not_connected(error: Exception, proxy: Proxy | None) -> CloudError:
    """Return the CloudError of a failure before the connection was open: nothing was sent."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = (
            f"the certificate of {error.host}:{error.port} is not trusted: {what_failed(error)}"
        )
        return error_codes.error(ClientCode.CERTIFICATE_NOT_TRUSTED, reason)
    if proxy is None:
        return error_codes.error(ClientCode.CONNECT_FAILED, what_failed(error))
    return _proxy_failed(proxy, what_failed(error))


def _proxy_failed(proxy: Proxy, reason: str) -> CloudError:
    return error_codes.error(
        ClientCode.PROXY_FAILED, f"no connection through proxy {proxy.shown}: {reason}"
    )


def _unanswered(error: Exception) -> CloudError:
    """Return the CloudError of a failure after the request may have left."""
    if isinstance(error, TimeoutError):
        return error_codes.error(ClientCode.TIMEOUT, "no reply within the timeout")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
        return error_codes.error(ClientCode.BAD_ANSWER, what_failed(error))
    return error_codes.error(ClientCode.DISCONNECTED, what_failed(error))
