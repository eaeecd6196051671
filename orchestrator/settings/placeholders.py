"""Placeholders: example values that were never replaced."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    Place = tuple[str | int, ...]

UNFILLED: Final = (
    "is a placeholder: replace it with the value (the file does not expand variables), or set the "
    "value by a variable ORCHESTRATOR__..."
)
_ANYWHERE: Final = re.compile(
    r"""
    \$\{[^}]*\}                        # ${SECRET}
    | \$\([^)]*\)                      # $(cat secret)
    | \{\{.*?\}\}                      # {{ .Values.secret }}
    | <[A-Za-z][\w .-]{2,}>            # <SECRET_KEY>
    | %[A-Z][A-Z_]{2,}%                # %SECRET%
    | ://USER:PASSWORD@                # as in config/orchestrator.toml
    """,
    re.VERBOSE,
)
_WHOLE: Final = re.compile(
    r"""
    \$[A-Za-z_]\w*                                                  # $SECRET
    | (change|replace|fill|insert)[ _-]?(me|this|it|in|here)        # CHANGE_ME
    | (your|my)[ _-](\w+[ _-])*(secret|key|id|token|password)s?     # your-secret-key
    | x{3,} | \*{3,} | .*(\.\.\.|…)                                 # xxxx, ****, AKID...
    | to[ _-]?do | tbd | fixme | placeholder
    """,
    re.VERBOSE | re.IGNORECASE,
)


def is_placeholder(text: str) -> bool:
    """Return whether ``text`` looks like an example that was to be replaced by a real value."""
    return bool(_ANYWHERE.search(text) or _WHOLE.fullmatch(text.strip()))


def placeholders(value: object, place: Place = ()) -> Iterator[Place]:
    """Yield the places of all placeholders in a document, at any depth."""
    if isinstance(value, str):
        if is_placeholder(value):
            yield place
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from placeholders(inner, (*place, key))
