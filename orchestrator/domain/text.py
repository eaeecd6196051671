"""Visibility of the characters of a text."""

from __future__ import annotations

import unicodedata
from typing import Final

INVISIBLE: Final = ("Cc", "Cf", "Cs")
"""Control characters, format characters such as direction overrides, and lone surrogates."""
BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"
"""Hangul fillers and the empty braille pattern: letters and symbols displayed as spaces."""


def shows_something(text: str) -> bool:
    """Return whether the text has a visible character; spaces and lone marks do not count."""
    return any(
        (kind := unicodedata.category(character)) not in INVISIBLE
        and kind[0] not in "ZM"
        and character not in BLANK
        for character in text
    )
