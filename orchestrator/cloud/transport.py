"""One POST over aiohttp: an answer, or a CloudError that says whether the request may have left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import aiohttp

from orchestrator.cloud import catalogue

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import SimpleNamespace


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
    """Keeps connections alive, follows no redirect, asks no proxy, sends nothing twice.

    To be built inside the running loop.  aiohttp repeats a request that met a dead connection only
    for idempotent methods, and POST is none.
    """

    def __init__(self, *, connect_timeout_s: float = 5.0, total_timeout_s: float = 30.0) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(connect=connect_timeout_s, total=total_timeout_s),
            trace_configs=[_asking_before_it_leaves()],
            trust_env=False,
        )

    async def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, may_leave: Callable[[], None]
    ) -> HttpAnswer:
        try:
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False, trace_request_ctx=may_leave
            ) as answer:
                read = await read_at_most(answer, ANSWER_BYTES_MAX)
                return HttpAnswer(status=answer.status, headers=answer.headers, body=read)
        except AnswerTooLarge as error:
            raise catalogue.error(catalogue.ANSWER_TOO_LARGE, str(error)) from error
        except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
            raise catalogue.error(catalogue.CONNECT_FAILED, _told(error)) from error
        except TimeoutError as error:
            raise catalogue.error(catalogue.TIMEOUT, "no answer in time") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            raise catalogue.error(catalogue.BAD_ANSWER, _told(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise catalogue.error(catalogue.DISCONNECTED, _told(error)) from error

    async def close(self) -> None:
        await self._session.close()


def _asking_before_it_leaves() -> aiohttp.TraceConfig:
    """Ask once there is a connection, for making one may take long."""

    async def ask(_session: object, context: SimpleNamespace, _params: object) -> None:
        context.trace_request_ctx()

    trace = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(ask)
    trace.on_connection_reuseconn.append(ask)
    return trace


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
