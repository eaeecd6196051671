"""Check of a file against ``certificate.schema.json``, the JSON Schema of a certificate.

The schema stands alone: any tool for JSON Schema 2020-12 can check a file without this program.
Here ``jsonschema`` checks it, and each error becomes a fault that names its place in words. Both
do no I/O, apart from reading the schema, a file of this package, at import.

The check is stricter than the schema in one point: JSON Schema takes 1.0 for an integer, whose
canonical form is 1, so it is refused here.
"""

from __future__ import annotations

import json
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from jsonschema import Draft202012Validator, validators

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jsonschema import ValidationError

    Path = tuple[str | int, ...]

FILE: Final = "file"
CERTIFICATE: Final = "certificate"
ECHO_MAX: Final = 60
"""Characters of a value that a fault repeats."""
SCHEMA: Final[Mapping[str, Any]] = json.loads(
    resources.files("orchestrator.domain.audit")
    .joinpath("certificate.schema.json")
    .read_text(encoding="utf-8")
)
_STRICT: Final = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ),
)(SCHEMA)


def shape_faults(document: Any) -> Iterator[tuple[str | int, str]]:
    """Yield each fault of the file's shape, with the part of the file that it spoils.

    The part is FILE, CERTIFICATE or the index of a job; a part without faults can be read.
    """
    errors = _STRICT.iter_errors(document)
    for (path, keyword), same in groupby(errors, lambda each: (_path(each), each.validator)):
        part, where = _place(document, path, spoils_around=keyword == "type")
        for fault in _faults(next(same)):
            yield part, f"{where}: {fault}"


def place_of_job(job: Mapping[str, Any], index: int) -> str:
    """Return the words that name a job: its id, or its number if it has none."""
    job_id = job.get("job_id")
    return f"job {job_id}" if isinstance(job_id, str) else f"job {index + 1}"


def _path(error: ValidationError) -> Path:
    return tuple(error.absolute_path)


def _place(document: Any, path: Path, *, spoils_around: bool) -> tuple[str | int, str]:
    """Return the part that a fault at ``path`` spoils, and the place of the fault in words.

    A value of the wrong type spoils what is around it.
    """
    part: str | int
    match path[:-1] if spoils_around else path:
        case ("certificate", "jobs", int(part), *_):
            where, inside = place_of_job(document["certificate"]["jobs"][part], part), path[3:]
        case ("certificate", *_):
            part, where, inside = CERTIFICATE, CERTIFICATE, path[1:]
        case _:
            part, where, inside = FILE, FILE, path
    steps = (f" {step + 1}" if isinstance(step, int) else f", {step}" for step in inside)
    return part, where + "".join(steps)


def _faults(error: ValidationError) -> Iterator[str]:
    """Yield the faults that the library reports by this error, or by one error each."""
    value: Any = error.instance
    expected: Any = error.validator_value
    match error.validator:
        case "required":
            yield from (f"{name} is missing" for name in expected if name not in value)
        case "additionalProperties":
            schema: Any = error.schema
            unknown = sorted(value.keys() - schema["properties"].keys())
            yield from (f"unknown member {_shown(name)}" for name in unknown)
        case "type" if "object" in expected:
            yield "must be an object"
        case "type" if "array" in expected:
            yield "must be a list"
        case _:
            yield f"{_shown(value)} is not a valid value"


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = ascii(value)
    return text if len(text) <= ECHO_MAX else f"{text[:ECHO_MAX]}..."
