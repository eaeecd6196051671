"""Key files of the vendor's tools.

The SDKs read an INI file with one section per profile; tccli writes one JSON file per profile.
"""

from __future__ import annotations

import configparser
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from orchestrator.cloud.keys import build_credential, unavailable, unix_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.cloud.signing import Credential

DEFAULT_PROFILE: Final = "default"
_QUOTES: Final = "\"'"


class _Unusable(Exception):
    """A file that gives no keys; the message is the reason and repeats no content of the file."""


def places(path: Path | None, profile: str) -> list[Path]:
    """Return the files to search: ``path`` alone, or the default files of the vendor's tools."""
    if path is not None:
        return [path]
    return [
        Path("~/.tencentcloud/credentials"),
        Path("/etc/tencentcloud/credentials"),
        Path(f"~/.tccli/{profile}.credential"),
    ]


def from_profile(path: Path | None, profile: str) -> Credential:
    """Read the keys of ``profile`` from the first file that has it; block, and raise CloudError."""
    problems = []
    for place in places(path, profile):
        try:
            values = _values(place.expanduser(), profile)
        except _Unusable as error:
            problems.append(f"{place} {error}")
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            problems.append(f"{place} cannot be read ({reason})")
        else:
            return _credential(values, source=f"profile {place}")
    raise unavailable(
        f"profile: {'; '.join(problems)}",
        advice=f"add secret_id and secret_key below [{profile}] in {places(path, profile)[0]}",
    )


def _credential(values: Mapping[str, object], *, source: str) -> Credential:
    keys = (values.get("secretid"), values.get("secretkey"), values.get("token"))
    return build_credential(keys, expires_at=unix_time(values.get("expiresat")), source=source)


def _values(path: Path, profile: str) -> Mapping[str, object]:
    """Return the values of the profile, by lower-case names without ``_`` and ``-``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _Unusable("is not UTF-8: save it as UTF-8") from None
    found = _of_json(text) if text.lstrip().startswith("{") else _of_ini(text, profile)
    return {name.lower().replace("_", "").replace("-", ""): found[name] for name in found}


def _of_json(text: str) -> Mapping[str, object]:
    try:
        found: object = json.loads(text)
    except (ValueError, RecursionError):
        raise _Unusable("starts with { but is not valid JSON") from None
    return found if isinstance(found, dict) else {}


def _of_ini(text: str, profile: str) -> Mapping[str, object]:
    # [DEFAULT] is an ordinary section here, so the parser's default section gets another name.
    parser = configparser.ConfigParser(
        interpolation=None, strict=False, inline_comment_prefixes=("#", ";"), default_section="\n"
    )
    try:
        parser.read_string(text)
    except configparser.MissingSectionHeaderError as error:
        raise _Unusable(f"has no [{profile}] above line {error.lineno}") from None
    except configparser.ParsingError as error:
        raise _Unusable(f"has no NAME = VALUE on line {error.errors[0][0]}") from None
    for name in parser.sections():
        if name.strip().lower() == profile.lower():
            return {key: _unquoted(value) for key, value in parser[name].items()}
    raise _Unusable(f"has no section [{profile}]")


def _unquoted(value: str) -> str:
    text = value.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        return text[1:-1]
    return text
