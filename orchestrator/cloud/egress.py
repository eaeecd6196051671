"""Egress of an account's requests: the proxy, and the certificate authorities that are trusted."""

from __future__ import annotations

import re
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

from orchestrator.cloud.hosts import is_loopback
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DIRECT: Final = "none"
"""Configured value that disables the proxy."""
PROXY_FORM: Final = (
    "must be http(s)://HOST:PORT or http(s)://USER:PASSWORD@HOST:PORT; %-encode the characters of "
    "a password that a URL cannot hold; SOCKS is not supported"
)
_URL_CHARACTERS: Final = re.compile(r"[!\"$-;=@-~]+")
"""Printable ASCII without the characters that end a URL's host: space, ``#`` and ``?``."""
_SEPARATOR: Final = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy, and the name of the setting or variable that it comes from."""

    url: str
    origin: str

    @property
    def address(self) -> str:
        """URL without user and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def shown(self) -> str:
        return f"{self.address} ({self.origin})"

    @property
    def authorization(self) -> dict[str, str]:
        """Proxy-Authorization header with the URL's user and password; empty if it has none."""
        userinfo, given, _ = urlsplit(self.url).netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        decoded = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        return {"Proxy-Authorization": f"Basic {b64encode(decoded).decode()}"} if given else {}

    def __repr__(self) -> str:
        return f"Proxy({self.shown})"


@dataclass(frozen=True, slots=True)
class Egress:
    """Proxy and CA file of one account.

    A configured proxy is used for every request of the account. Without one, the usual variables
    HTTPS_PROXY, HTTP_PROXY and NO_PROXY decide, and a loopback address is always called directly.
    """

    proxy: Proxy | None = None
    """The configured proxy; its URL may be ``none``."""
    ca_file: Path | None = None
    """PEM file of authorities that are trusted in addition to those of this host."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for requests to ``url``, or None; raise ConfigurationError."""
        if self.proxy is not None:
            return None if self.proxy.url == DIRECT else self.proxy
        parts = urlsplit(url)
        origin, named = self._variable(f"{parts.scheme}_proxy")
        if not named or self._excepted(parts.netloc, parts.hostname or ""):
            return None
        try:
            return Proxy(proxy_url(named), origin)
        except ValueError as error:
            raise ConfigurationError([f"{origin}: {error}"]) from None

    def trusted(self) -> ssl.SSLContext | None:
        """Return the TLS context, None for this host's authorities; raise ConfigurationError."""
        if self.ca_file is None:
            return None
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(cafile=self.ca_file.expanduser())
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(
                [f"ca_file {self.ca_file} has no CA certificate in PEM format: {error}"]
            ) from error
        return context

    def _variable(self, name: str) -> tuple[str, str]:
        """Return the name and value of a variable; lower case has precedence, even if empty."""
        for spelt in (name, name.upper()):
            if spelt in self.environment:
                return spelt, self.environment[spelt].strip()
        return name, ""

    def _excepted(self, netloc: str, host: str) -> bool:
        if is_loopback(host):
            return True
        _, excepted = self._variable("no_proxy")
        return any(_matches(each, netloc.lower(), host) for each in _SEPARATOR.split(excepted))


def _matches(entry: str, netloc: str, host: str) -> bool:
    """Return whether ``entry`` of NO_PROXY (domain, host with or without port, network) matches."""
    if entry == "*":
        return True
    name = entry.lower().removeprefix("*").lstrip(".")
    if not name:
        return False
    return name in {host, netloc} or host.endswith(f".{name}") or _in_network(host, name)


def _in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def proxy_url(text: str) -> str:
    """Return a proxy's URL, with ``http://`` if the scheme is missing; raise ValueError."""
    if text == DIRECT:
        return DIRECT
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise ValueError(PROXY_FORM) from None
    if not usable or parts.path not in {"", "/"} or not _URL_CHARACTERS.fullmatch(url):
        raise ValueError(PROXY_FORM)
    return url
