"""Validation of loaded keys: a usable credential, or a CloudError with advice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.cloud import error_codes
from orchestrator.cloud.signing import Credential
from orchestrator.domain.model.error_detail import ClientCode

if TYPE_CHECKING:
    from orchestrator.domain.errors import CloudError


def build_credential(
    keys: tuple[object, object, object], *, expires_at: datetime | None = None, source: str
) -> Credential:
    """Return a credential of (secret id, secret key, token); raise CloudError if it is unusable."""
    secret_id, secret_key, token = (key.strip() if isinstance(key, str) else None for key in keys)
    if not secret_id or not secret_key:
        raise unavailable(f"{source}: the secret id or the secret key is missing")
    if not all(key.isascii() and key.isprintable() for key in (secret_id, secret_key, token or "")):
        raise unavailable(f"{source}: the keys contain characters that no key has")
    return Credential(
        secret_id=secret_id, secret_key=secret_key, token=token or None, expires_at=expires_at
    )


def unix_time(value: object) -> datetime | None:
    """Return the time of a number of seconds since 1970; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def unavailable(
    reason: str, *, advice: str | None = None, request_id: str | None = None
) -> CloudError:
    """Return the CloudError of a source that gives no credential."""
    return error_codes.error(
        ClientCode.CREDENTIAL_UNAVAILABLE, reason, request_id=request_id, advice=advice
    )
