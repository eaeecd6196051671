"""Advice of check-config and serve about a valid configuration that cannot work or be intended."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from orchestrator import settings
from orchestrator.cli import main
from orchestrator.cli.commands import check_config
from orchestrator.domain.tokens import digest
from orchestrator.settings.advice import NEEDED_VARIABLES
from tests.support.config_example import SHOWN

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ORCHESTRATOR_", "TENCENTCLOUD_")):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _keys_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading keys would send requests; errors of loading are tested elsewhere."""

    async def try_credentials(_: settings.Settings) -> dict[str, str]:
        return {}

    monkeypatch.setattr(check_config, "try_credentials", try_credentials)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orchestrator.toml"


def advised(file: Path, text: str) -> settings.Advice:
    """Return the advice; ``check-config`` must print the same."""
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    advice = settings.advise(settings.load(file), os.environ, file)
    result = CliRunner().invoke(main.app, ["check-config", "--config", str(file)])
    assert result.exit_code == (2 if advice.errors else 0)
    warnings = [f"warning: {text}" for text in advice.warnings]
    assert result.stderr.splitlines() == [*advice.errors, *warnings]
    return advice


def about(place: str, lines: tuple[str, ...]) -> list[str]:
    return [text for text in lines if text.startswith(place)]


STATIC = '{ provider = "static", secret_id = "AKID1", secret_key = "k" }'


@pytest.mark.parametrize(
    ("one", "two", "shared"),
    [
        (STATIC, STATIC, True),
        (STATIC, STATIC.replace("AKID1", "AKID2"), False),
        ('{ provider = "environment" }', '{ provider = "environment" }', True),
        ('{ provider = "environment" }', '{ provider = "profile" }', False),
        ('{ provider = "profile" }', '{ provider = "profile", path = "other" }', False),
        ('{ provider = "profile" }', '{ provider = "profile", profile = "other" }', False),
        ('{ provider = "cvm-role" }', '{ provider = "cvm-role" }', True),
    ],
)
def test_accounts_that_share_a_quota_unseen_are_reported(
    file: Path, one: str, two: str, *, shared: bool
) -> None:
    """The cloud counts requests by key and host, not by account name."""
    for endpoint, same_host in (("https://batch.tencentcloudapi.com", True), ("", False)):
        accounts = [
            f"[accounts.{name}]\nregions = ['{region}']\ncredentials = {credentials}\n"
            + (f"endpoint = '{endpoint}'\ncvm_endpoint = 'none'\n" if endpoint else "")
            for name, region, credentials in (("a", "ap-guangzhou", one), ("b", "ap-beijing", two))
        ]
        warnings = about("accounts a, b", advised(file, "".join(accounts)).warnings)
        assert len(warnings) == (shared and same_host)
        assert all("accounts a, b use one SecretId on batch." in each for each in warnings)


@pytest.mark.parametrize(
    ("cvm_of_two", "expected"),
    [
        ("https://cvm.tencentcloudapi.com", ["cvm.tencentcloudapi.com"]),
        ("https://cvm.{region}.tencentcloudapi.com", []),
        ("none", []),
    ],
)
def test_accounts_that_share_a_quota_of_machines_are_reported(
    file: Path, cvm_of_two: str, expected: list[str]
) -> None:
    """One warning per host, also if the host serves both regions of an account."""
    accounts = [
        f"[accounts.{name}]\nregions = {regions}\ncredentials = {STATIC}\n"
        f"endpoint = 'https://{name}.batch.cloud'\ncvm_endpoint = '{cvm_endpoint}'\n"
        for name, regions, cvm_endpoint in (
            ("a", ["ap-guangzhou", "ap-shanghai"], "https://cvm.tencentcloudapi.com"),
            ("b", ["ap-guangzhou", "ap-beijing"], cvm_of_two),
        )
    ]
    warnings = about("accounts a, b", advised(file, "".join(accounts)).warnings)
    assert [warning.partition(" on ")[2].partition(":")[0] for warning in warnings] == expected


def test_keys_of_the_environment_may_be_those_of_another_account(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(
        f"[accounts.{name}]\nregions = ['ap-guangzhou']\ncredentials = {credentials}\n"
        for name, credentials in (("a", STATIC), ("b", '{ provider = "environment" }'))
    )
    for secret_id, shared in (("AKID2", False), ("AKID1", True)):
        monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", secret_id)
        warnings = advised(file, text).warnings
        assert any("accounts a, b use one SecretId" in each for each in warnings) is shared


CHINA, INTL = "tencentcloudapi.com", "intl.tencentcloudapi.com"
REGIONAL = f"{{region}}.{CHINA}"


@pytest.mark.parametrize(
    ("batch", "cvm", "error"),
    [
        (f"batch.{INTL}", f"cvm.{CHINA}", "endpoint is on the international site, cvm_endpoint on"),
        (f"batch.{CHINA}", f"cvm.{INTL}", "endpoint is on the China site, cvm_endpoint is on the"),
        (f"batch.{REGIONAL}", f"cvm.{{region}}.{INTL}", "the keys of one site are not valid on"),
        (f"batch.{INTL}:443", f"cvm.{CHINA}", "the keys of one site are not valid on the other"),
        (f"cvm.{CHINA}", f"batch.{CHINA}", "does not serve batch: use a host batch.*"),
        (f"batch.{CHINA}", f"batch.{CHINA}", "does not serve cvm"),
        (f"batch.{INTL}", f"cvm.{INTL}", None),
        (f"batch.{CHINA}", f"cvm.{REGIONAL}", None),
        ("127.0.0.1:8700", f"cvm.{INTL}", None),
        ("batch.proxy", "proxy", None),
    ],
)
def test_endpoints_that_do_not_fit(file: Path, batch: str, cvm: str, error: str | None) -> None:
    text = f"endpoint = 'https://{batch}'\ncvm_endpoint = 'https://{cvm}'\n"
    errors = advised(file, f"[accounts.a]\n{text}{KEYS}").errors
    assert bool(errors) == bool(error)
    assert all(each.startswith("accounts.a.") for each in errors)
    assert not error or error.replace("cvm_endpoint on", "cvm_endpoint is on") in errors[0]


KEYS = f"regions = ['ap-guangzhou']\ncredentials = {STATIC}\n"
STS = """{ provider = "sts", secret_id = "AKID1", secret_key = "k", role_arn = "r"%s }"""


@pytest.mark.parametrize(
    ("batch", "cvm", "sts", "expected"),
    [
        (f"batch.{INTL}", f"cvm.{INTL}", "", True),
        (f"batch.{INTL}", f"cvm.{INTL}", f"https://sts.{INTL}", False),
        (f"batch.{INTL}", f"cvm.{INTL}", f"sts.{INTL}", False),
        (f"batch.{CHINA}", f"cvm.{CHINA}", f"https://sts.{INTL}/", True),
        (f"batch.{CHINA}", f"cvm.{CHINA}", "", False),
        (f"batch.{INTL}", f"cvm.{INTL}", "http://127.0.0.1:8700", False),
    ],
)
def test_the_sts_of_the_other_site(
    file: Path, batch: str, cvm: str, sts: str, *, expected: bool
) -> None:
    credentials = STS % (f', endpoint = "{sts}"' if sts else "")
    advice = advised(
        file,
        f"[accounts.a]\nendpoint = 'https://{batch}'\ncvm_endpoint = 'https://{cvm}'\n"
        f"regions = ['ap-guangzhou']\ncredentials = {credentials}",
    )
    assert not advice.errors
    assert len(about("accounts.a.credentials.endpoint: ", advice.warnings)) == expected


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("ap-guangzhuo", ["; did you mean ap-guangzhou?"]),
        ("us-west", [""]),
        ("na-siliconvalley", []),
    ],
)
def test_an_unknown_region(file: Path, region: str, expected: list[str]) -> None:
    """It is only a warning: the region may be new."""
    text = f"[accounts.a]\n{KEYS}".replace("ap-guangzhou", region)
    assert advised(file, text) == settings.Advice(
        errors=(),
        warnings=tuple(
            f"accounts.a.regions: {region} is not a region that this version knows{meant}"
            for meant in expected
        ),
    )


@pytest.mark.parametrize(
    ("setting", "host", "meant"),
    [
        ("endpoint", "batch.ap-guangzhuo.{site}", "ap-guangzhuo"),
        ("cvm_endpoint", "cvm.ap-guangzhuo.{site}", "ap-guangzhuo"),
        ("credentials.endpoint", "sts.guangzhou.{site}", "guangzhou"),
        ("endpoint", "batch.ap-beijing.{site}", None),
        ("endpoint", "batch.{{region}}.{site}", None),
        ("cvm_endpoint", "cvm.internal.{site}", None),
        ("endpoint", "batch.ap-guangzhuo.proxy", None),
    ],
)
@pytest.mark.parametrize("site", [CHINA, INTL])
def test_a_host_of_an_unknown_region(
    file: Path, site: str, setting: str, host: str, meant: str | None
) -> None:
    hosts = {"endpoint": "batch.{site}", "cvm_endpoint": "cvm.{site}"}
    hosts |= {"credentials.endpoint": "sts.{site}", setting: host}
    batch, cvm, sts = (f"https://{each.format(site=site)}" for each in hosts.values())
    if "{region}" in batch:
        cvm = cvm.replace("cvm.", "cvm.{region}.")
    advice = advised(
        file,
        f"[accounts.a]\nendpoint = '{batch}'\ncvm_endpoint = '{cvm}'\n"
        + KEYS.replace(STATIC, STS % f', endpoint = "{sts}"'),
    )
    warning = (
        f"accounts.a.{setting}: {meant} is not a region that this version knows; "
        "did you mean ap-guangzhou?"
    )
    assert advice == settings.Advice((), (warning,) if meant else ())


SECRET_ID, SECRET_KEY = "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE"


@pytest.mark.parametrize(
    ("secret_id", "secret_key", "swapped"),
    [
        (SECRET_ID, SECRET_KEY, False),
        (SECRET_KEY, SECRET_ID, True),
        (SECRET_KEY, SECRET_ID.replace("AKID", "IKID"), True),
        (SECRET_ID, SECRET_ID, True),
    ],
)
@pytest.mark.parametrize("provider", ["static", "sts", "environment"])
def test_keys_that_are_swapped(
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
    secret_id: str,
    secret_key: str,
    *,
    swapped: bool,
) -> None:
    """The warning names the setting or variable and repeats neither key."""
    given = f', secret_id = "{secret_id}", secret_key = "{secret_key}", role_arn = "r"'
    place = "accounts.a.credentials.secret_key"
    if provider == "environment":
        monkeypatch.setenv("TENCENTCLOUD_SECRET_ID", secret_id)
        monkeypatch.setenv("TENCENTCLOUD_SECRET_KEY", secret_key)
        given, place = "", "TENCENTCLOUD_SECRET_KEY"
    credentials = f'{{ provider = "{provider}"{given} }}'
    warnings = advised(file, f"[accounts.a]\n{KEYS}".replace(STATIC, credentials)).warnings
    assert [each.partition(" like a SecretId")[0] for each in warnings] == [
        f"{place}: begins with {secret_key[:4]}"
    ] * swapped


def test_the_digest_of_the_example_is_that_of_no_token(file: Path) -> None:
    _, _, token = SHOWN.partition("# [[auth.tokens]]\n")
    name, digest_of_it = (line.removeprefix("# ") for line in token.splitlines()[:2])
    text = f"[accounts.a]\n{KEYS}[[auth.tokens]]\n{name}\n{digest_of_it}"
    (warning,) = advised(file, text).warnings
    assert warning.startswith("auth.tokens: the sha256 of 'sre-oncall' is the example, which no")


@pytest.mark.parametrize("provider", NEEDED_VARIABLES)
def test_keys_of_the_environment_that_are_not_there(
    file: Path, monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    """An unset variable is a warning: the daemon may have it. A placeholder is an error."""
    text = f"[accounts.a]\n{KEYS}".replace(STATIC, f'{{ provider = "{provider}" }}')
    first, *others = NEEDED_VARIABLES[provider]
    for variable in others:
        monkeypatch.setenv(variable, "1")
    (warning,) = advised(file, text).warnings
    assert warning.startswith(f"accounts.a.credentials: provider {provider} needs {first} in the ")
    monkeypatch.setenv(first, "${SECRET}")
    (error,) = advised(file, text).errors
    assert error.startswith(f"{first}: is a placeholder: replace it")
    monkeypatch.setenv(first, "1")
    assert advised(file, text) == settings.Advice((), ())


def test_a_database_that_cannot_be(file: Path, tmp_path: Path) -> None:
    missing, text, pipe = tmp_path / "missing", tmp_path / "text", tmp_path / "pipe"
    text.write_text("to do")
    os.mkfifo(pipe)
    for path, expected in (
        (text, f"{text} cannot be used: it is not an SQLite database; give the path"),
        (pipe, f"{pipe} cannot be used: it is not a regular file; give the path"),
        (missing / "a.db", f"the folder {missing} does not exist: create it"),
        (tmp_path, f"{tmp_path} is a folder: give the path of a file in it"),
        (tmp_path / "new.db", None),
    ):
        errors = advised(file, f"[accounts.a]\n{KEYS}[database]\nurl = 'sqlite:///{path}'").errors
        assert len(errors) == bool(expected)
        assert not expected or errors[0].startswith(f"database.url: {expected}")


MEANT = "give the path of the file with the keys"


@pytest.mark.parametrize(
    ("kind", "error", "warning"),
    [
        ("file", False, True),
        ("link to a file", False, True),
        ("pipe", False, False),
        ("folder", True, False),
        ("link to a folder", True, False),
        ("device", True, False),
    ],
)
def test_a_file_of_keys_that_all_users_can_read(
    file: Path, tmp_path: Path, kind: str, *, error: bool, warning: bool
) -> None:
    """chmod of a device or a folder could break the machine, so it is not advised."""
    path, link = tmp_path / "keys", tmp_path / "link"
    match kind:
        case "device":
            path.symlink_to(os.devnull)
        case "pipe":
            os.mkfifo(path)
            path.chmod(0o644)
        case "folder" | "link to a folder":
            path.mkdir()
        case _:
            path.touch()
            path.chmod(0o644)
    if kind.startswith("link"):
        link.symlink_to(path)
        path = link
    credentials = f'{{ provider = "profile", path = "{path}" }}'
    advice = advised(file, f"[accounts.a]\n{KEYS}".replace(STATIC, credentials))
    assert advice == settings.Advice(
        (f"accounts.a.credentials.path: {path} is not a regular file: {MEANT}",) * error,
        (f"every user of this host can read {path}, and it contains keys: run chmod 600 {path}",)
        * warning,
    )


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        (TOKEN, "it is the token itself"),
        (TOKEN.upper(), "it is the token itself"),
        (digest(f"{TOKEN}\n".encode()), "it is the digest of the token and a line break"),
        (digest(TOKEN.encode()), None),
        (digest(b"another"), None),
    ],
)
def test_a_token_that_is_no_digest_of_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, configured: str, expected: str | None
) -> None:
    """The value has the form of a digest, but was made from the token in a wrong way."""
    monkeypatch.setenv("ORCHESTRATOR_TOKEN", TOKEN)
    text = f"[accounts.a]\n{KEYS}[[auth.tokens]]\nname = 'sre'\nsha256 = '{configured}'"
    errors = advised(file, text).errors
    assert len(errors) == bool(expected)
    start = f"auth.tokens: the sha256 of 'sre' is wrong: {expected}"
    assert not expected or errors[0].startswith(start)
    assert TOKEN not in "".join(errors)
