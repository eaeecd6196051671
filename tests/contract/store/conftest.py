"""Every database must do the same: what is tested here runs on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.postgres import Server


@pytest.fixture(params=["sqlite", "postgresql"])
def template(request: pytest.FixtureRequest) -> tuple[Server, str] | None:
    """A server and its database to copy; None for SQLite."""
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres"), request.getfixturevalue("postgres_template")


@pytest.fixture
async def database_url(template: tuple[Server, str] | None, sqlite_url: str) -> AsyncIterator[str]:
    if template is None:
        yield sqlite_url
    else:
        server, name = template
        async with server.database(name) as url:
            yield url
