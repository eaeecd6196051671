"""Choice of the proxy: from the configuration, from the environment, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestrator.cloud.egress import DIRECT, Egress, Proxy, proxy_url
from orchestrator.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

BATCH = "https://batch.ap-guangzhou.tencentcloudapi.com/"
PLAIN = "http://batch.test:8080/"
PROXIES = {"HTTPS_PROXY": "http://secure:1", "http_proxy": "http://plain:2"}
CONFIGURED = Proxy("http://u:pass@configured:3", "egress.proxy")


def way(url: Any, proxy: Any = None, **environment: Any) -> str | None:
    found = Egress(proxy=proxy, environment=environment).proxy_for(url)
    return found.url if found else None


@pytest.mark.parametrize(
    ("url", "environment", "through"),
    [
        (BATCH, {}, None),
        (BATCH, PROXIES, "http://secure:1"),
        (PLAIN, PROXIES, "http://plain:2"),
        (BATCH, {"HTTP_PROXY": "http://plain:2"}, None),
        (BATCH, {"HTTPS_PROXY": "secure:1"}, "http://secure:1"),
        (
            BATCH,
            {"HTTPS_PROXY": "http://upper:1", "https_proxy": "http://small:1"},
            "http://small:1",
        ),
        (BATCH, {"HTTPS_PROXY": "http://upper:1", "https_proxy": ""}, None),
        ("http://127.0.0.1:8700/", PROXIES, None),
        ("http://[::1]:8700/", PROXIES, None),
        ("http://localhost:8700/", PROXIES, None),
    ],
)
def test_the_environments_proxy(url, environment, through) -> None:
    """The scheme of the URL selects the variable; loopback addresses use no proxy."""
    assert way(url, **environment) == through


@pytest.mark.parametrize(
    ("url", "entry", "direct"),
    [
        (BATCH, "*", True),
        (BATCH, "batch.ap-guangzhou.tencentcloudapi.com", True),
        (BATCH, "tencentcloudapi.com", True),
        (BATCH, ".tencentcloudapi.com", True),
        (BATCH, "*.TencentCloudAPI.com", True),
        (BATCH, "internal, .tencentcloudapi.com", True),
        (BATCH, "internal tencentcloudapi.com", True),
        (BATCH, "cloudapi.com", False),
        (BATCH, "batch.ap-guangzhou.tencentcloudapi.com.evil", False),
        (BATCH, "", False),
        (BATCH, ",,", False),
        (BATCH, ".", False),
        (PLAIN, "batch.test:8080", True),
        (PLAIN, "batch.test:9", False),
        ("http://10.1.2.3/", "10.0.0.0/8", True),
        ("http://10.1.2.3/", "10.1.2.3", True),
        ("http://11.1.2.3/", "10.0.0.0/8", False),
        ("http://[fd00::1]/", "fd00::/8", True),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy(url, entry, direct, name) -> None:
    """NO_PROXY accepts domains, hosts with a port, and networks, as in other programs."""
    assert (way(url, **PROXIES, **{name: entry}) is None) == direct


@pytest.mark.parametrize("url", [BATCH, PLAIN, "http://127.0.0.1:1/"])
def test_a_proxy_that_is_configured_goes_for_every_call(url) -> None:
    """A configured proxy, or ``none``, has precedence over all variables."""
    assert way(url, CONFIGURED, **PROXIES, NO_PROXY="*") == CONFIGURED.url
    assert way(url, Proxy(DIRECT, "egress.proxy"), **PROXIES) is None


@pytest.mark.parametrize("value", ["socks5://proxy:1", "http://", "http://:1", "ftp://x"])
def test_a_variable_that_names_no_proxy_is_named_and_not_repeated(value) -> None:
    with pytest.raises(ConfigurationError) as caught:
        way(BATCH, HTTPS_PROXY=value)
    (problem,) = caught.value.problems
    assert problem.startswith("HTTPS_PROXY: must be http")
    assert value not in problem


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://user:se cret@proxy:1", "http://user:se#cret@proxy:1"),
        *("http://user:se/cret@proxy:1", "http://proxy:1/path", "http://proxy:1?query"),
        *("http://proxy:99999", "http://proxy:0", "http://[::1", "http://proxy\n:1"),
        "http://próxy:1",
    ],
)
def test_an_invalid_proxy(text) -> None:
    with pytest.raises(ValueError, match=r"must be http\(s\)://HOST:PORT") as caught:
        proxy_url(text)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("proxy.corp:3128", "http://proxy.corp:3128"),
        ("https://user:p%40ss@proxy.corp", "https://user:p%40ss@proxy.corp"),
        ("http://[::1]:3128/", "http://[::1]:3128/"),
        ("none", DIRECT),
    ],
)
def test_a_valid_proxy(text, taken) -> None:
    assert proxy_url(text) == taken


def test_a_proxy_is_shown_without_its_password() -> None:
    assert CONFIGURED.shown == "http://configured:3 (egress.proxy)"
    shown = repr(Egress(proxy=CONFIGURED, environment={"HTTPS_PROXY": CONFIGURED.url}))
    assert "pass" not in shown


@pytest.mark.parametrize("text", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_ca_file_that_is_none_is_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match=f"ca_file {path} has no CA certificate"):
        Egress(ca_file=path).trusted()
