"""REST client of a daemon under test, with its simulated cloud and its database file."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING, Any

from yarl import URL

from tests.support import HANG_S
from tests.support.service import service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from tests.support.service import Service

OPERATIONS = "/v1/operations"
JSON = {"Content-Type": "application/json"}
LEGAL = {"jobs": ["job-aaaaaaaa"], "reason": "a test"}
LEGAL_TEXT = json.dumps(LEGAL).encode()


def tomorrow() -> str:
    """Return a ``not_before`` that keeps terminations unchanged while a test reads them."""
    return (datetime.now(UTC) + timedelta(days=1)).isoformat()


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Rest:
    """A daemon, its simulated cloud and its database file."""

    service: Service
    file: Path

    @property
    def base(self) -> URL:
        base = self.service.client._base_url
        assert base is not None
        return base

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request: ``path`` unchanged, and a body that is not bytes or a file as JSON."""
        data = body if isinstance(body, bytes | BytesIO | None) else json.dumps(body).encode()
        url = URL(str(self.base.origin()) + path, encoded=True)
        async with self.service.client.request(method, url, data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def get(self, path: str) -> Answer:
        return await self.call("GET", path)

    async def post(self, body: object, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("POST", OPERATIONS, body=body, headers=JSON | named)

    async def accepted(self, *jobs: str, **more: Any) -> Any:
        """Submit these jobs and return the operation; ``not_before`` is tomorrow by default."""
        answer = await self.post({"jobs": jobs, "reason": "r", "not_before": tomorrow()} | more)
        assert answer.status == 202, answer.text
        return answer.document

    async def pages(self, path: str) -> AsyncIterator[Any]:
        """Yield each page of a list, following the Link headers."""
        following: str | None = path
        while following is not None:
            answer = await self.get(following)
            assert answer.status == 200, answer.text
            link = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("Link", ""))
            following = link[1] if link else None
            document = answer.document
            assert (document["next_page_token"] is None) == (following is None)
            yield document

    async def answer_to(self, data: bytes) -> Answer:
        """Send these bytes on a new connection and return the first response."""
        head, _, body = (await self.send(data)).decode().partition("\r\n\r\n")
        status, *headers = head.split("\r\n")
        named = dict(header.split(": ", 1) for header in headers)
        return Answer(int(status.split()[1]), named, body)

    async def send(self, data: bytes, *, until: bytes | None = None) -> bytes:
        """Send these bytes; return what arrives until the connection closes, or up to ``until``."""
        reader, writer = await asyncio.open_connection(self.base.host, self.base.port)
        try:
            writer.write(data)
            async with asyncio.timeout(HANG_S):
                return await (reader.readuntil(until) if until else reader.read())
        finally:
            writer.close()
            await writer.wait_closed()

    def rows(self) -> int:
        """Return the number of rows in all tables that requests fill."""
        tables = ("operations", "terminations", "operation_terminations", "attempts", "events")
        with closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
            counts = [connection.execute(f"SELECT count(*) FROM {table}") for table in tables]
            return sum(count.fetchone()[0] for count in counts)


def assert_problem(answer: Answer, status: int, slug: str, *texts: str) -> Any:
    """Assert that this is a problem of this status and type, with these texts in its detail."""
    assert answer.status == status, answer.text
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    problem = answer.document
    assert problem["type"] == f"urn:orchestrator:problem:{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    for text in texts:
        assert text in problem["detail"]
    return problem


@asynccontextmanager
async def served(directory: Path, *jobs: dict[str, Any], **more: Any) -> AsyncIterator[Rest]:
    file = directory / "orchestrator.db"
    async with service(f"sqlite:///{file}", *jobs, **more) as running:
        yield Rest(running, file)
