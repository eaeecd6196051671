"""The configuration: all mistakes are reported at once, and no value is repeated."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from orchestrator import settings
from orchestrator.cli import main
from orchestrator.cloud.credentials import build_provider
from orchestrator.cloud.hosts import endpoint_for, host_for
from orchestrator.domain.errors import ConfigurationError
from tests.support.clock import ManualClock
from tests.unit.cloud.support import NoTransport

SECRET = "NobodyMayReadThis"
DIGEST = hashlib.sha256(b"token").hexdigest()
ACCOUNT = """
[accounts.prod]
regions = ["ap-guangzhou", "ap-shanghai"]
credentials = { provider = "environment" }
"""


BATCH = "https://batch.{region}.tencentcloudapi.com"
CVM = "https://cvm.{region}.tencentcloudapi.com"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orchestrator.toml"


def load(file: Path, text: str) -> settings.Settings:
    file.write_text(text, encoding="utf-8")
    return settings.load(file)


def mistakes(file: Path, text: str = ACCOUNT) -> list[str]:
    """Return the problems; ``check-config`` must print the same."""
    file.write_text(text, encoding="utf-8")
    return mistakes_of(file)


def mistakes_of(file: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings.load(file)
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert result.exit_code == 2
    assert result.stderr.splitlines() == caught.value.problems
    assert SECRET not in result.output
    return caught.value.problems


def names(problems: list[str]) -> list[str]:
    return [problem.partition(": ")[0] for problem in problems]


# --- mistakes ------------------------------------------------------------------------------------


def test_every_mistake_is_named_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mistakes between settings and in variables are included; no secret is shown."""
    monkeypatch.setenv("ORCHESTRATOR__ENGINE__CALL_TIMEOUT_S", SECRET)
    monkeypatch.setenv("ORCHESTRATOR__ACCOUNTS__ONE__CREDENTIALS__SECRET_KEI", SECRET)
    problems = mistakes(
        file,
        f"""
        servre = "{SECRET}"
        [server]
        host = "0.0.0.0"
        port = "{SECRET}"
        [engine]
        settle_s = "{SECRET}"
        [accounts.one]
        endpoint = "https://user:{SECRET}@batch.tencentcloudapi.com"
        regions = ["ap-guangzhou"]
        default_region = "ap-shanghai"
        credentials = {{ provider = "sts", secret_id = "{SECRET}", secret_key = "{SECRET}" }}
        quotas = {{ TerminateJob = 0, TerminateJobs = "{SECRET}" }}
        [accounts.two]
        regions = ["ap-guangzhou", "{SECRET}"]
        credentials = {{ provider = "vault", secret_key = ["{SECRET}"] }}
        """,
    )
    assert sorted(names(problems)) == [
        "ORCHESTRATOR__ACCOUNTS__ONE__CREDENTIALS__SECRET_KEI",
        *("ORCHESTRATOR__ENGINE__CALL_TIMEOUT_S", "accounts.one.credentials.role_arn"),
        *("accounts.one.default_region", "accounts.one.endpoint"),
        *("accounts.one.quotas.TerminateJob", "accounts.one.quotas.TerminateJobs"),
        *("accounts.two.credentials.provider", "accounts.two.credentials.secret_key"),
        *("accounts.two.regions.1", "engine.settle_s", "server.host", "server.port", "servre"),
    ]


MISTAKES: list[tuple[str, str, str]] = [
    ("[server]\nport = 65536", "server.port", "less than or equal to 65535"),
    ("[server]\nport = -1", "server.port", "greater than or equal to 0"),
    ("[server]\nport = [1]", "server.port", "valid integer"),
    ("server = 1", "server", "valid dictionary"),
    ('[database]\nurl = "mysql://host/name"', "database.url", "postgresql://USER"),
    ('[database]\nurl = "postgresql://host"', "database.url", "HOST:PORT/NAME"),
    ('[database]\nurl = "postgresql://host:no/name"', "database.url", "HOST:PORT/NAME"),
    ('[database]\nurl = "postgresql://h/n?gssencmode=1"', "database.url", "only sslmode"),
    (
        "[engine.poll]\nbatch_min_interval_s = 3000",
        "engine.poll.batch_max_interval_s",
        "less than batch_min_interval_s",
    ),
    ("[engine.lease]\nduration_s = 10", "engine.lease.renewal_deadline_s", "less than duration_s"),
    ("[engine.lease]\nretry_s = 6", "engine.lease.retry_s", "half of renewal_deadline_s"),
    ('[database]\nurl = "postgresql://u:p@ss@h/n"', "database.url", "percent-encode"),
    ('[database]\nurl = "sqlite:///:memory:"', "database.url", "sqlite:///PATH"),
    ('[database]\nurl = "sqlite:///"', "database.url", "sqlite:///PATH"),
    ("[engine]\nsettle_s = -1", "engine.settle_s", "greater than or equal to 0"),
    ("[engine]\nsettle_s = inf", "engine.settle_s", "finite"),
    ("[engine]\nsettle_s = 86401", "engine.settle_s", "86400"),
    ("[engine]\ngive_up_after_s = nan", "engine.give_up_after_s", "finite"),
    ("[engine]\ngive_up_after_s = 1e12", "engine.give_up_after_s", "2592000"),
    ("[engine]\nrevival_watch_s = -1", "engine.revival_watch_s", "greater than or equal to 0"),
    ("[engine]\nrevival_watch_s = 2592001", "engine.revival_watch_s", "2592000"),
    ("[engine]\nreterminate_max = -1", "engine.reterminate_max", "greater than or equal to 0"),
    ("[engine]\ncall_timeout_s = 0.4", "engine.call_timeout_s", "greater than or equal to 0.5"),
    (
        "[engine.lease]\nrenewal_deadline_s = 0.4\nretry_s = 0.1",
        "engine.lease.renewal_deadline_s",
        "greater than or equal to 0.5",
    ),
    ("[engine.poll]\nheld_interval_s = 0", "engine.poll.held_interval_s", "greater than 0"),
    (
        "[engine.poll]\nbatch_max_interval_s = 0.1",
        "engine.poll.batch_max_interval_s",
        "less than batch_min_interval_s",
    ),
    ('[log]\nlevel = "loud"', "log.level", "'debug', 'info'"),
    ('[log]\nlevl = "info"', "log.levl", "no such setting; see config/orchestrator.toml"),
    ("[accounts.b]", "accounts.b.regions", "field required"),
    (
        f'[[auth.tokens]]\nname = "a"\nsha256 = "{secrets.token_urlsafe(32)}"',
        "auth.tokens.0.sha256",
        "must be the SHA-256 digest of the token (64 hexadecimal digits), not the token",
    ),
    (
        '[accounts.b]\nregions = ["ap-guangzhou-3"]',
        "accounts.b.regions.0",
        "ap-guangzhou-3 is a zone: name its region, ap-guangzhou",
    ),
    (
        '[accounts.b]\nregions = ["ap-shenzhen-fsi-1"]',
        "accounts.b.regions.0",
        "is a zone: name its region, ap-shenzhen-fsi",
    ),
    (
        f'[[auth.tokens]]\nname = "a"\nsha256 = "{hashlib.sha256().hexdigest()}"',
        "auth.tokens.0.sha256",
        "the digest of an empty token",
    ),
    (
        f'[[auth.tokens]]\nname = ""\nsha256 = "{DIGEST}"',
        "auth.tokens.0.name",
        "at least 1 character",
    ),
    (
        '[server]\nhost = "0.0.0.0"\n[[auth.tokens]]\nname = "a"\nsha256 = ""',
        "auth.tokens.0.sha256",
        "must be the SHA-256 digest",
    ),
    (
        (
            f'[[auth.tokens]]\nname = "a"\nsha256 = "{DIGEST}"\n'
            f'[[auth.tokens]]\nname = "a"\nsha256 = "{"0" * 64}"'
        ),
        "auth.tokens",
        "the same name",
    ),
    (
        (
            f'[[auth.tokens]]\nname = "a"\nsha256 = "{DIGEST}"\n'
            f'[[auth.tokens]]\nname = "b"\nsha256 = "{DIGEST}"'
        ),
        "auth.tokens",
        "the same sha256",
    ),
]


@pytest.mark.parametrize(
    ("text", "name", "expected"), MISTAKES, ids=[f"{case[1]} {case[2]}" for case in MISTAKES]
)
def test_a_mistake_is_named_with_what_is_possible(
    file: Path, text: str, name: str, expected: str
) -> None:
    problems = mistakes(file, f"{text}\n{ACCOUNT}")
    assert name in names(problems)
    (problem,) = [each for each in problems if each.startswith(f"{name}: ")]
    assert expected in problem


PLACEHOLDERS = [
    *("${SECRET}", "$SECRET_KEY", "$(cat secret)", "{{ .Values.secretKey }}", "<SECRET_KEY>"),
    *("%SECRET_KEY%", "CHANGE_ME", "changeme", "your-secret-key", "xxxxxxxx", "********"),
    *("AKID...", "TODO"),
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_placeholder_that_was_not_filled_in_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Each placeholder in the file or in a variable is reported once."""
    keys = f'{{ provider = "static", secret_id = "AKID1", secret_key = "{text}" }}'
    account = ACCOUNT.replace('{ provider = "environment" }', keys)
    monkeypatch.setenv("ORCHESTRATOR__ACCOUNTS__PROD__REGIONS", json.dumps(["ap-beijing", text]))
    monkeypatch.setenv("ORCHESTRATOR__DATABASE__URL", "postgresql://USER:PASSWORD@HOST/NAME")
    problems = mistakes(file, account)
    assert names(problems) == [
        "ORCHESTRATOR__ACCOUNTS__PROD__REGIONS",
        "ORCHESTRATOR__DATABASE__URL",
        "accounts.prod.credentials.secret_key",
    ]
    assert all("is a placeholder: replace it" in problem for problem in problems)


@pytest.mark.parametrize(
    "text", ["Gu5t9xGARNpq86cd98joQYCN3EXAMPLE", "p$ss<w>rd%", "1<2>1", "a{b}c", "mykey", "$", "x"]
)
def test_an_unusual_value_is_no_placeholder(file: Path, text: str) -> None:
    keys = f'{{ provider = "static", secret_id = "AKID1", secret_key = "{text}" }}'
    loaded = load(file, ACCOUNT.replace('{ provider = "environment" }', keys))
    assert loaded.accounts["prod"].credentials.options()["secret_key"] == text


def test_words_and_digests_are_taken_in_any_letter_case(file: Path) -> None:
    loaded = load(
        file,
        f"""
        [log]
        level = "INFO"
        format = "Json"
        [engine]
        capture = "Before"
        [[auth.tokens]]
        name = "a"
        sha256 = "{DIGEST.upper()}"
        {ACCOUNT.replace("environment", "Environment")}
        """,
    )
    assert (loaded.log.level, loaded.log.format, loaded.engine.capture) == (
        "info",
        "json",
        "before",
    )
    assert loaded.accounts["prod"].credentials.provider == "environment"
    assert loaded.auth.tokens[0].sha256 == DIGEST


@pytest.mark.parametrize(
    ("name", "setting", "expected"),
    [
        ("credentials.duration_s", "credentials.duration_s = 43201", "less than or equal to 43200"),
        ("credentials.duration_s", "credentials.duration_s = 0", "greater than 0"),
        ("credentials.endpoint", 'credentials.endpoint = "https://host/path"', "the host of STS"),
        ("credentials.endpoint", 'credentials.endpoint = "https://host:99999"', "the host of STS"),
        ("credentials.profile", 'credentials.profile = "../etc"', "pattern"),
        ("credentials.profile", 'credentials.profile = "a]"', "pattern"),
        ("credentials.profile", 'credentials.profile = ""', "pattern"),
        ("proxy", f'proxy = "socks5://{SECRET}@proxy:1"', "must be http(s)://HOST:PORT"),
        ("proxy", 'proxy = ""', "must be http(s)://HOST:PORT"),
    ],
)
def test_a_mistake_in_the_endpoint_or_the_keys(
    file: Path, name: str, setting: str, expected: str
) -> None:
    account = "[accounts.prod]\nregions = ['ap-guangzhou']\ncredentials.provider = 'tke-oidc'\n"
    (problem,) = mistakes(file, f"{account}{setting}\n")
    assert problem.startswith(f"accounts.prod.{name}: ")
    assert expected in problem


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "orchestrator.example", ""])
def test_other_hosts_are_served_with_tokens_only(file: Path, host: str) -> None:
    text = f'{ACCOUNT}[server]\nhost = "{host}"\n'
    (problem,) = mistakes(file, text)
    assert problem == (
        "server.host: is not a loopback address: configure [[auth.tokens]], or listen on 127.0.0.1"
    )
    guarded = load(file, f'{text}[[auth.tokens]]\nname = "sre"\nsha256 = "{DIGEST}"')
    assert guarded.server.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_the_loopback_address_needs_no_tokens(file: Path, host: str) -> None:
    assert load(file, f'{ACCOUNT}[server]\nhost = "{host}"').server.loopback


@pytest.mark.parametrize("blank", ["", "  "])
@pytest.mark.parametrize(
    ("provider", "needed"),
    [
        ("static", ["secret_id", "secret_key"]),
        ("sts", ["secret_id", "secret_key", "role_arn"]),
        ("profile", []),
        ("cvm-role", []),
        ("tke-oidc", []),
        ("environment", []),
    ],
)
def test_required_options_of_a_provider(
    file: Path, provider: str, needed: list[str], blank: str
) -> None:
    """A blank value, as from an unset variable, counts as missing."""
    given = "".join(f', {name} = "{blank}"' for name in ("secret_id", "secret_key", "role_arn"))
    for credentials in (f'provider = "{provider}"', f'provider = "{provider}"{given}'):
        text = ACCOUNT.replace('provider = "environment"', credentials)
        if needed:
            problems = mistakes(file, text)
            assert names(problems) == [f"accounts.prod.credentials.{name}" for name in needed]
            assert all(each.endswith(f"is required by provider {provider}") for each in problems)
        else:
            assert load(file, text).accounts["prod"].credentials.provider == provider


@pytest.mark.parametrize(
    ("endpoint", "ok"),
    [
        ("sts.tencentcloudapi.com", True),
        ("https://sts.tencentcloudapi.com", True),
        ("http://metadata.tencentyun.com/latest/meta-data/", True),
        ("http://127.0.0.1:8700", True),
        (f"https://user:{SECRET}@sts.tencentcloudapi.com", False),
        ("https://sts.tencentcloudapi.com/?a=1", False),
        ("ftp://sts.tencentcloudapi.com", False),
        ("", False),
    ],
)
def test_the_endpoint_of_credentials(file: Path, endpoint: str, *, ok: bool) -> None:
    text = ACCOUNT.replace('"environment"', f'"cvm-role", endpoint = "{endpoint}"')
    if ok:
        assert load(file, text).accounts["prod"].credentials.endpoint == endpoint
    else:
        assert names(mistakes(file, text)) == ["accounts.prod.credentials.endpoint"]


def test_a_failure_on_its_way_up_shows_no_secret() -> None:
    """A traceback would show the text of the exception."""
    credentials = {"provider": "static", "secret_key": [SECRET], "tokne": SECRET}
    account = {"regions": [SECRET, 1], "credentials": credentials, "endpoint": SECRET}
    with pytest.raises(ValidationError) as caught:
        settings.Settings.model_validate({"accounts": {"prod": account}, "serve": SECRET})
    assert SECRET not in str(caught.value)


def test_the_database_lies_beside_the_configuration_wherever_the_daemon_is_started(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file.parent / "elsewhere").mkdir()
    default = f"sqlite:///{file.parent}/orchestrator.db"
    assert load(file, ACCOUNT).database.url == default
    monkeypatch.chdir(file.parent / "elsewhere")
    assert settings.load(file).database.url == default
    assert settings.load(Path("..", file.name)).database.url == default
    named = load(file, f'{ACCOUNT}[database]\nurl = "sqlite:///x.db"')
    assert named.database.url == f"sqlite:///{file.parent}/x.db"


# --- files ---------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(file: Path) -> None:
    """Nothing else is reported, because the content is unknown."""
    assert mistakes_of(file) == [f"{file} cannot be read: No such file or directory"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert mistakes_of(tmp_path) == [f"{tmp_path} cannot be read: Is a directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(file: Path) -> None:
    file.write_text(ACCOUNT)
    file.chmod(0)
    assert mistakes_of(file) == [f"{file} cannot be read: Permission denied"]


def test_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(f'secret_key = "{SECRET}'.encode() + b'\xff"')
    assert mistakes_of(file) == [f"{file} is not UTF-8 at byte 31: save it as UTF-8"]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-16", "is not UTF-8 at byte 0: save it as UTF-8"),
        ("utf-16-le", "contains a NUL byte: save it as UTF-8"),
    ],
)
def test_a_file_in_utf_16(file: Path, encoding: str, expected: str) -> None:
    file.write_text(ACCOUNT, encoding=encoding)
    assert mistakes_of(file) == [f"{file} {expected}"]


def test_a_byte_order_mark_is_accepted(file: Path) -> None:
    assert load(file, "\ufeff" + ACCOUNT).accounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'{ACCOUNT}secret_key = "{SECRET}', "Unterminated string"),
        (f"secret_key = {SECRET}", "(at line 1, column 14)"),
        (f'key = "{SECRET}"\nkey = "{SECRET}"', "Cannot overwrite a value"),
        (f"{ACCOUNT}{ACCOUNT}", "Cannot declare"),
        (f"[accounts\n{SECRET}", "(at line 1, column 10)"),
    ],
)
def test_a_file_that_is_not_toml(file: Path, text: str, expected: str) -> None:
    (problem,) = mistakes(file, text)
    assert problem.startswith(f"{file} is not TOML: ")
    assert expected in problem


def test_a_file_that_says_nothing(file: Path) -> None:
    assert mistakes(file, "") == ["accounts: field required"]


def test_the_file_is_the_one_that_the_environment_names(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(ACCOUNT)
    monkeypatch.setenv("ORCHESTRATOR_CONFIG", str(file))
    assert list(settings.load(None).accounts) == ["prod"]


# --- environment ---------------------------------------------------------------------------------

OVERRIDES: list[tuple[str, str, Any]] = [
    ("SERVER__PORT", "9000", 9000),
    ("server__host", "::1", "::1"),
    ("DATABASE__URL", "sqlite:////x.db", "sqlite:////x.db"),
    ("ENGINE__SETTLE_S", "0", 0.0),
    ("ENGINE__POLL__HELD_INTERVAL_S", "1.5", 1.5),
    ("LOG__LEVEL", "debug", "debug"),
    ("ACCOUNTS__PROD__ENDPOINT", "http://127.0.0.1:1", "http://127.0.0.1:1"),
    ("ACCOUNTS__PROD__CVM_ENDPOINT", "https://{region}.host", "https://{region}.host"),
    ("ACCOUNTS__PROD__CVM_ENDPOINT", "none", None),
    ("ACCOUNTS__PROD__REGIONS", '["ap-beijing"]', ["ap-beijing"]),
    ("ACCOUNTS__PROD__DEFAULT_REGION", "ap-shanghai", "ap-shanghai"),
    ("ACCOUNTS__PROD__QUOTAS__TERMINATEJOB", "10", 10),
    ("ACCOUNTS__Prod__Quotas__DescribeTask", "11", 11),
    ("ACCOUNTS__PROD__CREDENTIALS__ROLE", "123", "123"),
]


@pytest.mark.parametrize(("name", "text", "value"), OVERRIDES, ids=[case[0] for case in OVERRIDES])
def test_the_environment_wins(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any
) -> None:
    monkeypatch.setenv(f"ORCHESTRATOR__{name}", text)
    account = ACCOUNT.replace("regions", 'cvm_endpoint = "https://cvm.{region}.cloud"\nregions')
    found: Any = load(file, f"{account}[server]\nport = 1\n[engine.poll]\nheld_interval_s = 9")
    for part in name.lower().split("__"):
        table = found if isinstance(found, dict) else dict(found)
        found = {key.lower(): inner for key, inner in table.items()}[part]
    assert found == value


def test_an_account_by_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No output shows its secret."""
    given = {
        "REGIONS": '["ap-guangzhou"]',
        "CREDENTIALS__PROVIDER": "static",
        "CREDENTIALS__SECRET_ID": "AKIDEXAMPLE",
        "CREDENTIALS__SECRET_KEY": SECRET,
    }
    for name, text in given.items():
        monkeypatch.setenv(f"ORCHESTRATOR__ACCOUNTS__CI__{name}", text)
    token = [{"name": "sre", "sha256": DIGEST}]
    monkeypatch.setenv("ORCHESTRATOR__AUTH__TOKENS", json.dumps(token))
    loaded = settings.load(None)
    assert loaded.accounts["ci"].credentials.options()["secret_key"] == SECRET
    assert loaded.auth.tokens[0].name == "sre"
    assert SECRET not in repr(loaded)
    assert SECRET not in loaded.model_dump_json()
    result = CliRunner().invoke(main.app, ["check-config"])
    assert result.exit_code == 0
    assert SECRET not in result.output


def test_the_letters_of_an_account_are_those_of_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHESTRATOR__ACCOUNTS__PROD__CREDENTIALS__ROLE", "r")
    loaded = load(file, ACCOUNT.replace("accounts.prod", "accounts.Prod"))
    assert list(loaded.accounts) == ["Prod"]
    assert loaded.accounts["Prod"].credentials.role == "r"


@pytest.mark.parametrize("account", ["team-a", "Team-A", "team_a", "team.a", "TEAM_A"])
def test_a_variable_finds_an_account_whose_name_no_variable_can_have(
    file: Path, monkeypatch: pytest.MonkeyPatch, account: str
) -> None:
    monkeypatch.setenv("ORCHESTRATOR__ACCOUNTS__TEAM_A__CREDENTIALS__ROLE", "r")
    loaded = load(file, ACCOUNT.replace("accounts.prod", f'accounts."{account}"'))
    assert [(name, each.credentials.role) for name, each in loaded.accounts.items()] == [
        (account, "r")
    ]


@pytest.mark.parametrize(
    ("accounts", "meant"),
    [
        (("team-a", "team_a"), "team_a"),
        (("team-a", "TEAM_A", "team_a"), "TEAM_A"),
        (("team-a", "team.a"), None),
        (("Team_a", "team_A"), None),
    ],
)
def test_a_variable_that_may_mean_two_accounts(
    file: Path, monkeypatch: pytest.MonkeyPatch, accounts: tuple[str, ...], meant: str | None
) -> None:
    """The variable sets the account with the closest name; two equally close ones are an error."""
    variable = "ORCHESTRATOR__ACCOUNTS__TEAM_A__CREDENTIALS__ROLE"
    monkeypatch.setenv(variable, "r")
    text = "".join(ACCOUNT.replace("accounts.prod", f'accounts."{name}"') for name in accounts)
    if meant is None:
        meanings = " or ".join(accounts)
        expected = f"{variable}: may mean {meanings}: write the value in the file instead"
        assert mistakes(file, text) == [expected]
    else:
        loaded = load(file, text).accounts
        assert [name for name in accounts if loaded[name].credentials.role] == [meant]


@pytest.mark.parametrize(
    "name",
    [
        *("", "SERVER", "SERVER__", "SERVER__PROT", "SERVER__PORT__X", "ENGIN__SETTLE_S"),
        *("ENGINE__SETTLE", "ENGINE__POLL", "ENGINE__POLL__TYPO"),
        "ENGINE__POLL__HELD_INTERVAL_S__X",
        *("ACCOUNTS", "ACCOUNTS__PROD", "ACCOUNTS__PROD__TYPO", "ACCOUNTS__PROD__REGIONS__0"),
        *("ACCOUNTS__PROD__CREDENTIALS", "ACCOUNTS__PROD__CREDENTIALS__TYPO"),
        *("ACCOUNTS__OTHER__CREDENTIALS__TYPO", "ACCOUNTS__PROD__QUOTAS__TERMINATEJOBS"),
        "AUTH__TOKENS__0__NAME",
    ],
)
def test_a_variable_that_sets_nothing_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    variable = f"ORCHESTRATOR__{name}"
    monkeypatch.setenv(variable, SECRET)
    (problem,) = mistakes(file)
    assert problem.startswith(f"{variable}: ")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("SERVER__PORT", SECRET, "valid integer"),
        ("SERVER__PORT", "", "valid integer"),
        ("ENGINE__SETTLE_S", "inf", "finite"),
        ("ACCOUNTS__PROD__REGIONS", "ap-guangzhou", "must be a JSON list"),
        ("ACCOUNTS__PROD__REGIONS", f'["{SECRET}"]', "must be a region"),
        ("ACCOUNTS__PROD__REGIONS", '{"a": 1}', "valid list"),
        ("ACCOUNTS__PROD__REGIONS", "[]", "at least 1 item"),
        ("AUTH__TOKENS", f'[{{"name": "{SECRET}"}}]', "field required"),
    ],
)
def test_a_wrong_value_is_named_by_its_variable(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: str
) -> None:
    monkeypatch.setenv(f"ORCHESTRATOR__{name}", text)
    (problem,) = mistakes(file)
    assert problem.startswith(f"ORCHESTRATOR__{name}: ")
    assert expected in problem


def test_a_variable_below_what_is_no_section(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR__SERVER__PORT", "1")
    assert names(mistakes(file, f"server = 5\n{ACCOUNT}")) == ["server"]


@pytest.mark.parametrize(
    ("region", "written", "taken"),
    [
        ("ap-shanghai", "", "ap-shanghai"),
        ("ap-shanghai", 'default_region = "ap-guangzhou"', "ap-guangzhou"),
        ("ap-beijing", "", None),
        ("", "", None),
    ],
)
def test_the_vendors_region_is_the_default_where_none_is_written(
    file: Path, monkeypatch: pytest.MonkeyPatch, region: str, written: str, taken: str | None
) -> None:
    monkeypatch.setenv("TENCENTCLOUD_REGION", region)
    loaded = load(file, ACCOUNT.replace("credentials", f"{written}\ncredentials"))
    assert loaded.accounts["prod"].default_region == taken


@pytest.mark.parametrize("accounts", ["accounts = 1", "[accounts]\nprod = 1", ACCOUNT[:15]])
def test_the_vendors_region_hides_no_mistake(
    file: Path, monkeypatch: pytest.MonkeyPatch, accounts: str
) -> None:
    monkeypatch.setenv("TENCENTCLOUD_REGION", "ap-shanghai")
    assert mistakes(file, accounts)


async def test_the_vendors_variables_are_the_keys_of_an_account(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("SECRET_ID", "AKIDEXAMPLE"), ("SECRET_KEY", SECRET), ("TOKEN", "t")):
        monkeypatch.setenv(f"TENCENTCLOUD_{name}", text)
    credentials = load(file, ACCOUNT).accounts["prod"].credentials
    provider = build_provider(
        credentials.provider, credentials.options(), ManualClock(), NoTransport()
    )
    found = await provider.get()
    assert (found.secret_id, found.secret_key, found.token) == ("AKIDEXAMPLE", SECRET, "t")


# --- hosts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "batch.tencentcloudapi.com", "//batch.tencentcloudapi.com"),
        *("ftp://batch.tencentcloudapi.com", "https://", "https:///path", "https://host/path"),
        *("https://host//", "https://host?query=1", "https://host?", "https://host/?"),
        *("https://host#fragment", "https://host#", "https://user@host"),
        *("https://user:password@host", "https://@host", "https://host:", "https://host:0"),
        *("https://host:65536", "https://host:port", "https://host:+1", "https://ho st"),
        *(" https://host", "https://host\n", "https://host\\path", "https://hóst"),
        *("https://host%2f", "https://{regoin}.host", "https://{region", "https://[::1"),
    ],
)
def test_an_invalid_endpoint(file: Path, endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"must be http\(s\)://HOST"):
        host_for(endpoint, "ap-guangzhou")
    text = ACCOUNT.replace("regions", f"endpoint = {json.dumps(endpoint)}\nregions")
    assert names(mistakes(file, text)) == ["accounts.prod.endpoint"]


def of_site(endpoint: str, cvm_endpoint: str) -> str:
    """Return an account with these endpoints; empty ones are omitted."""
    given = {"endpoint": endpoint, "cvm_endpoint": cvm_endpoint}
    lines = [f"{name} = {json.dumps(url)}\n" for name, url in given.items() if url]
    return ACCOUNT.replace("regions", f"{''.join(lines)}regions")


@pytest.mark.parametrize(
    ("endpoint", "cvm_endpoint", "host"),
    [
        ("", "", "cvm.ap-shanghai.tencentcloudapi.com"),
        (BATCH, "", "cvm.ap-shanghai.tencentcloudapi.com"),
        (BATCH, "https://{region}.proxy", "ap-shanghai.proxy"),
        ("https://batch.tencentcloudapi.com", CVM, "cvm.ap-shanghai.tencentcloudapi.com"),
        (
            "https://batch.intl.tencentcloudapi.com",
            "https://cvm.intl.tencentcloudapi.com",
            "cvm.intl.tencentcloudapi.com",
        ),
        ("http://127.0.0.1:8700", "http://127.0.0.1:8700", "127.0.0.1:8700"),
    ],
)
def test_where_machines_are_asked_for(
    file: Path, endpoint: str, cvm_endpoint: str, host: str
) -> None:
    account = load(file, of_site(endpoint, cvm_endpoint)).accounts["prod"]
    assert account.cvm_host("ap-shanghai") == host


@pytest.mark.parametrize("endpoint", ["", BATCH, "http://127.0.0.1:8700", "http://{region}.cloud"])
def test_reading_machines_is_optional(file: Path, endpoint: str) -> None:
    account = load(file, of_site(endpoint, "none")).accounts["prod"]
    assert (account.cvm_endpoint, account.cvm_host("ap-shanghai")) == (None, None)
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert "machines: not read" in result.output


def test_machines_are_ended_only_where_an_account_allows_it(file: Path) -> None:
    assert not load(file, ACCOUNT).accounts["prod"].terminate_machines
    allowed = ACCOUNT.replace("regions", "terminate_machines = true\nregions")
    assert load(file, allowed).accounts["prod"].terminate_machines
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert "terminated if nothing else stops their instances" in result.output
    nowhere = allowed.replace("regions", 'cvm_endpoint = "none"\nregions')
    assert mistakes(file, nowhere) == [
        'accounts.prod.terminate_machines: requires a CVM endpoint: cvm_endpoint must not be "none"'
    ]


@pytest.mark.parametrize(
    ("endpoint", "cvm_endpoint", "expected"),
    [
        ("http://127.0.0.1:8700", "", "is required with this endpoint: set the CVM endpoint of"),
        ("https://batch.intl.tencentcloudapi.com", "", '"none" to read no machines'),
        ("http://{region}.cloud", "", "is required with this endpoint"),
        ("", "https://cvm.tencentcloudapi.com", "must contain {region} if endpoint does"),
        ("http://{region}.cloud", "http://cloud", "must contain {region}"),
        (BATCH, "cvm.{region}.tencentcloudapi.com", "must be http(s)://HOST"),
        ("http://127.0.0.1:8700", "None", "must be http(s)://HOST"),
        (BATCH, f"https://user:{SECRET}@cvm.tencentcloudapi.com", "must be http(s)://HOST"),
    ],
)
def test_an_invalid_endpoint_of_machines(
    file: Path, endpoint: str, cvm_endpoint: str, expected: str
) -> None:
    """Keys and machine ids must not be sent to a cloud that was not intended."""
    (problem,) = mistakes(file, of_site(endpoint, cvm_endpoint))
    assert problem.startswith("accounts.prod.cvm_endpoint: ")
    assert expected in problem


@pytest.mark.parametrize("cvm_endpoint", ["", "none", "https://cvm.tencentcloudapi.com"])
def test_a_wrong_endpoint_hides_that_of_machines(file: Path, cvm_endpoint: str) -> None:
    wrong = of_site("https://batch.tencentcloudapi.com/v1", cvm_endpoint)
    assert names(mistakes(file, wrong)) == ["accounts.prod.endpoint"]


def test_a_blank_is_no_endpoint_of_machines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blank value, as from an unset variable, means neither "none" nor the default."""
    monkeypatch.setenv("ORCHESTRATOR__ACCOUNTS__PROD__CVM_ENDPOINT", "")
    assert names(mistakes(file)) == ["ORCHESTRATOR__ACCOUNTS__PROD__CVM_ENDPOINT"]


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://batch.{region}.tencentcloudapi.com", "batch.ap-guangzhou.tencentcloudapi.com"),
        ("https://batch.intl.tencentcloudapi.com/", "batch.intl.tencentcloudapi.com"),
        ("HTTPS://Batch.TencentCloudAPI.com:443", "batch.tencentcloudapi.com"),
        ("http://host:80", "host"),
        ("http://host:443", "host:443"),
        ("https://host:80/", "host:80"),
        ("http://127.0.0.1:8700", "127.0.0.1:8700"),
        ("http://[::1]:8700", "[::1]:8700"),
        ("http://cloud_simulator:00080", "cloud_simulator"),
    ],
)
def test_one_host_has_one_name(endpoint: str, host: str) -> None:
    """With two names, a host would get its quota twice."""
    assert host_for(endpoint, "ap-guangzhou") == host


@pytest.mark.parametrize(
    "region", ["", "guangzhou", "ap_guangzhou", "AP-GUANGZHOU", "ap-guangzhou\n", "x.evil.com/"]
)
def test_an_invalid_region(region: str) -> None:
    for function in (host_for, endpoint_for):
        with pytest.raises(ValueError, match="must be a region such as ap-guangzhou"):
            function("https://batch.{region}.tencentcloudapi.com", region)
