"""Names of regions and of their zones."""

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
"""The vendor adds to them (tencentcloud.com/document/product/213/6091)."""


def zone_refused(name: str) -> str | None:
    """What to say of a zone where a region is needed; None where ``name`` is no zone."""
    found = _ZONE.fullmatch(name)
    return f"{name} is a zone: name its region, {found['region']}" if found else None
