"""Hosts of an account's endpoints, by region.

The host that is called selects the access point, not the region where a job lives; the cloud
counts the quota per access point (cloud.tencent.com/document/product/1278/109059).
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
    """Return whether ``host``, an IP address or a name, is a loopback address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def region_name(region: str) -> str:
    """Return ``region``; raise ValueError if it is not the name of a region."""
    if refused := zone_refused(region):
        raise ValueError(refused)
    if not REGION.fullmatch(region):
        raise ValueError("must be a region such as ap-guangzhou")
    return region


def endpoint_for(endpoint: str, region: str) -> str:
    """Return ``endpoint`` with ``{region}`` replaced; raise ValueError for an invalid region."""
    return endpoint.replace("{region}", region_name(region))


def host_for(endpoint: str, region: str) -> str:
    """Return the host of ``endpoint``, with its port unless it is the default; raise ValueError.

    Every spelling of a host gives the same name, because quotas are kept by that name.
    """
    parts = _ENDPOINT.fullmatch(endpoint_for(endpoint, region))
    if parts is not None:
        usual_port = _USUAL_PORTS[parts["scheme"].lower()]
        port = int(parts["port"] or usual_port)
        if 1 <= port <= _PORT_MAX:
            host = parts["host"].lower()
            return host if port == usual_port else f"{host}:{port}"
    raise ValueError("must be http(s)://HOST or http(s)://HOST:PORT; HOST may hold {region}")
