"""What a person is told of something that went wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """What last went wrong, and what a person can do about it."""

    code: str
    message: str
    advice: str | None = None
