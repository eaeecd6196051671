"""Which characters of a text can be seen."""

from __future__ import annotations

import unicodedata
from typing import Final

INVISIBLE: Final = ("Cc", "Cf", "Cs")
"""Controls, formatting such as the reversal of direction, and lone surrogates."""
BLANK: Final = "\u115f\u1160\u2800\u3164\uffa0"
"""Hangul fillers and the empty braille pattern: letters and symbols that are drawn as spaces."""


def shows_something(text: str) -> bool:
    """Whether a reader sees anything: spaces, and marks without a letter, are not enough."""
    return any(
        (kind := unicodedata.category(character)) not in INVISIBLE
        and kind[0] not in "ZM"
        and character not in BLANK
        for character in text
    )
