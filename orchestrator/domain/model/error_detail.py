"""Errors as terminations store them and the API shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDetail:
    """The last error, and advice on what to do about it."""

    code: str
    message: str
    advice: str | None = None
