"""Profile files of the vendor's tools, in the forms that users have."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cloud.profiles import from_profile
from orchestrator.domain.errors import CloudError, CloudErrorKind

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.cloud.signing import Credential

WANTED = ("AKID", "k%y=", None)
WITH_TOKEN = ("AKID", "k%y=", "t")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def read(path: Path | None, profile: str = "default") -> tuple[str, str, str | None]:
    found: Credential = from_profile(path, profile)
    return found.secret_id, found.secret_key, found.token


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


FORMS = {
    "plain": "[default]\nsecret_id = AKID\nsecret_key = k%y=\n",
    "double quotes": '[default]\nsecret_id="AKID"\nsecret_key="k%y="\n',
    "single quotes": "[default]\nsecret_id='AKID'\nsecret_key='k%y='\n",
    "byte order mark": "\ufeff[default]\nsecret_id=AKID\nsecret_key=k%y=\n",
    "lines of Windows": "[default]\r\nsecret_id=AKID\r\nsecret_key=k%y=\r\n",
    "comments": "# mine\n[default] ; work\nsecret_id=AKID # of Ann\nsecret_key=k%y= ; 2026\n",
    "quotes and a comment": '[default]\nsecret_id="AKID" # of Ann\nsecret_key="k%y="\n',
    "colons": "[default]\nsecret_id: AKID\nsecret_key: k%y=\n",
    "names as tccli has them": "[default]\nsecretId=AKID\nsecretKey=k%y=\n",
    "capitals": "[DEFAULT]\nSECRET_ID=AKID\nSECRET_KEY=k%y=\n",
    "indented": "[default]\n  secret_id = AKID\n  secret_key = k%y=\n",
    "sections beside it": "[other]\nsecret_id=no\n[default]\nsecret_id=AKID\nsecret_key=k%y=\n",
    "twice": "[default]\nsecret_id=old\n[default]\nsecret_id=AKID\nsecret_key=k%y=\n",
    "more than keys": "[default]\nsecret_id=AKID\nsecret_key=k%y=\nregion=ap-tokyo\nrole_arn=\n",
    "JSON": '{"secretId": "AKID", "secretKey": "k%y="}',
    "JSON with a byte order mark": '\ufeff\n{"secretId": "AKID", "secretKey": "k%y=", "token": ""}',
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_file_written_by_the_cli_of_the_vendor(tmp_path: Path, text: str) -> None:
    assert read(written(tmp_path / "credentials", text)) == WANTED


def test_a_section_by_its_name(tmp_path: Path) -> None:
    """A value that the section lacks is not taken from another section."""
    text = "[default]\nsecret_id=no\ntoken=no\n[Prod]\nsecret_id=AKID\nsecret_key=k%y=\n"
    path = written(tmp_path / "credentials", text)
    assert read(path, "prod") == WANTED
    with pytest.raises(CloudError, match=r"has no section \[test\]"):
        read(path, "test")
    capitals = written(tmp_path / "capitals", "[DEFAULT]\ntoken=no\n[prod]\nsecret_id=x\n")
    with pytest.raises(CloudError, match="the secret id or the secret key is missing"):
        read(capitals, "prod")


@pytest.mark.parametrize("profile", ["default", "prod"])
def test_where_the_vendors_tools_write(home: Path, profile: str) -> None:
    """tccli's file is read if the SDK's file does not have the profile."""
    document = {"secretId": "AKID", "secretKey": "k%y=", "token": "t", "role-arn": None}
    written(home / ".tccli" / f"{profile}.credential", json.dumps(document))
    assert read(None, profile) == WITH_TOKEN
    sdks = written(home / ".tencentcloud" / "credentials", "[other]\nsecret_id=x\nsecret_key=x\n")
    assert read(None, profile) == WITH_TOKEN
    written(sdks, f"[{profile}]\nsecret_id=AKID\nsecret_key=k%y=\n")
    assert read(None, profile) == WANTED


def test_keys_of_a_login_expire_at_the_time_in_the_file(home: Path) -> None:
    """`tccli auth login` writes such a file."""
    document = {
        "type": "oauth",
        "secretId": "AKID",
        "secretKey": "k",
        "token": "t",
        "expiresAt": 4102444800,
        "oauth": {"expiresAt": 1},
    }
    written(home / ".tccli" / "default.credential", json.dumps(document))
    expires_at = from_profile(None, "default").expires_at
    assert expires_at is not None
    assert expires_at.timestamp() == 4102444800


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "has no section [default]"),
        ("[other]\nsecret_id=AKID\nsecret_key=hush\n", "has no section [default]"),
        ("secret_id=AKID\n[default]\n", "has no [default] above line 1"),
        ("[default]\nsecret_id=AKID\nhush\n", "has no NAME = VALUE on line 3"),
        ("[default]\nsecret_id=AKID\n", "the secret id or the secret key is missing"),
        ("[default]\nsecret_id=AKID\nsecret_key=\n", "the secret id or the secret key is missing"),
        ('{"secretId": "AKID", "hush": ', "starts with { but is not valid JSON"),
        ("[default]\nsecret_key=ключ hush\nsecret_id=AKID", "contain characters that no key has"),
        ("[default]\nsecret_id=AKID\n".encode("utf-16"), "is not UTF-8: save it as UTF-8"),
        (b"\x00\xff", "is not UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_an_unusable_profile(tmp_path: Path, text: str | bytes | None, expected: str) -> None:
    """The message has the path and the reason, and no content of the file."""
    path = tmp_path / "credentials"
    if text is not None:
        written(path, text)
    with pytest.raises(CloudError) as caught:
        read(path)
    assert caught.value.kind is CloudErrorKind.CREDENTIAL
    assert expected in caught.value.message
    assert str(path) in caught.value.message
    assert "hush" not in str(caught.value)
    assert "AKID" not in str(caught.value)
    assert caught.value.advice


LINES = st.lists(
    st.sampled_from(
        [
            *("[default]", "[other", "secret_id = AKID", "secret_key=hush", "token", " more", "="),
            *("#", ""),
        ]
    )
    | st.text(alphabet="[]=:;#'\"{}\t aA\u00e9\x00\u2028", max_size=12),
    max_size=8,
)


@given(lines=LINES)
def test_a_file_of_any_content(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The result is keys or a CloudError with advice."""
    path = tmp_path_factory.mktemp("any") / "credentials"
    found = outcome(written(path, "\n".join(lines)))
    if isinstance(found, CloudError):
        assert found.kind is CloudErrorKind.CREDENTIAL
        assert "hush" not in str(found)
    else:
        assert found.secret_id


def outcome(path: Path) -> Credential | CloudError:
    try:
        return from_profile(path, "default")
    except CloudError as error:
        return error


def test_no_file_anywhere() -> None:
    """The message names every file that was searched."""
    with pytest.raises(CloudError) as caught:
        read(None, "prod")
    places = ("~/.tencentcloud/credentials", "~/.tccli/prod.credential")
    assert all(place in caught.value.message for place in places)
    assert "below [prod] in ~/.tencentcloud/credentials" in str(caught.value.advice)
