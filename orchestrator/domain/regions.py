"""Names of cloud regions and of their zones."""

from __future__ import annotations

import re
from typing import Final

REGION: Final = re.compile(r"[a-z]{2}-[a-z]+(-[0-9a-z]+)*")
_ZONE: Final = re.compile(r"(?P<region>[a-z]{2}-[a-z]+(-[a-z]+)*)-[0-9]+")
KNOWN: Final = (
    "ap-bangkok",
    "ap-beijing",
    "ap-beijing-fsi",
    "ap-chengdu",
    "ap-chongqing",
    "ap-guangzhou",
    "ap-hongkong",
    "ap-jakarta",
    "ap-mumbai",
    "ap-nanjing",
    "ap-seoul",
    "ap-shanghai",
    "ap-shanghai-fsi",
    "ap-shenzhen",
    "ap-shenzhen-fsi",
    "ap-singapore",
    "ap-taipei",
    "ap-tianjin",
    "ap-tokyo",
    "ap-zhongwei",
    "eu-frankfurt",
    "me-saudi-arabia",
    "na-ashburn",
    "na-siliconvalley",
    "na-toronto",
    "sa-saopaulo",
)
"""Known regions; the vendor adds new ones (tencentcloud.com/document/product/213/6091)."""


def zone_refused(name: str) -> str | None:
    """Return an error message if ``name`` is a zone and not a region; None if it is no zone."""
    found = _ZONE.fullmatch(name)
    return f"{name} is a zone: name its region, {found['region']}" if found else None
