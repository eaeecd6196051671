"""A key that is corrected in the configuration file while the daemon runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import pytest

from orchestrator import settings
from orchestrator.access import credentials_of
from tests.support.clock import ManualClock
from tests.unit.cloud.support import NoTransport

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cloud.credentials import CredentialProvider

STATIC = 'provider = "static", secret_id = "AKID", secret_key = "KEY"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orchestrator.toml"


def write(file: Path, *, key: str, credentials: str = STATIC, name: str = "prod") -> None:
    lines = (
        f"[accounts.{name}]",
        'regions = ["ap-guangzhou"]',
        f"credentials = {{ {credentials} }}",
    )
    file.write_text("\n".join(lines).replace("KEY", key))


async def after_a_refusal(provider: CredentialProvider, clock: ManualClock) -> str:
    """Return the secret key that is used after the cloud refused the previous one."""
    provider.invalidate(await provider.get())
    clock.passed_s += 30
    return (await provider.get()).secret_key


async def test_it_is_taken_over(file: Path) -> None:
    write(file, key="wrong")
    clock = ManualClock()
    reread = functools.partial(settings.load, file)
    provider = credentials_of("prod", reread(), clock, NoTransport(), reread)
    assert (await provider.get()).secret_key == "wrong"
    write(file, key="right")
    assert (await provider.get()).secret_key == "wrong"
    assert await after_a_refusal(provider, clock) == "right"


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ({"credentials": 'provider = "environment"'}, "accounts.prod.credentials.provider has"),
        ({"name": "other"}, "accounts.prod.credentials.provider has changed: restart"),
        ({"credentials": "provider ="}, "is not TOML"),
    ],
)
async def test_changes_beside_the_key_wait_for_a_restart(
    file: Path, edit: dict[str, str], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous key stays in use, and the log has the reason."""
    write(file, key="old")
    clock = ManualClock()
    reread = functools.partial(settings.load, file)
    provider = credentials_of("prod", reread(), clock, NoTransport(), reread)
    await provider.get()
    write(file, key="new", **edit)
    assert await after_a_refusal(provider, clock) == "old"
    assert "account prod: the configuration cannot be read again" in caplog.text
    assert expected in caplog.text
