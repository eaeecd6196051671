"""Ids of our own records, and the format of the cloud's job ids."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no two characters look alike."""
LENGTH: Final = 20

JOB_ID: Final = re.compile(r"job-[0-9A-Za-z]{1,60}")
"""The format of every job id in the vendor's examples; the maximum length is not documented."""


def new_id(prefix: str, random: Random) -> str:
    """Return an id with 100 random bits: ``prefix``, an underscore and 20 characters."""
    return new_ids(prefix, 1, random)[0]


def new_ids(prefix: str, count: int, random: Random) -> list[str]:
    """Return so many ids, made of one block of random bytes."""
    characters = "".join(ALPHABET[byte % 32] for byte in random.randbytes(LENGTH * count))
    return [
        f"{prefix}_{characters[start : start + LENGTH]}"
        for start in range(0, LENGTH * count, LENGTH)
    ]
