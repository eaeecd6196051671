"""Ids of our own records, and the form of the cloud's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: no letter that reads as another."""
LENGTH: Final = 20

JOB_ID: Final = re.compile(r"job-[0-9A-Za-z]{1,60}")
"""Job ids as every example of the vendor has them; how long they may be is not documented."""


def new_id(prefix: str, random: Random) -> str:
    """An id of 100 random bits: ``prefix``, an underscore and 20 characters."""
    return f"{prefix}_{''.join(random.choices(ALPHABET, k=LENGTH))}"
