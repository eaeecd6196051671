"""Which host an account's calls for a region go to.

The access point is not the region where a job lives, but the quota is counted on it
(cloud.tencent.com/document/product/1278/109059).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

_REGION: Final = re.compile(r"[a-z]{2}-[a-z]+(-[0-9a-z]+)*")


def endpoint_for(endpoint: str, region: str) -> str:
    """``endpoint`` with its ``{region}`` filled in; raises ValueError for what no region is."""
    if not _REGION.fullmatch(region):
        raise ValueError(f"{region!r} is no region such as ap-guangzhou")
    return endpoint.replace("{region}", region)


def host_for(endpoint: str, region: str) -> str:
    """The host, with its port if it has one, that is called for ``region``; raises ValueError."""
    parts = urlsplit(endpoint_for(endpoint, region))
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise ValueError("endpoint must be http(s)://HOST or http(s)://HOST:PORT")
    return parts.netloc
