"""The configuration: a TOML file, each value overridable by ``ORCHESTRATOR__...`` variables.

:func:`load` names every mistake at once and echoes no value, for a value may be a secret.
"""

from __future__ import annotations

import os
import tomllib
from collections import defaultdict
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from orchestrator.cloud.credentials import REQUIRED_OPTIONS
from orchestrator.cloud.hosts import host_for
from orchestrator.domain.errors import ConfigurationError
from orchestrator.domain.polling import PollPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pydantic_core import ErrorDetails

PREFIX = "ORCHESTRATOR__"
CONFIG_VARIABLE = "ORCHESTRATOR_CONFIG"
_POLL = PollPolicy()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class Server(_Section):
    """Where the REST API listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8642

    @property
    def loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class DatabaseSettings(_Section):
    """Where terminations are kept."""

    url: str = "sqlite:///orchestrator.db"

    @field_validator("url")
    @classmethod
    def _sqlite(cls, url: str) -> str:
        scheme, _, path = url.partition(":///")
        if scheme not in ("sqlite", "sqlite+aiosqlite") or path in ("", ":memory:"):
            raise ValueError("must be sqlite:///PATH of a file")
        return f"sqlite+aiosqlite:///{path}"


class Poll(_Section):
    """Bounds of the intervals between looks, in seconds."""

    sweep_min_s: PositiveFloat = _POLL.sweep_min_s
    sweep_max_s: PositiveFloat = _POLL.sweep_max_s
    drain_max_s: PositiveFloat = _POLL.drain_max_s
    held_s: PositiveFloat = _POLL.held_s
    queued_s: PositiveFloat = _POLL.queued_s
    settling_s: PositiveFloat = _POLL.settling_s
    relook_min_s: PositiveFloat = _POLL.relook_min_s

    def policy(self) -> PollPolicy:
        return PollPolicy(**self.model_dump())


class Engine(_Section):
    """How terminations are driven."""

    settle_s: Annotated[float, Field(ge=0)] = 30.0
    give_up_after_s: PositiveFloat = 6 * 3600.0
    call_timeout_s: PositiveFloat = 10.0
    poll: Poll = Poll()


class Quotas(_Section):
    """Calls a second by action; the defaults are the lowest that the vendor documents."""

    TerminateJob: PositiveInt = 2
    DescribeJob: PositiveInt = 2
    DescribeJobs: PositiveInt = 2
    DescribeTask: PositiveInt = 3


class Credentials(_Section):
    """Which provider signs an account's calls, and what that provider needs."""

    provider: Literal["static", "environment", "profile", "cvm-role", "sts", "tke-oidc"]
    secret_id: str | None = None
    secret_key: SecretStr | None = None
    token: SecretStr | None = None
    path: Path | None = None
    role: str | None = None
    role_arn: str | None = None
    session_name: str = "termination-orchestrator"
    duration_s: PositiveInt = 7200
    endpoint: str | None = None

    def options(self) -> dict[str, str | int | Path | None]:
        """What the provider is built with, secrets in the clear."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self
            if name != "provider"
        }

    @model_validator(mode="after")
    def _complete(self) -> Credentials:
        needed = REQUIRED_OPTIONS[self.provider]
        missing = [name for name in needed if getattr(self, name) is None]
        if missing:
            raise ValueError(f"provider {self.provider} needs {' and '.join(missing)}")
        return self


class Account(_Section):
    """A named credential and endpoint."""

    endpoint: str = "https://batch.{region}.tencentcloudapi.com"
    regions: Annotated[list[str], Field(min_length=1)]
    default_region: str | None = None
    credentials: Credentials
    quotas: Quotas = Quotas()

    @model_validator(mode="after")
    def _consistent(self) -> Account:
        for region in self.regions:
            host_for(self.endpoint, region)
        if self.default_region is not None and self.default_region not in self.regions:
            raise ValueError("default_region must be one of regions")
        return self

    def host(self, region: str) -> str:
        return host_for(self.endpoint, region)

    def partitions(self, name: str) -> dict[str, str]:
        """The partition of each region, given the account's name."""
        return {region: f"{name}@{self.host(region)}" for region in self.regions}


class Token(_Section):
    """A caller: ``name`` becomes requested_by; ``sha256`` is the hex digest of its token."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Auth(_Section):
    """Who may call; no tokens: everyone who reaches the (loopback) address."""

    tokens: list[Token] = []


class Log(_Section):
    """How the daemon logs to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


class Settings(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        hide_input_in_errors=True,
        frozen=True,
    )

    server: Server = Server()
    database: DatabaseSettings = DatabaseSettings()
    engine: Engine = Engine()
    accounts: Annotated[dict[str, Account], Field(min_length=1)]
    auth: Auth = Auth()
    log: Log = Log()

    @model_validator(mode="after")
    def _served_to_strangers_with_tokens_only(self) -> Settings:
        if not self.server.loopback and not self.auth.tokens:
            raise ValueError(
                "server.host is not a loopback address: configure [[auth.tokens]], or listen on "
                "127.0.0.1"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose content arrives as init values."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    def shared_budgets(self) -> list[str]:
        """Warnings about accounts that would share one quota unseen.

        The cloud counts by sub-account and host, so two accounts of one SecretId on one host
        spend the same budget twice.
        """
        users: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name, account in self.accounts.items():
            if account.credentials.secret_id is not None:
                for host in {account.host(region) for region in account.regions}:
                    users[account.credentials.secret_id, host].append(name)
        return [
            f"accounts {', '.join(sorted(names))} use one SecretId on {host}: they share one "
            "quota there, so divide [accounts.NAME.quotas] between them"
            for (_, host), names in users.items()
            if len(names) > 1
        ]


def load(path: Path | None) -> Settings:
    """Read the file (default: $ORCHESTRATOR_CONFIG) and the environment.

    Raises ConfigurationError with every problem found.
    """
    named = path or (Path(given) if (given := os.environ.get(CONFIG_VARIABLE)) else None)
    values, problems = _read(named) if named else ({}, [])
    problems += _unknown_variables(os.environ)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems += [
            f"{'.'.join(str(part) for part in found['loc']) or 'configuration'}: {_message(found)}"
            for found in error.errors(include_url=False, include_input=False)
        ]
    if problems:
        raise ConfigurationError(problems)
    return settings


def _message(found: ErrorDetails) -> str:
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        return "there is no such setting; see config/orchestrator.toml"
    return message[0].lower() + message[1:]


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), []
    except OSError as error:
        return {}, [f"{path} cannot be read: {error.strerror}"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [f"{path} is not TOML: {error}"]


def _unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Misspelt variables, which pydantic-settings would pass over."""
    sections = {name.upper(): field.annotation for name, field in Settings.model_fields.items()}
    problems = []
    for variable in environment:
        if not variable.upper().startswith(PREFIX):
            continue
        section, _, key = variable.upper().removeprefix(PREFIX).partition("__")
        known = section in sections
        model = sections.get(section)
        if known and section != "ACCOUNTS" and key and isinstance(model, type):
            fields = getattr(model, "model_fields", {})
            known = key.partition("__")[0].lower() in fields
        if not known:
            problems.append(f"{variable}: there is no such setting")
    return problems
