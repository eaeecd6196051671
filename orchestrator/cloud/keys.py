"""What every source of keys gives: a credential that can be one, or an error with advice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.cloud import catalogue
from orchestrator.cloud.signing import Credential

if TYPE_CHECKING:
    from orchestrator.domain.errors import CloudError


def checked(
    keys: tuple[object, object, object], *, expires_at: datetime | None = None, source: str
) -> Credential:
    """A credential of (secret id, secret key, token); raises CloudError if it cannot be one."""
    secret_id, secret_key, token = (key.strip() if isinstance(key, str) else None for key in keys)
    if not secret_id or not secret_key:
        raise unavailable(f"{source}: no secret id and secret key")
    if not all(key.isascii() and key.isprintable() for key in (secret_id, secret_key, token or "")):
        raise unavailable(f"{source}: the keys hold characters that no key has")
    return Credential(
        secret_id=secret_id, secret_key=secret_key, token=token or None, expires_at=expires_at
    )


def unix_time(value: object) -> datetime | None:
    """The time that a number of seconds since 1970 stands for; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def unavailable(
    why: str, *, advice: str | None = None, request_id: str | None = None
) -> CloudError:
    """That a source gives no credential."""
    return catalogue.error(
        catalogue.CREDENTIAL_UNAVAILABLE, why, request_id=request_id, advice=advice
    )
