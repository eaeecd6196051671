"""Job ids as people type them and as tools print them: all are read, or none with a reason."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.cli.commands.job_ids import MISTAKES_SHOWN, collect, read
from orchestrator.domain.errors import ConfigurationError
from orchestrator.domain.ids import JOB_ID

A_B = ["job-a", "job-b"]


@pytest.mark.parametrize(
    "text",
    [
        "job-a\njob-b",
        "job-a job-b",
        "\tjob-a  job-b\n",
        "job-a,job-b",
        "job-a, job-b,\n",
        ",,job-a;job-b;",
        "job-a\r\n\r\njob-b\r\n",
        "job-a\rjob-b\r",
        "\ufeffjob-a\n\ufeffjob-b\n",
        "job-a\u00a0job-b\u3000",
        "# those of team A\njob-a # the big one\n  # another\njob-b\n#job-c",
        "'job-a' \"job-b\"",
        "' job-a ',\n\" job-b \",\n",
        '["job-a", "job-b"]',
        '[\n  "job-a",\n  "job-b",\n]\n',
        "['job-a', 'job-b']",
        "[job-a,job-b]",
        '["job-a"]\n["job-b"]\n',
        '[["job-a"], [], ["job-b"]]',
        '{"JobId": "job-a", "JobState": "RUNNING"}\n{"JobId": "job-b"}\n',
        '[{"job_id": "job-a"}, {"job_id": "job-b"}]',
        '[{"id": "trm_1", "job_id": "job-a", "tasks": [{"id": "x"}]}, {"id": "job-b"}]',
        '{\n "id": "job-a"\n}\n{\n "id": "job-b"\n}',
        "job_id\njob-a\njob-b\n",
        "JobId,JobName\njob-a,one\njob-b,two\n",
        'Name;Job ID;State\n"x; y";job-a;RUNNING\nz;job-b;\n',
        "state\tid\nRUNNING\tjob-a\nRUNNING\tjob-b\n",
        '"id","job-id"\n"7","job-a"\n"8","job-b"\n',
        "job_id,\njob-a,\njob-b,,\n",
        "\ufeffname,job_id\r\na,job-a\r\nb,job-b\r\n",
        "# export\n\nname,job_id\n# it's \"one\na,job-a\n,,\n\n'b,job-b\n",
        'name,job_id\n"two\nlines",job-a\n"a ""b""",job-b\n',
    ],
)
def test_both_ids_are_read(text):
    reading = read(text)
    assert (reading.ids, reading.mistakes) == (A_B, [])


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("job-a\njob_b", 2, "'job_b' is not a job id such as job-dwukenxr"),
        ("job-a\r\n\r\njob-b!\r\n", 3, "'job-b!' is not a job id"),
        ("job-a\rx\r", 2, "'x' is not a job id"),
        ("job-a RUNNING", 1, "'RUNNING' is not a job id"),
        ("job-a\n\x1b]0;x\x07job-b", 2, r"'x\x07job-b' is not a job id"),
        ("job-\u0430", 1, r"'job-\u0430' is not a job id"),
        ("job-a\u200b", 1, r"'job-a\u200b' is not a job id"),
        ("job-a\u202e", 1, r"'job-a\u202e' is not a job id"),
        ("x" * 200, 1, f"'{'x' * 100}...' is not a job id"),
        ("job-a#b", 1, "'job-a#b' is not a job id"),
        ('job-a\n"job-b', 2, "'\"job-b' is not a job id"),
        ('"job-a""job-b"', 1, "is not a job id"),
        ('["job-a",\n""]', 2, "'' is not a job id"),
        ('["job-a",\n"job-b",', 1, "unmatched [: its ] is missing"),
        ('"job-a"]', 1, "unmatched ]: its [ is missing"),
        ('["job-a", null]', 1, "'null' is not a job id"),
        ('["job-a", 7]', 1, "'7' is not a job id"),
        (
            '["job-a",\n{"JobId": 7}]',
            2,
            "an object has no single job_id, JobId or id that is a string",
        ),
        ('\n{"JobName": "job-a"}', 2, "an object has no single job_id"),
        ('{\n"id": "job-a"\n}\nx', 4, "'x' is not a job id"),
        ('{"JobSet": [{"JobId": "job-a"}]}', 1, "jq '.JobSet[].JobId'"),
        ('{"job_id": "job-a", "JobId": "job-b"}', 1, "an object has no single job_id"),
        ('{"job_id": "job-a", "job_id": "job-b"}', 1, "an object has no single job_id"),
        ('["job-a",\n{"JobId": "job-b"', 2, "the { does not begin a JSON object"),
        ("{" * 100_000, 1, "the { does not begin a JSON object"),
        ('{"a":' * 100_000, 1, "the { does not begin a JSON object"),
        ("name,state\njob-a,RUNNING", 1, "'name' is not a job id"),
        ("job-a,id\njob-b,x", 1, "'id' is not a job id"),
        ("job_id,JobId\njob-a,job-b", 1, "'job_id' is not a job id"),
        ("name,job_id\na,job-a\nb,\n", 3, "'' is not a job id"),
        ("name,job_id\na,job-a\nb\n", 3, "the row does not have the 2 cells of the header"),
        ("job_id\njob-a\njob-b,job-c\n", 3, "the row does not have the 1 cells of the header"),
        ("job_id\njob-a job-b\n", 2, "'job-a job-b' is not a job id"),
        ('name,job_id\n# "\n"two\nlines",job-a\n\nx,y', 6, "'y' is not a job id"),
        (
            'name,job_id\na,job-a\n"b,job-b\nc,job-c',
            3,
            "the row is not valid CSV (unexpected end of data)",
        ),
        (
            f"name,job_id\na,job-a\n{'x' * 200_000},job-b",
            3,
            "the row is not valid CSV (field larger",
        ),
    ],
)
def test_an_invalid_id_is_named_with_its_line(text, line, expected):
    """Mistakes are shown in ASCII, which reveals escapes and look-alike characters."""
    mistakes = read(text).mistakes
    at, why = next(each for each in mistakes if expected in each[1])
    assert at == line
    assert why.isascii()
    assert why.isprintable()


def refused(*sources: tuple[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as refusal:
        collect(sources)
    *mistakes, end = refusal.value.problems
    assert end == "nothing was sent: one mistake refuses the whole request"
    return mistakes


def test_each_mistake_is_named_once():
    text = "x\njob-a\nx\ny\nx\n"
    assert refused(("standard input", text), ("argument 2", "y"), ("argument 3", "z")) == [
        "standard input, line 1: 'x' is not a job id such as job-dwukenxr (3 times in all)",
        "standard input, line 4: 'y' is not a job id such as job-dwukenxr (2 times in all)",
        "argument 3: 'z' is not a job id such as job-dwukenxr",
    ]


def test_the_number_of_printed_mistakes_is_limited():
    mistakes = refused(("standard input", "\n".join(f"x{number}" for number in range(10_000))))
    assert len(mistakes) == MISTAKES_SHOWN + 1
    assert mistakes[-1] == f"and {10_000 - MISTAKES_SHOWN} more mistakes"


@pytest.mark.parametrize("empty", ["", "\n", " ,", "# job-b", "[]", "job_id\n"])
def test_a_source_that_holds_nothing_is_a_mistake(empty):
    """The usual cause is a failed command or an unset variable."""
    assert refused(("argument 1", "job-a"), ("argument 2", empty.strip("\n"))) == [
        "argument 2: contains no job id"
    ]


def test_ids_of_all_sources_stand_in_their_order():
    assert collect([("argument 1", "job-c,job-a"), ("standard input", "job-b\njob-a\n")]) == [
        *("job-c", "job-a", "job-b", "job-a")
    ]


# --- printed by any tool -------------------------------------------------------------------------

IDS = st.lists(st.from_regex(JOB_ID, fullmatch=True), min_size=1, max_size=8)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff\r"), max_size=6)


@st.composite
def as_words(draw: st.DrawFn, ids: list[str]) -> str:
    separator = draw(st.sampled_from(["\n", " ", ",", ", ", ";", "\t", "\n# x\n", " # job-x\n\n"]))
    quote = draw(st.sampled_from(["", "'", '"']))
    return separator.join(f"{quote}{each}{quote}" for each in ids) + draw(
        st.sampled_from(["", "\n", ",", ",\n# end"])
    )


@st.composite
def as_json(draw: st.DrawFn, ids: list[str]) -> str:
    name = draw(st.sampled_from(["job_id", "JobId", "id"]))
    more = draw(st.dictionaries(CELLS.map("_{}".format), CELLS, max_size=2))
    objects = draw(st.booleans())
    items = [{**more, name: each} if objects else each for each in ids]
    if draw(st.booleans()):
        return json.dumps(items, indent=draw(st.sampled_from([None, 2])))
    return "\n".join(json.dumps(each, ensure_ascii=draw(st.booleans())) for each in items)


@st.composite
def as_csv(draw: st.DrawFn, ids: list[str]) -> str:
    file = io.StringIO()
    writer = csv.writer(
        file,
        delimiter=draw(st.sampled_from(",;\t")),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        lineterminator="\n",
    )
    place = draw(st.integers(0, 2))
    rows = [(draw(st.sampled_from(["job_id", "JobId", "Job ID", "id"])), "a", "b")]
    # A first cell that begins with # would be a comment.
    rows += [(each, f"x{draw(CELLS)}", f"x{draw(CELLS)}") for each in ids]
    writer.writerows([*row[1 : 1 + place], row[0], *row[1 + place :]] for row in rows)
    return file.getvalue()


FORMS = st.sampled_from([as_words, as_json, as_csv])


@given(st.data(), IDS, FORMS, st.booleans(), st.sampled_from(["\n", "\r\n"]))
def test_output_of_tools_is_read_completely(data, ids, form, mark, newline):
    """Every id is read in order, and nothing else."""
    text = data.draw(form(ids)).replace("\n", newline)
    reading = read("\ufeff" * mark + text)
    assert (reading.ids, reading.mistakes) == (ids, [])


PIECES = [*"ab-{}[]\"',;#\n\r\t \\:\x1b\u200b", "job-a", "job-b", "id", "JobId", '{"id":"job-a"}']


@given(st.lists(st.sampled_from(PIECES)).map("".join))
@example('""a\tid')
def test_nothing_is_passed_over(text):
    """Every id is read or the whole text is refused, except comments and other CSV columns."""
    reading = read(text)
    for line, why in reading.mistakes:
        assert 1 <= line <= len(text) + 1
        assert why.isprintable()
        assert why.isascii()
    if not reading.mistakes and not {*"#,;\t"} & {*text}:
        assert len(reading.ids) == text.count("job-")
