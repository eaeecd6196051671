"""Bearer tokens and the digests that stand for them in the configuration."""

from __future__ import annotations

import hashlib
import hmac


def digest(token: bytes) -> str:
    """What the configuration holds of a token: its SHA-256 in hexadecimal."""
    return hashlib.sha256(token).hexdigest()


def wrong_digest(token: bytes, configured: str) -> str | None:
    """What is wrong where ``configured`` was made of ``token``, but not as :func:`digest` does."""
    if hmac.compare_digest(configured.encode(), token.lower()):
        return "it is the token itself"
    if hmac.compare_digest(configured, digest(token + b"\n")):
        return "it is the digest of the token and a line break, as `echo` writes one"
    return None
