"""Models of the configuration's sections, with the validation of each setting.

No message repeats a value, because it may be a secret. A rule about several settings is checked at
the last of them: pydantic skips the check of a whole section while any setting in it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping  # noqa: TC003 - beside what pydantic reads
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from orchestrator.cloud.credentials import DURATION_S, REQUIRED_OPTIONS, SESSION_NAME
from orchestrator.cloud.egress import Egress, Proxy, proxy_url
from orchestrator.cloud.hosts import endpoint_for, host_for, is_loopback, region_name
from orchestrator.cloud.profiles import DEFAULT_PROFILE
from orchestrator.cloud.sts import STS_ENDPOINT, sts_url
from orchestrator.domain.decisions.escalation import READ_MAX_INSTANCES, EscalationPolicy
from orchestrator.domain.decisions.revival import RETERMINATE_MAX
from orchestrator.domain.decisions.unconfirmed_ends import NOT_FOUND_AFTER_S, REFUSED_AFTER_S
from orchestrator.domain.leasing.leases import LeasePolicy
from orchestrator.domain.model.instance_scan import CapturePolicy, CaptureTiming
from orchestrator.domain.pacing.polling import PollPolicy
from orchestrator.domain.tokens import digest
from orchestrator.paths import possible
from orchestrator.services.submission import (
    GIVE_UP_AFTER_MAX_S,
    RETERMINATE_FOR_MAX_S,
    SETTLE_MAX_S,
)
from orchestrator.store.database.url import database_url, shown

FOLDER = "folder"
"""Key of the validation context: the folder of the configuration, to which paths are relative."""
ANY_REGION = "ap-guangzhou"
REGIONAL_BATCH = "https://batch.{region}.tencentcloudapi.com"
REGIONAL_CVM = "https://cvm.{region}.tencentcloudapi.com"
NOWHERE = "none"
DIGEST = re.compile(r"[0-9a-f]{64}")
NO_TOKEN_SHA256 = digest(b"")
_POLL = PollPolicy()
_CAPTURE = CapturePolicy()
_ESCALATION = EscalationPolicy()
_LEASE = LeasePolicy()


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


ANY_CASE = BeforeValidator(_lower)
"""Accept any letter case in enumerations and digests: users write INFO, and digests in capitals."""


class _Section(BaseModel):
    model_config = ConfigDict(
        allow_inf_nan=False, extra="forbid", hide_input_in_errors=True, frozen=True
    )


class Server(_Section):
    """Where the REST API listens."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8642

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)


class LocalServer(Server):
    """Address of an API without tokens, which must be a loopback address."""

    @field_validator("host")
    @classmethod
    def _require_loopback(cls, host: str) -> str:
        if not Server(host=host).loopback:
            raise ValueError(
                "is not a loopback address: configure [[auth.tokens]], or listen on 127.0.0.1"
            )
        return host


class DatabaseSettings(_Section):
    """The database of the orchestrator."""

    url: Annotated[str, Field(validate_default=True, repr=False)] = "sqlite:///orchestrator.db"
    """May hold a password."""

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str, info: ValidationInfo) -> str:
        return database_url(url, (info.context or {}).get(FOLDER, Path()))

    @property
    def shown(self) -> str:
        return shown(self.url)


# The default is validated, too: it may contradict another setting that is given.
Interval = Annotated[float, Field(gt=0, le=3600, validate_default=True)]


class Poll(_Section):
    """Bounds of the intervals between polls, in seconds."""

    batch_min_interval_s: Interval = _POLL.batch_min_interval_s
    batch_max_interval_s: Interval = _POLL.batch_max_interval_s
    drain_max_interval_s: Interval = _POLL.drain_max_interval_s
    held_interval_s: Interval = _POLL.held_interval_s
    queued_interval_s: Interval = _POLL.queued_interval_s
    settling_interval_s: Interval = _POLL.settling_interval_s
    stopped_interval_s: Interval = _POLL.stopped_interval_s
    recount_min_interval_s: Interval = _POLL.recount_min_interval_s

    @field_validator("batch_max_interval_s")
    @classmethod
    def _not_below_its_minimum(cls, batch_max_interval_s: float, info: ValidationInfo) -> float:
        if batch_max_interval_s < info.data.get("batch_min_interval_s", batch_max_interval_s):
            raise ValueError("must not be less than batch_min_interval_s")
        return batch_max_interval_s

    def policy(self) -> PollPolicy:
        return PollPolicy(**self.model_dump())


ROUND_TRIP_S = 0.5
"""Smallest timeout of a request: a shorter one might never get a reply."""


class Lease(_Section):
    """Leases: how long a replica drives a partition without renewing its lease, in seconds."""

    duration_s: Interval = _LEASE.duration_s
    renewal_deadline_s: Annotated[Interval, Field(ge=ROUND_TRIP_S)] = _LEASE.renewal_deadline_s
    retry_s: Interval = _LEASE.retry_s

    @field_validator("renewal_deadline_s")
    @classmethod
    def _before_the_end(cls, renewal_deadline_s: float, info: ValidationInfo) -> float:
        if renewal_deadline_s >= info.data.get("duration_s", math.inf):
            raise ValueError("must be less than duration_s")
        return renewal_deadline_s

    @field_validator("retry_s")
    @classmethod
    def _more_than_once(cls, retry_s: float, info: ValidationInfo) -> float:
        if retry_s > info.data.get("renewal_deadline_s", math.inf) / 2:
            raise ValueError("must not be more than half of renewal_deadline_s")
        return retry_s

    def policy(self) -> LeasePolicy:
        return LeasePolicy(**self.model_dump())


class Escalation(_Section):
    """Escalation for task instances that do not stop."""

    after_s: Annotated[float, Field(gt=0, le=GIVE_UP_AFTER_MAX_S)] = _ESCALATION.after_s
    instances_max: Annotated[int, Field(ge=0, le=READ_MAX_INSTANCES)] = _ESCALATION.instances_max
    rounds_max: Annotated[int, Field(ge=0, le=100)] = _ESCALATION.rounds_max

    def policy(self, *, machines: bool) -> EscalationPolicy:
        return EscalationPolicy(**self.model_dump(), machines=machines)


class Engine(_Section):
    """The engine: timeouts, windows and policies of all terminations."""

    settle_s: Annotated[float, Field(ge=0, le=SETTLE_MAX_S)] = 30.0
    give_up_after_s: Annotated[float, Field(gt=0, le=GIVE_UP_AFTER_MAX_S)] = 6 * 3600.0
    call_timeout_s: Annotated[float, Field(ge=ROUND_TRIP_S, le=300)] = 10.0
    capture: Annotated[CaptureTiming, ANY_CASE] = _CAPTURE.when
    capture_before_max_instances: NonNegativeInt = _CAPTURE.before_max_instances
    capture_before_max_s: Interval = _CAPTURE.before_max_s
    starting_watch_s: Annotated[float, Field(ge=0, le=SETTLE_MAX_S)] = _CAPTURE.starting_watch_s
    not_found_after_s: Annotated[float, Field(gt=0, le=3600)] = NOT_FOUND_AFTER_S
    refused_after_s: Annotated[float, Field(gt=0, le=86400)] = REFUSED_AFTER_S
    revival_watch_s: Annotated[float, Field(ge=0, le=RETERMINATE_FOR_MAX_S)] = 3600.0
    reterminate_max: NonNegativeInt = RETERMINATE_MAX
    poll: Poll = Poll()
    escalation: Escalation = Escalation()
    lease: Lease = Lease()

    def capture_policy(self) -> CapturePolicy:
        return CapturePolicy(
            when=self.capture,
            before_max_instances=self.capture_before_max_instances,
            before_max_s=self.capture_before_max_s,
            starting_watch_s=self.starting_watch_s,
        )


class Quotas(_Section):
    """Quota by action, in requests per second; the defaults are the lowest documented values."""

    TerminateJob: PositiveInt = 2
    TerminateTaskInstance: PositiveInt = 2
    DescribeJob: PositiveInt = 2
    DescribeJobs: PositiveInt = 2
    DescribeJobSubmitInfo: PositiveInt = 2
    DescribeTask: PositiveInt = 3
    DescribeInstances: PositiveInt = 40
    TerminateInstances: PositiveInt = 10


PossiblePath = Annotated[Path, AfterValidator(possible)]


class Outgoing(_Section):
    """Proxy and CA file of requests to the cloud."""

    proxy: SecretStr | None = None
    """URL of the proxy, which may contain a password, or ``none``."""
    ca_file: PossiblePath | None = None

    @field_validator("proxy")
    @classmethod
    def _usable(cls, proxy: SecretStr | None) -> SecretStr | None:
        return None if proxy is None else SecretStr(proxy_url(proxy.get_secret_value().strip()))


CREDENTIALS_ENDPOINT = (
    r"^(https?://)?([0-9A-Za-z_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[0-9A-Za-z_./-]*)?$"
)
"""Pattern of a host or a URL without user, query and fragment."""
OF_STS = frozenset({"sts", "tke-oidc"})
STS_DURATION_MAX_S = 43_200
_NEEDED_BY_SOME: Any = Field(default=None, validate_default=True)


class Credentials(_Section):
    """Credential provider of an account, and the options of the provider."""

    provider: Annotated[
        Literal["static", "environment", "profile", "cvm-role", "sts", "tke-oidc"], ANY_CASE
    ]
    secret_id: str | None = _NEEDED_BY_SOME
    secret_key: SecretStr | None = _NEEDED_BY_SOME
    token: SecretStr | None = None
    path: PossiblePath | None = None
    profile: Annotated[str, Field(pattern=r"^[^/\\\s\[\]\x00]+$")] = DEFAULT_PROFILE
    role: str | None = None
    role_arn: str | None = _NEEDED_BY_SOME
    session_name: str = SESSION_NAME
    duration_s: Annotated[PositiveInt, Field(le=STS_DURATION_MAX_S)] = DURATION_S
    endpoint: Annotated[str | None, Field(pattern=CREDENTIALS_ENDPOINT)] = None

    @field_validator("secret_id", "secret_key", "role_arn")
    @classmethod
    def _given_where_needed(
        cls, value: str | SecretStr | None, info: ValidationInfo
    ) -> str | SecretStr | None:
        provider = info.data.get("provider", "")
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if info.field_name in REQUIRED_OPTIONS.get(provider, ()) and not (text or "").strip():
            raise ValueError(f"is required by provider {provider}")
        return value

    @field_validator("endpoint")
    @classmethod
    def _of_sts(cls, endpoint: str | None, info: ValidationInfo) -> str | None:
        if endpoint is not None and info.data.get("provider") in OF_STS:
            sts_url(endpoint)
        return endpoint

    @property
    def sts_endpoint(self) -> str | None:
        """URL of STS; None if the provider does not use STS."""
        return sts_url(self.endpoint or STS_ENDPOINT) if self.provider in OF_STS else None

    @property
    def source(self) -> tuple[object, ...]:
        """Identity of the keys' source, equal for two accounts that must have the same keys."""
        if self.secret_id:
            return (self.secret_id,)
        return (self.provider, self.path, self.profile, self.role)

    def options(self) -> dict[str, str | int | Path | None]:
        """Return the options that the provider is built with; secrets are in clear text."""
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in self
            if name != "provider"
        }


class Account(Outgoing):
    """An account: endpoints, proxy, regions, quotas and credentials."""

    endpoint: str = REGIONAL_BATCH
    cvm_endpoint: str | None = _NEEDED_BY_SOME
    """Endpoint of CVM for requests about machines; None: machines are not read."""
    terminate_machines: bool = False
    """Allow TerminateInstances for machines whose instances nothing else stops."""
    regions: Annotated[list[Annotated[str, AfterValidator(region_name)]], Field(min_length=1)]
    default_region: str | None = None
    credentials: Credentials
    quotas: Quotas = Quotas()

    @field_validator("endpoint")
    @classmethod
    def _callable(cls, endpoint: str) -> str:
        host_for(endpoint, ANY_REGION)
        return endpoint

    @field_validator("cvm_endpoint")
    @classmethod
    def _beside_endpoint(cls, cvm_endpoint: str | None, info: ValidationInfo) -> str | None:
        # None: the endpoint is invalid, which is reported already.
        endpoint = info.data.get("endpoint")
        if cvm_endpoint is None:
            if endpoint not in (None, REGIONAL_BATCH):
                raise ValueError(
                    "is required with this endpoint: set the CVM endpoint of the same site, or "
                    f'"{NOWHERE}" to read no machines'
                )
            return REGIONAL_CVM
        if cvm_endpoint == NOWHERE:
            return None
        host_for(cvm_endpoint, ANY_REGION)
        if endpoint and "{region}" in endpoint and "{region}" not in cvm_endpoint:
            raise ValueError(
                "must contain {region} if endpoint does: otherwise each region would spend the "
                "whole quota of the one CVM host"
            )
        return cvm_endpoint

    @field_validator("terminate_machines")
    @classmethod
    def _reachable(cls, terminate_machines: bool, info: ValidationInfo) -> bool:
        if terminate_machines and info.data.get("cvm_endpoint", REGIONAL_CVM) is None:
            raise ValueError(f'requires a CVM endpoint: cvm_endpoint must not be "{NOWHERE}"')
        return terminate_machines

    @field_validator("default_region")
    @classmethod
    def _configured(cls, default_region: str | None, info: ValidationInfo) -> str | None:
        if default_region not in (None, *info.data.get("regions", [default_region])):
            raise ValueError("must be one of regions")
        return default_region

    def host(self, region: str) -> str:
        return host_for(self.endpoint, region)

    def cvm_host(self, region: str) -> str | None:
        return None if self.cvm_endpoint is None else host_for(self.cvm_endpoint, region)

    def urls(self) -> Iterator[str]:
        """Return the URLs of all endpoints of the account, without duplicates."""
        endpoints = [self.endpoint, self.cvm_endpoint, self.credentials.sts_endpoint]
        filled = (
            endpoint_for(endpoint, region)
            for endpoint in endpoints
            if endpoint
            for region in self.regions
        )
        return iter(dict.fromkeys(filled))

    def partitions(self, name: str) -> dict[str, str]:
        """Return the partition of each region; ``name`` is the account's name."""
        return {region: f"{name}@{self.host(region)}" for region in self.regions}


class Token(_Section):
    """A caller of the API: ``name`` becomes requested_by; ``sha256`` is its token's hex digest."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    sha256: Annotated[str, ANY_CASE]

    @field_validator("sha256")
    @classmethod
    def _digest_of_token(cls, sha256: str) -> str:
        if not DIGEST.fullmatch(sha256):
            raise ValueError(
                "must be the SHA-256 digest of the token (64 hexadecimal digits), not the token: "
                'run printf %s "$TOKEN" | sha256sum'
            )
        if sha256 == NO_TOKEN_SHA256:
            raise ValueError("is the digest of an empty token")
        return sha256


class Auth(_Section):
    """Callers of the API; without tokens, everyone who can reach the (loopback) address."""

    tokens: list[Token] = []

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: list[Token]) -> list[Token]:
        if len({token.name for token in tokens}) < len(tokens):
            raise ValueError("two tokens have the same name")
        if len({token.sha256 for token in tokens}) < len(tokens):
            raise ValueError("two tokens have the same sha256")
        return tokens


class Log(_Section):
    """Log of the daemon on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], ANY_CASE] = "info"
    format: Annotated[Literal["json", "console"], ANY_CASE] = "console"


_DEFAULT_DATABASE: Any = {}
"""Validated like a given value, because its path is relative to the configuration's folder."""


class Settings(_Section):
    """The whole configuration."""

    auth: Auth = Auth()
    server: Server = Server()
    database: Annotated[DatabaseSettings, Field(validate_default=True)] = _DEFAULT_DATABASE
    egress: Outgoing = Outgoing()
    engine: Engine = Engine()
    accounts: Annotated[dict[str, Account], Field(min_length=1)]
    log: Log = Log()

    @field_validator("server", mode="before")
    @classmethod
    def _loopback_without_tokens(cls, server: object, info: ValidationInfo) -> Server:
        has_tokens = "auth" not in info.data or info.data["auth"].tokens
        return (Server if has_tokens else LocalServer).model_validate(server)

    def egress_of(self, name: str, environment: Mapping[str, str]) -> Egress:
        """Return the egress of an account: its own settings, otherwise those of ``[egress]``."""
        account = self.accounts[name]
        given = {f"accounts.{name}.proxy": account.proxy, "egress.proxy": self.egress.proxy}
        proxies = [
            Proxy(proxy.get_secret_value(), origin) for origin, proxy in given.items() if proxy
        ]
        return Egress(
            proxy=proxies[0] if proxies else None,
            ca_file=account.ca_file or self.egress.ca_file,
            environment=environment,
        )
