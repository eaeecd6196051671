"""Job ids as people type them and as other tools print them.

A text contains ids in one of two forms:

- CSV, if the first line that is neither blank nor a comment has a column ``job_id``, ``JobId`` or
  ``id``: the ids of that column.
- Anything else: ids separated by white space, commas or semicolons, with or without quotes, inside
  JSON arrays or not, and JSON objects with a member ``job_id``, ``JobId`` or ``id``.

A ``#`` where an id could begin starts a comment, up to the end of the line. Nothing else is
skipped: text that is neither an id nor a comment is a mistake, and one mistake refuses the request.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from orchestrator.domain.errors import ConfigurationError
from orchestrator.domain.ids import JOB_ID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NAMES: Final = ("jobid", "id")
"""Names of columns and members without case, blanks, - and _; the first one present counts."""
SEPARATORS: Final = ",;\t"
"""Separators of CSV, as used by the standard, spreadsheets and clipboards."""
MISTAKES_SHOWN: Final = 20
SHOWN_MAX: Final = 100
BYTE_ORDER_MARK: Final = "\ufeff"

_TOKEN: Final = re.compile(
    r"""(?P<skipped>[\s,;]+|\#[^\n]*)
    |(?P<opens>\[)|(?P<closes>\])|(?P<object>\{)
    |(?P<quoted>"[^"\n]*"|'[^'\n]*')(?=[\s,;\]]|$)
    |(?P<bare>[^\s,;\]]+)""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Reading:
    """The ids of a text in order, and its mistakes, each with its line number."""

    ids: list[str] = field(default_factory=list)
    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """Add an id, or a mistake if the text is not an id."""
        if JOB_ID.fullmatch(text):
            self.ids.append(text)
        else:
            self.add_mistake(line, f"{_shown(text)} is not a job id such as job-dwukenxr")

    def add_mistake(self, line: int, why: str) -> None:
        self.mistakes.append((line, why))


def collect(sources: Iterable[tuple[str, str]]) -> list[str]:
    """Return the ids of all sources (name, text); raise ConfigurationError if any has a mistake."""
    ids: list[str] = []
    mistakes: list[tuple[str, str]] = []
    for name, text in sources:
        reading = read(text)
        one_line = "\n" not in text
        for line, why in reading.mistakes:
            mistakes.append((name if one_line else f"{name}, line {line}", why))
        if not reading.ids and not reading.mistakes:
            mistakes.append((name, "contains no job id"))
        ids += reading.ids
    if mistakes:
        raise ConfigurationError(
            [*_by_line(mistakes), "nothing was sent: one mistake refuses the whole request"]
        )
    return ids


def read(text: str) -> Reading:
    """Read the ids and the mistakes of a text."""
    # Concatenated files have a byte order mark at the start of each part.
    text = text.replace(BYTE_ORDER_MARK, "").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    for separator in SEPARATORS:
        if _is_header(_cells(first, separator)):
            return _read_csv(lines, separator)
    return _read_tokens(text)


def _by_line(mistakes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield each mistake once, with its first place and the number of repetitions."""
    times = Counter(why for _, why in mistakes)
    places: dict[str, str] = {}
    for place, why in mistakes:
        places.setdefault(why, place)
    for why, place in list(places.items())[:MISTAKES_SHOWN]:
        again = f" ({times[why]} times in all)" if times[why] > 1 else ""
        yield f"{place}: {why}{again}"
    if len(places) > MISTAKES_SHOWN:
        yield f"and {len(places) - MISTAKES_SHOWN} more mistakes"


def _shown(text: str) -> str:
    """Return the text in ASCII, so that look-alike characters and escapes become visible."""
    return ascii(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}...")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_header(cells: Sequence[str]) -> bool:
    others = [cell for cell in cells if _normalised(cell) not in NAMES]
    return _id_index(cells) is not None and not any(map(JOB_ID.fullmatch, others))


def _normalised(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _id_index(names: Sequence[str]) -> int | None:
    """Return the index of the job id among these names; None if absent or ambiguous."""
    normalised = [_normalised(name) for name in names]
    for name in NAMES:
        if name in normalised:
            return normalised.index(name) if normalised.count(name) == 1 else None
    return None


# --- words and JSON ------------------------------------------------------------------------------


def _read_tokens(text: str) -> Reading:
    reading, position, line = Reading(), 0, 1
    opened: list[int] = []
    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None  # "bare" matches whatever the others do not
        end = token.end()
        match token.lastgroup:
            case "opens":
                opened.append(line)
            case "closes" if opened:
                opened.pop()
            case "closes":
                reading.add_mistake(line, "unmatched ]: its [ is missing")
            case "object":
                end = _read_object(reading, text, position, line)
            case "quoted":
                reading.add(line, token[0][1:-1].strip())
            case "bare":
                reading.add(line, token[0])
        line += text.count("\n", position, end)
        position = end
    for at in opened:
        reading.add_mistake(at, "unmatched [: its ] is missing, is the list complete?")
    return reading


def _read_object(reading: Reading, text: str, position: int, line: int) -> int:
    """Read a JSON object; return the position after it."""
    try:
        members, end = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        reading.add_mistake(line, "the { does not begin a JSON object: nothing after it was read")
        return len(text)
    index = _id_index([name for name, _ in members])
    value = None if index is None else members[index][1]
    if isinstance(value, str):
        reading.add(line, value.strip())
    else:
        reading.add_mistake(
            line,
            "an object has no single job_id, JobId or id that is a string: give the ids alone "
            "(from a DescribeJobs response: jq '.JobSet[].JobId')",
        )
    return end


_DECODER: Final = json.JSONDecoder(object_pairs_hook=list)
"""Keeps every member, including members with the same name."""


# --- CSV -----------------------------------------------------------------------------------------


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _read_csv(lines: Sequence[str], separator: str) -> Reading:
    reading = Reading()
    header: list[str] = []
    # Comments become blank lines: line numbers stay, and a quote in a comment opens no cell.
    text = (f"{'' if _is_comment(line) else line}\n" for line in lines)
    rows = csv.reader(text, delimiter=separator, skipinitialspace=True, strict=True)
    line = 1
    try:
        for cells in rows:
            if any(cell.strip() for cell in cells):
                if header:
                    _read_row(reading, header, cells, line)
                else:
                    header = cells[: max(n for n, cell in enumerate(cells, 1) if cell.strip())]
            line = rows.line_num + 1
    except csv.Error as error:
        # The error text quotes the separator, which can be a tab.
        message = str(error).replace("\t", r"\t")
        reading.add_mistake(
            line, f"the row is not valid CSV ({message}): nothing after it was read"
        )
    return reading


def _read_row(reading: Reading, header: list[str], cells: list[str], line: int) -> None:
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        reading.add_mistake(line, f"the row does not have the {len(header)} cells of the header")
        return
    index = _id_index(header)
    assert index is not None
    reading.add(line, cells[index].strip())
