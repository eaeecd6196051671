"""The commands."""
# ruff: noqa: PLC0415 - a command imports what it needs, so that --help needs nothing

import asyncio
import io
import math
import os
import sys
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from orchestrator import __version__
from orchestrator.cli.client.errors import TOKEN_VARIABLE, URL_VARIABLE
from orchestrator.cli.exit_codes import EXIT_CODES, FINISHED_BEFORE, exit_on_error
from orchestrator.cli.output import printing
from orchestrator.domain.model.termination import OnSubmitted

DEFAULT_URL: Final = "http://127.0.0.1:8642"
STDIN: Final = "-"
NUL: Final = "\0"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Stops Tencent Cloud Batch jobs, follows every task instance down, and says what is "
    f"proven. A bearer token is taken from {TOKEN_VARIABLE}.",
    epilog=EXIT_CODES,
)
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(db, name="db")


@dataclass(frozen=True, slots=True)
class Target:
    """The daemon to talk to."""

    url: str
    token: str | None


def _text(value: str | None) -> str | None:
    """Python keeps bytes that are no UTF-8 as surrogates, which cannot be sent."""
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise typer.BadParameter("is not text in UTF-8") from None
    return value


Config = Annotated[
    Path | None, typer.Option(help="TOML file; default: the one that ORCHESTRATOR_CONFIG names.")
]
OperationId = Annotated[
    str, typer.Argument(metavar="OPERATION", callback=_text, help="Its id, op_...")
]
DaemonUrl = Annotated[
    str | None, typer.Option("--url", help="Where the daemon answers, as before the command.")
]
ExitWithStdin = Annotated[bool, typer.Option("--exit-with-stdin", hidden=True)]


def _target(context: typer.Context, url: str | None) -> Target:
    """The daemon to talk to: a ``url`` after the command wins over one before it."""
    target: Target = context.obj
    return target if url is None else replace(target, url=url)


@exit_on_error()
def _print_version(wanted: bool) -> None:
    if wanted:
        printing.out().print(f"orchestrator {__version__}")
        raise typer.Exit


def _finite(seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):
        raise typer.BadParameter("must be a number of seconds, 30 say")
    return seconds


def _printable(key: str | None) -> str | None:
    if key is not None and not key.strip():
        raise typer.BadParameter("is empty: give a key, or leave the option out to have one made")
    if key and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("must be printable ASCII characters, a UUID say")
    return key


@app.callback()
def common(
    context: typer.Context,
    *,
    url: Annotated[
        str, typer.Option(envvar=URL_VARIABLE, help="Where the daemon answers.")
    ] = DEFAULT_URL,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    del version
    context.obj = Target(url, os.environ.get(TOKEN_VARIABLE, "").strip() or None)


@app.command()
@exit_on_error()
def serve(*, config: Config = None, exit_with_stdin: ExitWithStdin = False) -> None:
    """Run the daemon until SIGTERM or SIGINT; calls under way are finished first."""
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
            help="Job ids, as words, CSV or JSON; - reads them from standard input.",
        ),
    ],
    *,
    reason: Annotated[
        str, typer.Option(callback=_text, help="Why; it is kept with the operation.")
    ],
    account: Annotated[
        str | None, typer.Option(callback=_text, help="Where more than one is configured.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(callback=_text, help="Where the account has no default.")
    ] = None,
    settle_s: Annotated[
        float | None,
        typer.Option(callback=_finite, help="How long a job must stay down to be verified."),
    ] = None,
    give_up_after_s: Annotated[
        float | None,
        typer.Option(callback=_finite, help="How long a job may take before it ends unverified."),
    ] = None,
    escalate: Annotated[
        bool,
        typer.Option(
            "--escalate/--no-escalate",
            help="Call more than TerminateJob for instances that do not go down, or not.",
        ),
    ] = True,
    reterminate_for_s: Annotated[
        float | None,
        typer.Option(
            "--keep-down",
            callback=_finite,
            help="For so many seconds after it was down, bring a job down again that is revived.",
        ),
    ] = None,
    on_submitted: Annotated[
        OnSubmitted, typer.Option(help="Jobs that cannot be terminated yet: wait for them, or not.")
    ] = OnSubmitted.HOLD,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            callback=_printable,
            help="A request under a key of the last 7 days is that request; default: a new key.",
        ),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
    url: DaemonUrl = None,
) -> None:
    """Ask for jobs to be terminated, and print the operation's id."""
    from orchestrator.cli.commands import terminate
    from orchestrator.cli.commands import watch as watch_command

    target = _target(context, url)
    given = _job_ids(jobs)
    job_ids = list(dict.fromkeys(given))
    wanted = {
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
        printing.line(notes, f"duplicate job ids merged: {merged}")
    submitted = terminate.run(
        target.url,
        target.token,
        {name: value for name, value in wanted.items() if value is not None},
        idempotency_key=idempotency_key or str(uuid.uuid4()),
        say=lambda text: printing.line(notes, printing.clean(text)),
    )
    operation = submitted.operation
    # A key of our own can only be replayed by this run, after an answer that was lost.
    replayed = submitted.replayed and idempotency_key is not None
    if replayed:
        printing.line(notes, printing.clean(terminate.replay(operation)))
    with printing.naming(operation.id, lost=True):
        printing.line(console, printing.clean(operation.id))
    if replayed and operation.finished:
        raise typer.Exit(FINISHED_BEFORE)
    if watch:
        raise typer.Exit(watch_command.run(target.url, target.token, operation.id, console))


def _job_ids(arguments: list[str]) -> list[str]:
    """The ids in each argument; ``-`` stands for standard input."""
    from orchestrator.cli.commands import job_ids

    return job_ids.collect(
        ("standard input", _stdin()) if argument == STDIN else (f"argument {number}", argument)
        for number, argument in enumerate(arguments, 1)
    )


def _stdin() -> str:
    if sys.stdin is None:
        raise typer.BadParameter("standard input is closed: give it the list, or name the jobs")
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        text = NUL
    except OSError as error:
        raise typer.BadParameter(f"standard input cannot be read: {error.strerror}") from None
    # In UTF-16, each character of an id has a NUL beside it.
    if NUL in text and any(len(part) > 1 for part in text.split(NUL)):
        raise typer.BadParameter(
            "standard input is separated by NUL: use new lines instead (tr '\\0' '\\n')"
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
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    url: DaemonUrl = None,
) -> None:
    """Tell where an operation is, and what every job that is not down waits for."""
    from orchestrator.cli.commands.status import show

    target = _target(context, url)
    console = printing.out()
    with printing.naming(operation):
        asyncio.run(show(target.url, target.token, operation, console, as_json=as_json))


@app.command("list")
@exit_on_error()
def list_operations(
    context: typer.Context,
    *,
    state: Annotated[
        Literal["running", "finished"] | None, typer.Option(help="Those alone; default: all.")
    ] = None,
    account: Annotated[
        str | None, typer.Option(callback=_text, help="Those of one account.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    url: DaemonUrl = None,
) -> None:
    """List operations, the newest first; in a pipe one line each, its cells parted by tabs."""
    from orchestrator.cli.commands import list_operations

    target = _target(context, url)
    console = printing.out()
    asyncio.run(
        list_operations.show(
            target.url, target.token, console, state=state, account=account, limit=limit
        )
    )


@app.command()
@exit_on_error()
def watch(context: typer.Context, operation: OperationId, *, url: DaemonUrl = None) -> None:
    """Follow an operation to its end; exits 0 when every job is proven down and none came back."""
    from orchestrator.cli.commands import watch as watch_command

    target = _target(context, url)
    raise typer.Exit(watch_command.run(target.url, target.token, operation, printing.out()))


@app.command()
@exit_on_error()
def certificate(
    context: typer.Context,
    operation: Annotated[
        str | None,
        typer.Argument(
            metavar="OPERATION", callback=_text, help="Its id, op_...; with --verify optional."
        ),
    ] = None,
    *,
    output: Annotated[Path | None, typer.Option(help="A file; default: standard output.")] = None,
    verify: Annotated[
        Path | None,
        typer.Option(help="Verify this file instead of fetching one; no daemon is needed."),
    ] = None,
    url: DaemonUrl = None,
) -> None:
    """Fetch what is proven of an operation, and verify it; exits 0 when it is valid."""
    from orchestrator.cli.commands import certificate

    if verify is not None:
        if output is not None:
            raise typer.BadParameter("--verify fetches nothing to write: give one of the two")
        raise typer.Exit(certificate.check(verify, operation))
    if operation is None:
        raise typer.BadParameter("name the operation, or a file to --verify")
    target = _target(context, url)
    with printing.naming(operation):
        raise typer.Exit(certificate.fetch(target.url, target.token, operation, output))


@app.command()
@exit_on_error()
def health(context: typer.Context, *, url: DaemonUrl = None) -> None:
    """Ask whether the daemon is ready, and print why not; exits 0 or 1, for probes."""
    from orchestrator.cli.commands import health as health_command

    target = _target(context, url)
    raise typer.Exit(health_command.run(target.url, printing.out()))


@app.command()
@exit_on_error()
def check_config(*, config: Config = None) -> None:
    """Name every mistake in the configuration, or tell what it says; loads each account's keys."""
    from orchestrator.cli.commands import check_config

    raise typer.Exit(check_config.run(check_config.load(config), config))


@db.command()
@exit_on_error()
def upgrade(*, config: Config = None) -> None:
    """Bring the database to this version's schema."""
    from orchestrator.cli.commands import check_config
    from orchestrator.store.database import migrations

    upgraded = asyncio.run(migrations.upgrade(check_config.load(config).database.url))
    printing.line(printing.out(), f"database {upgraded}")


@app.command()
@exit_on_error()
def simulator(
    *,
    scenario: Annotated[Path, typer.Option(help="TOML file: the jobs, quotas and faults.")],
    host: Annotated[str, typer.Option(callback=_text, help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8700,
    exit_with_stdin: ExitWithStdin = False,
) -> None:
    """Stand in for the cloud until SIGTERM or SIGINT."""
    from orchestrator.cli.commands import serve

    loaded = serve.scenario_of(scenario)
    serve.run_simulator(loaded, host, port, printing.out(), exit_with_stdin=exit_with_stdin)


@app.command()
@exit_on_error()
def demo() -> None:
    """Show it all on this machine within a minute: simulator, daemon, 62 jobs, and a check."""
    from orchestrator.cli.demo import demo as demo_command

    raise typer.Exit(demo_command.run(printing.out()))


def run() -> None:
    """Run the command that the arguments name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app()
