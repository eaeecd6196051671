"""The URL of a PostgreSQL database, in the form that PostgreSQL's own tools use.

See postgresql.org, libpq, "Connection URIs". Several hosts and some of the parameters are accepted.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from orchestrator.paths import absolute

if TYPE_CHECKING:
    from collections.abc import Mapping

FORM: Final = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
CONNECT_TIMEOUT_MAX_S: Final = 10
"""Limit of connect_timeout: requests wait for a connection, and are promised an answer."""

_SCHEME = r"(?:postgresql|postgres|postgresql\+asyncpg)://"
_URL: Final = re.compile(
    _SCHEME + r"(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@]*))?@)?"
    r"(?P<hosts>[^@/?#]*)/(?P<database>[^@/?#]+)(?:\?(?P<query>[^#]*))?"
)
_HOST: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?")
_PORTS: Final = range(1, 65536)

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    # standby, prefer-standby and read-only are left out: such a server accepts no writes.
    "target_session_attrs": ("any", "primary", "read-write"),
}
_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_CONNECT_TIMEOUT: Final = "connect_timeout"
_OTHER_NAMES: Final = {"ssl": "sslmode"}
"""SQLAlchemy's names of parameters."""


@dataclass(frozen=True, slots=True)
class Host:
    """A server, or the folder of a server's socket; without a port the driver's default is used."""

    name: str
    port: int | None

    def __str__(self) -> str:
        quoted = f"[{self.name}]" if ":" in self.name else quote(self.name, safe="")
        return quoted if self.port is None else f"{quoted}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresqlUrl:
    """A parsed URL. Parts that are left out are taken by the driver from the environment."""

    user: str | None
    password: str | None = field(repr=False)
    hosts: tuple[Host, ...]
    database: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, given: str, folder: Path) -> PostgresqlUrl:
        """Parse a URL, whose file names are relative to ``folder``; raises ValueError."""
        found = _URL.fullmatch(given)
        if found is None:
            if given.partition("?")[0].count("@") > 1:
                raise ValueError(
                    "the user name or the password holds @: percent-encode special characters, "
                    "@ as %40, : as %3A, / as %2F"
                )
            raise ValueError(f"must be {FORM}, or with several hosts, HOST:PORT,HOST:PORT")
        user, password, hosts = found["user"], found["password"], found["hosts"]
        return cls(
            user=unquote(user) if user else None,
            password=unquote(password) if password else None,
            hosts=tuple(_host(each) for each in hosts.split(",")) if hosts else (),
            database=unquote(found["database"]),
            parameters=_parameters(found["query"] or "", folder),
        )

    @property
    def tls(self) -> dict[str, str]:
        names = ("sslmode", *_FILES)
        return {name: value for name, value in self.parameters.items() if name in names}

    @property
    def target(self) -> str | None:
        """Servers that may be used (target_session_attrs); None leaves the choice to the driver.

        The default with several hosts is read-write: most of them are standbys, which accept no
        writes.
        """
        default = "read-write" if len(self.hosts) > 1 else None
        return self.parameters.get("target_session_attrs", default)

    @property
    def connect_timeout_s(self) -> float | None:
        given = self.parameters.get(_CONNECT_TIMEOUT)
        return None if given is None else float(given)

    @property
    def shown(self) -> str:
        return self._text("***")

    def __str__(self) -> str:
        return self._text(quote(self.password or "", safe=""))

    def _text(self, password: str) -> str:
        user = quote(self.user or "", safe="")
        who = f"{user}:{password}@" if self.password is not None else f"{user}@" if user else ""
        hosts = ",".join(str(host) for host in self.hosts)
        query = f"?{urlencode(self.parameters, safe='/')}" if self.parameters else ""
        return f"postgresql://{who}{hosts}/{quote(self.database, safe='')}{query}"


def _host(given: str) -> Host:
    found = _HOST.fullmatch(given)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and port not in _PORTS):
        raise ValueError(
            f"must be {FORM}, its port a number, an IPv6 address in brackets; percent-encode a "
            "user name or a password that holds / or @"
        )
    return Host(found["v6"] or unquote(found["name"]), port)


def _parameters(query: str, folder: Path) -> dict[str, str]:
    made: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        known = _OTHER_NAMES.get(name, name)
        made[known] = _checked(known, value, folder)
    verifies = made.get("sslmode", "").startswith("verify-")
    if verifies and "sslrootcert" not in made and not _has_default_authority():
        raise ValueError(
            f"sslmode={made['sslmode']} needs sslrootcert, the path of the certificate of the "
            "authority that signed the server's"
        )
    return made


def _has_default_authority() -> bool:
    """Return whether the driver finds a root certificate by itself; without a home folder: no."""
    given = os.environ.get("PGSSLROOTCERT")
    if given:
        return bool(_file("variable PGSSLROOTCERT", given, Path()))
    return os.path.isfile(os.path.expanduser("~/.postgresql/root.crt"))  # noqa: PTH111, PTH113


def _checked(name: str, value: str, folder: Path) -> str:
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"{name} must be one of {', '.join(_CHOICES[name])}")
        return value
    if name in _FILES:
        return _file(name, value, folder)
    if name == _CONNECT_TIMEOUT:
        if not value.isdecimal() or not 1 <= int(value) <= CONNECT_TIMEOUT_MAX_S:
            raise ValueError(
                f"{name} must be a whole number of seconds from 1 to {CONNECT_TIMEOUT_MAX_S}"
            )
        return value
    allowed = ", ".join((*_CHOICES, *_FILES, _CONNECT_TIMEOUT))
    raise ValueError(f"{name} cannot be given: only {allowed} can")


def _file(name: str, given: str, folder: Path) -> str:
    try:
        path = absolute(given, folder)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises if access is denied
        raise ValueError(f"{name}: there is no file {path}")
    return str(path)
