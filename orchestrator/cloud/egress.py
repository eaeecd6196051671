"""The way an account's calls take out of this host: through which proxy, and whom they trust."""

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
"""What is configured in place of a proxy where none is to be used."""
PROXY_FORM: Final = (
    "must be http(s)://HOST:PORT or http(s)://USER:PASSWORD@HOST:PORT, %-encoded where a password "
    "holds what a URL cannot; SOCKS is not supported"
)
_URL_CHARACTERS: Final = re.compile(r"[!\"$-;=@-~]+")
"""Printable ASCII without what ends a URL's host: blank, ``#`` and ``?``."""
_SEPARATOR: Final = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy, and which setting or variable names it."""

    url: str
    origin: str

    @property
    def address(self) -> str:
        """Its URL without user and password."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    @property
    def shown(self) -> str:
        return f"{self.address} ({self.origin})"

    @property
    def authorization(self) -> dict[str, str]:
        """The header that tells it the user and the password of its URL, where it names any."""
        userinfo, given, _ = urlsplit(self.url).netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        decoded = unquote_to_bytes(user) + b":" + unquote_to_bytes(password)
        return {"Proxy-Authorization": f"Basic {b64encode(decoded).decode()}"} if given else {}

    def __repr__(self) -> str:
        return f"Proxy({self.shown})"


@dataclass(frozen=True, slots=True)
class Egress:
    """One account's way out.

    A proxy that is configured is used for every call of the account.  Without one the variables
    that other programs go by decide, HTTPS_PROXY, HTTP_PROXY and NO_PROXY; a loopback address is
    then always called directly.
    """

    proxy: Proxy | None = None
    """As configured; its URL may be ``none``."""
    ca_file: Path | None = None
    """Authorities that are trusted beside those of this host."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def proxy_for(self, url: str) -> Proxy | None:
        """The proxy that a call of ``url`` goes through; raises ConfigurationError."""
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
        """Whom TLS trusts, None for this host's authorities; raises ConfigurationError."""
        if self.ca_file is None:
            return None
        context = ssl.create_default_context()
        try:
            context.load_verify_locations(cafile=self.ca_file.expanduser())
        except (OSError, RuntimeError) as error:
            raise ConfigurationError(
                [f"ca_file {self.ca_file} holds no CA certificate in PEM form: {error}"]
            ) from error
        return context

    def _variable(self, name: str) -> tuple[str, str]:
        """The name and value of a variable; in small letters it goes first, even where empty."""
        for spelt in (name, name.upper()):
            if spelt in self.environment:
                return spelt, self.environment[spelt].strip()
        return name, ""

    def _excepted(self, netloc: str, host: str) -> bool:
        if is_loopback(host):
            return True
        _, excepted = self._variable("no_proxy")
        return any(_covers(each, netloc.lower(), host) for each in _SEPARATOR.split(excepted))


def _covers(entry: str, netloc: str, host: str) -> bool:
    """Whether an entry of NO_PROXY (a domain, a host with or without port, a network) is met."""
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
    """A proxy's URL, with its scheme where only a host was given; raises ValueError."""
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
