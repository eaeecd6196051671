"""Job ids as people type them and as other tools print them.

Text holds ids in one of two forms:

- CSV, where the first line that is neither blank nor a comment names a column ``job_id``,
  ``JobId`` or ``id``: the ids of that column.
- Anything else: ids that white space, commas or semicolons separate, each with or without quotes,
  in JSON arrays or not, and JSON objects with a member ``job_id``, ``JobId`` or ``id``.

A ``#`` where an id could begin makes the rest of its line a comment.  Nothing else is passed over:
what is neither an id nor a comment is a mistake, and one mistake refuses everything.
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
"""Of columns and members, without case, blanks and underscores; the first one that is there."""
SEPARATORS: Final = ",;\t"
"""Of CSV: as standards, spreadsheets and clipboards have it."""
MISTAKES_SHOWN: Final = 20
SHOWN_MAX: Final = 100
BYTE_ORDER_MARK: Final = "\ufeff"

_TOKEN: Final = re.compile(
    r"""(?P<nothing>[\s,;]+|\#[^\n]*)
    |(?P<opens>\[)|(?P<closes>\])|(?P<object>\{)
    |(?P<quoted>"[^"\n]*"|'[^'\n]*')(?=[\s,;\]]|$)
    |(?P<bare>[^\s,;\]]+)""",
    re.VERBOSE,
)


@dataclass(slots=True)
class Reading:
    """The ids of a text in their order, and the mistakes in it, each with its line."""

    ids: list[str] = field(default_factory=list)
    mistakes: list[tuple[int, str]] = field(default_factory=list)

    def take(self, line: int, text: str) -> None:
        """An id, or what stands in the place of one."""
        if JOB_ID.fullmatch(text):
            self.ids.append(text)
        else:
            self.refuse(line, f"{_shown(text)} is no job id such as job-dwukenxr")

    def refuse(self, line: int, why: str) -> None:
        self.mistakes.append((line, why))


def collect(sources: Iterable[tuple[str, str]]) -> list[str]:
    """All ids of texts, each given with its name; raises ConfigurationError for one mistake."""
    ids: list[str] = []
    mistakes: list[tuple[str, str]] = []
    for name, text in sources:
        reading = read(text)
        one_line = "\n" not in text
        for line, why in reading.mistakes:
            mistakes.append((name if one_line else f"{name}, line {line}", why))
        if not reading.ids and not reading.mistakes:
            mistakes.append((name, "there is no job id"))
        ids += reading.ids
    if mistakes:
        raise ConfigurationError(
            [*_by_line(mistakes), "nothing was sent: one mistake refuses the whole request"]
        )
    return ids


def read(text: str) -> Reading:
    """The ids in ``text``, and what in it is none."""
    # Files that were put together have a mark at each beginning.
    text = text.replace(BYTE_ORDER_MARK, "").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    first = next((line for line in lines if line.strip() and not _is_comment(line)), "")
    for separator in SEPARATORS:
        if _is_header(_cells(first, separator)):
            return _read_csv(lines, separator)
    return _read_tokens(text)


def _by_line(mistakes: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Each mistake once, with the first place where it was made."""
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
    """In ASCII: an id has nothing else, and neither a look-alike nor an escape goes unseen."""
    return ascii(text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}...")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _is_header(cells: Sequence[str]) -> bool:
    others = [cell for cell in cells if _plain(cell) not in NAMES]
    return _place(cells) is not None and not any(map(JOB_ID.fullmatch, others))


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _place(names: Sequence[str]) -> int | None:
    """Where among these names the job id is, if in one place."""
    plain = [_plain(name) for name in names]
    for name in NAMES:
        if name in plain:
            return plain.index(name) if plain.count(name) == 1 else None
    return None


# --- words and JSON ------------------------------------------------------------------------------


def _read_tokens(text: str) -> Reading:
    reading, position, line = Reading(), 0, 1
    opened: list[int] = []
    while position < len(text):
        token = _TOKEN.match(text, position)
        assert token is not None  # "bare" takes whatever the others do not
        end = token.end()
        match token.lastgroup:
            case "opens":
                opened.append(line)
            case "closes" if opened:
                opened.pop()
            case "closes":
                reading.refuse(line, "there is a ] without its [")
            case "object":
                end = _read_object(reading, text, position, line)
            case "quoted":
                reading.take(line, token[0][1:-1].strip())
            case "bare":
                reading.take(line, token[0])
        line += text.count("\n", position, end)
        position = end
    for at in opened:
        reading.refuse(at, "there is a [ without its ]: is the list complete?")
    return reading


def _read_object(reading: Reading, text: str, position: int, line: int) -> int:
    """Read a JSON object; returns where it ends."""
    try:
        members, end = _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        reading.refuse(line, "there is a { that begins no JSON object: nothing after it was read")
        return len(text)
    place = _place([name for name, _ in members])
    value = None if place is None else members[place][1]
    if isinstance(value, str):
        reading.take(line, value.strip())
    else:
        reading.refuse(
            line,
            "an object has no job_id, JobId or id that is a string: give the ids alone (those that "
            "DescribeJobs answers: jq '.JobSet[].JobId')",
        )
    return end


_DECODER: Final = json.JSONDecoder(object_pairs_hook=list)
"""Every member, also those that have one name."""


# --- CSV -----------------------------------------------------------------------------------------


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return []


def _read_csv(lines: Sequence[str], separator: str) -> Reading:
    reading = Reading()
    header: list[str] = []
    # Comments stay lines, but blank ones: a quote in one begins no cell.
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
        # The error quotes the separator, which may be a tab.
        message = str(error).replace("\t", r"\t")
        reading.refuse(line, f"the row is no CSV ({message}): nothing after it was read")
    return reading


def _read_row(reading: Reading, header: list[str], cells: list[str], line: int) -> None:
    if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
        reading.refuse(line, f"the row has not the {len(header)} cells of the header")
        return
    place = _place(header)
    assert place is not None
    reading.take(line, cells[place].strip())
