"""Which host an account's calls for a region go to.

The access point is not the region where a job lives, but the quota is counted on it
(cloud.tencent.com/document/product/1278/109059).
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from orchestrator.domain.regions import REGION, zone_refused

_ENDPOINT: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[0-9a-z_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
_USUAL_PORTS: Final = {"http": 80, "https": 443}
_PORT_MAX: Final = 65535


def is_loopback(host: str) -> bool:
    """Whether ``host``, a number or a name, is this host by its loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def region_name(region: str) -> str:
    """``region`` itself; raises ValueError for what no region is."""
    if refused := zone_refused(region):
        raise ValueError(refused)
    if not REGION.fullmatch(region):
        raise ValueError("must be a region such as ap-guangzhou")
    return region


def endpoint_for(endpoint: str, region: str) -> str:
    """``endpoint`` with its ``{region}`` filled in; raises ValueError for what no region is."""
    return endpoint.replace("{region}", region_name(region))


def host_for(endpoint: str, region: str) -> str:
    """The host, with its port where it is not the usual one; raises ValueError.

    One host has one name here, for its quota is kept by it.
    """
    parts = _ENDPOINT.fullmatch(endpoint_for(endpoint, region))
    if parts is not None:
        usual_port = _USUAL_PORTS[parts["scheme"].lower()]
        port = int(parts["port"] or usual_port)
        if 1 <= port <= _PORT_MAX:
            host = parts["host"].lower()
            return host if port == usual_port else f"{host}:{port}"
    raise ValueError("must be http(s)://HOST or http(s)://HOST:PORT; HOST may hold {region}")
