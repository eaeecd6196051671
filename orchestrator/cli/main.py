"""Declarations of the commands and their options."""
# ruff: noqa: PLC0415 - each command imports what it needs, so that --help starts fast

import asyncio
import io
import math
import os
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from orchestrator import __version__
from orchestrator.cli.client.errors import TOKEN_VARIABLE, URL_VARIABLE
from orchestrator.cli.exit_codes import EXIT_CODES, FINISHED_BEFORE, exit_on_error
from orchestrator.cli.output import printing
from orchestrator.domain.errors import ConfigurationError
from orchestrator.domain.model.termination import OnSubmitted

DEFAULT_URL: Final = "http://127.0.0.1:8642"
STDIN: Final = "-"
NUL: Final = "\0"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Terminate Tencent Cloud Batch jobs, follow every task instance until it has stopped, "
    "and report what is proven. The bearer token is read from --token-file, or else from the "
    f"environment variable {TOKEN_VARIABLE}.",
    epilog=EXIT_CODES,
)
db = typer.Typer(no_args_is_help=True, help="Database commands.")
app.add_typer(db, name="db")


@dataclass(frozen=True, slots=True)
class CommonOptions:
    """Options given before the command name."""

    url: str
    token_file: Path | None


@dataclass(frozen=True, slots=True)
class Target:
    """The daemon that a command talks to."""

    url: str
    token: str | None


def _text(value: str | None) -> str | None:
    """Refuse bytes that are not UTF-8: Python keeps them as surrogates, which cannot be sent."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not text in UTF-8") from None
    return value


Config = Annotated[
    Path | None,
    typer.Option(help="Configuration file (TOML); default: the file named by ORCHESTRATOR_CONFIG."),
]
OperationId = Annotated[
    str, typer.Argument(metavar="OPERATION", callback=_text, help="Operation id, op_...")
]
DaemonUrl = Annotated[
    str | None,
    typer.Option("--url", help="URL of the daemon; overrides --url before the command."),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File that contains the bearer token; overrides --token-file before the command.",
    ),
]
ExitWithStdin = Annotated[bool, typer.Option("--exit-with-stdin", hidden=True)]


def _target(context: typer.Context, url: str | None, token_file: Path | None) -> Target:
    """Return the daemon to talk to; an option after the command overrides one before it."""
    common: CommonOptions = context.obj
    return Target(
        common.url if url is None else url,
        _token(common.token_file if token_file is None else token_file),
    )


def _token(file: Path | None) -> str | None:
    """Return the bearer token of the file, or of the environment if no file is given.

    Raise ConfigurationError if the file is unreadable, empty or not UTF-8.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        token = file.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = "is not text in UTF-8"
    else:
        if token:
            return token
        reason = "is empty: write the bearer token into it"
    raise ConfigurationError([f"the token file {file} {reason}"])


@exit_on_error()
def _print_version(requested: bool) -> None:
    if requested:
        printing.out().print(f"orchestrator {__version__}")
        raise typer.Exit


def _finite(seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("must be a number of seconds, for example 30")
    return seconds


def _printable(key: str | None) -> str | None:
    if key is not None and not key.strip():
        raise typer.BadParameter("is empty: give a key, or omit the option to use a new key")
    if key and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("must be printable ASCII characters, for example a UUID")
    return key


@app.callback()
def common(
    context: typer.Context,
    *,
    url: Annotated[str, typer.Option(envvar=URL_VARIABLE, help="URL of the daemon.")] = DEFAULT_URL,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File that contains the bearer token; default: the environment variable "
            f"{TOKEN_VARIABLE}."
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    del version
    context.obj = CommonOptions(url, token_file)


@app.command()
@exit_on_error()
def serve(*, config: Config = None, exit_with_stdin: ExitWithStdin = False) -> None:
    """Run the daemon until SIGTERM or SIGINT; API calls in progress are completed first."""
    from orchestrator.cli.commands import check_config, serve

    serve.run_daemon(check_config.load(config), config, exit_with_stdin=exit_with_stdin)


@app.command()
@exit_on_error()
def terminate(
    context: typer.Context,
    jobs: Annotated[
        list[str],
        typer.Argument(
            metavar="JOB",
            help="Job ids, as separate words, CSV or JSON; - reads them from standard input.",
        ),
    ],
    *,
    reason: Annotated[
        str, typer.Option(callback=_text, help="Reason; it is kept with the operation.")
    ],
    account: Annotated[
        str | None,
        typer.Option(callback=_text, help="Account; required if several are configured."),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(callback=_text, help="Region; required if the account has no default."),
    ] = None,
    settle_s: Annotated[
        float | None,
        typer.Option(
            callback=_finite, help="Seconds that a job must stay stopped before it is verified."
        ),
    ] = None,
    give_up_after_s: Annotated[
        float | None,
        typer.Option(
            callback=_finite, help="Seconds after which a job that has not stopped ends unverified."
        ),
    ] = None,
    escalate: Annotated[
        bool,
        typer.Option(
            "--escalate/--no-escalate",
            help="Whether to go beyond TerminateJob for instances that do not stop.",
        ),
    ] = True,
    reterminate_for_s: Annotated[
        float | None,
        typer.Option(
            "--reterminate-for",
            callback=_finite,
            help="For this many seconds after a job stopped, terminate it again if it is revived.",
        ),
    ] = None,
    on_submitted: Annotated[
        OnSubmitted,
        typer.Option(
            help="Hold jobs that are still SUBMITTED until they can be terminated, or refuse them."
        ),
    ] = OnSubmitted.HOLD,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            callback=_printable,
            help="Repeating a key within 7 days returns its operation; default: a new key.",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the operation until it is finished.")
    ] = False,
    url: DaemonUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Submit a request to terminate jobs, and print the operation id."""
    from orchestrator.cli.commands import terminate
    from orchestrator.cli.commands import watch as watch_command

    target = _target(context, url, token_file)
    given = _job_ids(jobs)
    job_ids = list(dict.fromkeys(given))
    options = {
        "jobs": job_ids,
        "reason": reason,
        "account": account,
        "region": region,
        "settle_s": settle_s,
        "give_up_after_s": give_up_after_s,
        "escalate": None if escalate else False,
        "reterminate_for_s": reterminate_for_s,
        "on_submitted": on_submitted,
    }
    console, notes = printing.out(), printing.err()
    if merged := len(given) - len(job_ids):
        printing.print_line(notes, f"duplicate job ids merged: {merged}")
    submitted = terminate.run(
        target.url,
        target.token,
        {name: value for name, value in options.items() if value is not None},
        idempotency_key=idempotency_key or str(uuid.uuid4()),
        print_message=lambda text: printing.print_line(notes, printing.clean(text)),
    )
    operation = submitted.operation
    # A generated key can be replayed only by this run, after a lost response.
    replayed = submitted.replayed and idempotency_key is not None
    if replayed:
        printing.print_line(notes, printing.clean(terminate.replay(operation)))
    with printing.naming(operation.id, lost=True):
        printing.print_line(console, printing.clean(operation.id))
    if replayed and operation.finished:
        raise typer.Exit(FINISHED_BEFORE)
    if watch:
        raise typer.Exit(watch_command.run(target.url, target.token, operation.id, console))


def _job_ids(arguments: list[str]) -> list[str]:
    """Return the job ids of all arguments; ``-`` stands for standard input."""
    from orchestrator.cli.commands import job_ids

    return job_ids.collect(
        ("standard input", _stdin()) if argument == STDIN else (f"argument {number}", argument)
        for number, argument in enumerate(arguments, 1)
    )


def _stdin() -> str:
    if sys.stdin is None:
        raise typer.BadParameter(
            "standard input is closed: give it the list of job ids, or give the ids as arguments"
        )
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = NUL
    except OSError as error:
        raise typer.BadParameter(f"standard input cannot be read: {error.strerror}") from None
    # In UTF-16, a NUL follows or precedes each character of an id.
    if NUL in text and any(len(part) > 1 for part in text.split(NUL)):
        raise typer.BadParameter(
            "standard input is separated by NUL: use line breaks instead (tr '\\0' '\\n')"
        )
    if NUL in text:
        raise typer.BadParameter("standard input is not text in UTF-8: save the list as UTF-8")
    return text


@app.command()
@exit_on_error()
def status(
    context: typer.Context,
    operation: OperationId,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    url: DaemonUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Show an operation, and what each job that has not stopped waits for."""
    from orchestrator.cli.commands.status import show

    target = _target(context, url, token_file)
    console = printing.out()
    with printing.naming(operation):
        asyncio.run(show(target.url, target.token, operation, console, as_json=as_json))


@app.command("list")
@exit_on_error()
def list_operations(
    context: typer.Context,
    *,
    state: Annotated[
        Literal["running", "finished"] | None, typer.Option(help="Only operations in this state.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(callback=_text, help="Only operations of this account.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of operations.")] = 20,
    url: DaemonUrl = None,
    token_file: TokenFile = None,
) -> None:
    """List operations, newest first; in a pipe, one line each with cells separated by tabs."""
    from orchestrator.cli.commands import list_operations

    target = _target(context, url, token_file)
    console = printing.out()
    asyncio.run(
        list_operations.show(
            target.url, target.token, console, state=state, account=account, limit=limit
        )
    )


@app.command()
@exit_on_error()
def watch(
    context: typer.Context,
    operation: OperationId,
    *,
    url: DaemonUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Follow an operation to its end; exit 0 if every job is proven stopped and none revived."""
    from orchestrator.cli.commands import watch as watch_command

    target = _target(context, url, token_file)
    raise typer.Exit(watch_command.run(target.url, target.token, operation, printing.out()))


@app.command()
@exit_on_error()
def certificate(
    context: typer.Context,
    operation: Annotated[
        str | None,
        typer.Argument(
            metavar="OPERATION",
            callback=_text,
            help="Operation id, op_...; optional with --verify.",
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option(help="File to write; default: standard output.")
    ] = None,
    verify: Annotated[
        Path | None,
        typer.Option(help="Verify this file instead of fetching a certificate; needs no daemon."),
    ] = None,
    url: DaemonUrl = None,
    token_file: TokenFile = None,
) -> None:
    """Fetch the certificate of an operation and verify it; exit 0 if it is valid."""
    from orchestrator.cli.commands import certificate

    if verify is not None:
        if output is not None:
            raise typer.BadParameter(
                "--output cannot be used with --verify, which fetches nothing: give one of the two"
            )
        raise typer.Exit(certificate.check(verify, operation))
    if operation is None:
        raise typer.BadParameter("give an operation id, or a file with --verify")
    target = _target(context, url, token_file)
    with printing.naming(operation):
        raise typer.Exit(certificate.fetch(target.url, target.token, operation, output))


@app.command()
@exit_on_error()
def health(context: typer.Context, *, url: DaemonUrl = None) -> None:
    """Check whether the daemon is ready, and print why not; exit 0 or 1, for probes."""
    from orchestrator.cli.commands import health as health_command

    common: CommonOptions = context.obj
    raise typer.Exit(health_command.run(common.url if url is None else url, printing.out()))


@app.command()
@exit_on_error()
def check_config(*, config: Config = None) -> None:
    """Print every mistake in the configuration, or a summary; load the keys of each account."""
    from orchestrator.cli.commands import check_config

    raise typer.Exit(check_config.run(check_config.load(config), config))


@db.command()
@exit_on_error()
def upgrade(*, config: Config = None) -> None:
    """Upgrade the database to the schema of this version."""
    from orchestrator.cli.commands import check_config
    from orchestrator.store.database import migrations

    upgraded = asyncio.run(migrations.upgrade(check_config.load(config).database.url))
    printing.print_line(printing.out(), f"database {upgraded}")


@app.command()
@exit_on_error()
def simulator(
    *,
    scenario: Annotated[Path, typer.Option(help="Scenario file (TOML): jobs, quotas and faults.")],
    host: Annotated[str, typer.Option(callback=_text, help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 uses a free one.")] = 8700,
    exit_with_stdin: ExitWithStdin = False,
) -> None:
    """Run a simulated cloud until SIGTERM or SIGINT."""
    from orchestrator.cli.commands import serve

    loaded = serve.scenario_of(scenario)
    serve.run_simulator(loaded, host, port, printing.out(), exit_with_stdin=exit_with_stdin)


@app.command()
@exit_on_error()
def demo() -> None:
    """Run a demonstration within a minute: simulator, daemon, 62 jobs, and a check."""
    from orchestrator.cli.demo import demo as demo_command

    raise typer.Exit(demo_command.run(printing.out()))


def run() -> None:
    """Run the command given by the arguments of the process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
