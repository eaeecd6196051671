"""Bearer tokens, and their digests in the configuration."""

from __future__ import annotations

import hashlib
import hmac


def digest(token: bytes) -> str:
    """Return the SHA-256 of a token in hexadecimal, as the configuration stores it."""
    return hashlib.sha256(token).hexdigest()


def wrong_digest(token: bytes, configured: str) -> str | None:
    """Return the mistake if ``configured`` was derived from ``token`` in a wrong way; else None.

    :func:`digest` is the right way.
    """
    if hmac.compare_digest(configured.encode(), token.lower()):
        return "it is the token itself"
    if hmac.compare_digest(configured, digest(token + b"\n")):
        return "it is the digest of the token and a line break, as `echo` adds one: use `printf %s`"
    return None
