"""One POST over aiohttp: an answer, or a CloudError that says whether the request may have left."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from orchestrator.cloud import catalogue
from orchestrator.cloud.egress import Egress
from orchestrator.cloud.threads import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace

    from orchestrator.cloud.egress import Proxy
    from orchestrator.domain.errors import CloudError


MIB: Final = 1024 * 1024
ANSWER_BYTES_MAX: Final = 16 * MIB
"""Many times what the largest page of any action takes."""


class AnswerTooLarge(ValueError):
    """The body of an answer is larger than the reader takes."""


async def read_at_most(answer: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body of an answer, decompressed; raises AnswerTooLarge as soon as it is longer.

    aiohttp decompresses no more than is read, so that a small body which decompresses into a huge
    one takes no more memory than another.  What is left unread has the connection closed.
    """
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > bytes_max:
            raise AnswerTooLarge(f"the answer is larger than {bytes_max:,} bytes")
    return bytes(body)


def what_failed(error: Exception) -> str:
    """What an exchange failed on, in one line.

    The texts of aiohttp hold more: URLs, with the password of one, and what was answered.
    """
    match error:
        case aiohttp.ClientResponseError(message=message) if isinstance(
            error.__cause__, aiohttp.http.HttpProcessingError
        ):
            return f"it does not answer valid HTTP: {message.partition(':')[0]}"
        case aiohttp.ClientResponseError(status=status, message=message):
            return f"it answered {status} {message}".rstrip()
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection before it had answered"
        case _:
            return str(error) or type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """A complete HTTP answer of whatever status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport(Protocol):
    """Carries one request; the seam where a simulation takes the network's place."""

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, may_leave: Callable[[], None]
    ) -> HttpAnswer:
        """Send exactly these bytes once, or none if ``may_leave`` raises; raises CloudError."""


class AiohttpTransport:
    """Keeps connections alive, follows no redirect, sends nothing twice.

    To be built inside the running loop; raises ConfigurationError.  aiohttp repeats a request that
    met a dead connection only for idempotent methods, and POST is none.
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
            trace_configs=[_asking_before_it_leaves()],
            trust_env=False,
        )

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, may_leave: Callable[[], None]
    ) -> HttpAnswer:
        proxy = self._egress.proxy_for(url)
        # With the password in the proxy's URL it would be in whatever aiohttp says of that URL.
        authorization = proxy.authorization if proxy else {}
        plain = url.startswith("http://")
        leaving = _Leaving(may_leave)
        try:
            async with self._session.post(
                url,
                data=body,
                headers={**headers, **authorization} if plain else headers,
                allow_redirects=False,
                proxy=proxy.address if proxy else None,
                proxy_headers=None if plain else authorization,
                trace_request_ctx=leaving,
            ) as answer:
                if proxy is not None and answer.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
                    raise _proxy_failed(proxy, "it answered 407: it does not accept the user")
                read = await read_at_most(answer, ANSWER_BYTES_MAX)
                return HttpAnswer(status=answer.status, headers=answer.headers, body=read)
        except AnswerTooLarge as error:
            raise catalogue.error(catalogue.ANSWER_TOO_LARGE, str(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            if leaving.left:
                raise _unanswered(error) from error
            raise _not_connected(error, proxy) from error

    async def close(self) -> None:
        await self._session.close()


@dataclass(slots=True)
class _Leaving:
    """One call: whether it may leave, and whether it has."""

    may_leave: Callable[[], None]
    left: bool = False


def _asking_before_it_leaves() -> aiohttp.TraceConfig:
    """Ask once there is a connection, for making one may take long."""

    async def ask(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx.may_leave()
        context.trace_request_ctx.left = True

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(ask)
    trace.on_connection_reuseconn.append(ask)
    return trace


def _not_connected(error: Exception, proxy: Proxy | None) -> CloudError:
    """What a failure means before there was a connection to send the call on."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = f"the certificate of {error.host}:{error.port} is not trusted: {what_failed(error)}"
        return catalogue.error(catalogue.CERTIFICATE_NOT_TRUSTED, why)
    if proxy is None:
        return catalogue.error(catalogue.CONNECT_FAILED, what_failed(error))
    return _proxy_failed(proxy, what_failed(error))


def _proxy_failed(proxy: Proxy, why: str) -> CloudError:
    return catalogue.error(catalogue.PROXY_FAILED, f"no way through proxy {proxy.shown}: {why}")


def _unanswered(error: Exception) -> CloudError:
    """What a failure means once the call may have left."""
    if isinstance(error, TimeoutError):
        return catalogue.error(catalogue.TIMEOUT, "no answer in time")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientResponseError):
        return catalogue.error(catalogue.BAD_ANSWER, what_failed(error))
    return catalogue.error(catalogue.DISCONNECTED, what_failed(error))
