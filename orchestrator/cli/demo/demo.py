"""The demonstration: simulator and daemon as local processes, and a check of the result."""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import aiohttp

from orchestrator.cli import resources
from orchestrator.cli.client.api_client import Api
from orchestrator.cli.client.errors import RequestFailed, Unreachable
from orchestrator.cli.commands import watch
from orchestrator.cli.commands.serve import scenario_of
from orchestrator.cli.demo import comparison
from orchestrator.cli.demo.subprocesses import Child, child, free_ports
from orchestrator.cli.exit_codes import FAILED, RunFailed
from orchestrator.cli.output import printing
from orchestrator.cli.output.progress_display import duration
from orchestrator.cli.signals import Stopped, cancelled_by_signal
from orchestrator.settings import Quotas

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rich.console import Console

    from orchestrator.cli.client.models import Operation
    from orchestrator.simulator.scenario.scenario import Scenario

SCENARIO: Final = "scenario-demo.toml"
SETTLE_S: Final = 3
STARTING_WATCH_S: Final = 5
NOT_FOUND_AFTER_S: Final = 5
START_MAX_S: Final = 10.0
RUN_MAX_S: Final = 90.0
"""The demo takes less than half of this on two idle cores."""
READY_POLL_S: Final = 0.1
ACCOUNT: Final = "demo"


@dataclass(frozen=True, slots=True)
class Stage:
    """Clients, processes and console of a running demonstration."""

    api: Api
    control: comparison.Control
    children: tuple[Child, ...]
    console: Console


def run(console: Console) -> int:
    """Run the demonstration; return 0 if every job ended as expected."""
    try:
        return asyncio.run(cancelled_by_signal(_demo(console)))
    except Stopped as stopped:
        console.print("stopped; all processes of the demo have ended")
        return stopped.exit_code


async def _demo(console: Console) -> int:
    path = resources.config_file(SCENARIO)
    scenario = scenario_of(path)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="orchestrator-demo-")))
        stage = await _set_up(stack, directory, path, scenario, console)
        return await _run_operation(stage)


async def _set_up(
    stack: AsyncExitStack, directory: Path, path: Path, scenario: Scenario, console: Console
) -> Stage:
    cloud_port, port = free_ports(2)
    cloud_url, url = f"http://127.0.0.1:{cloud_port}", f"http://127.0.0.1:{port}"
    config = _write_config(directory, scenario, cloud_url, port)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")
    }
    console.print(f"simulator: {cloud_url}, {len(scenario.jobs)} jobs of {path.name}")
    simulator = await stack.enter_async_context(
        child(
            "simulator",
            *("simulator", "--scenario", str(path), "--port", str(cloud_port)),
            directory=directory,
            environment=environment,
        )
    )
    console.print(f"daemon:    {url}, its database in {directory}")
    daemon = await stack.enter_async_context(
        child(
            "daemon",
            *("serve", "--config", str(config)),
            directory=directory,
            environment=environment,
        )
    )
    session = await stack.enter_async_context(aiohttp.ClientSession())
    control = comparison.Control(cloud_url, session)
    api = await stack.enter_async_context(Api(url, None))
    try:
        async with asyncio.timeout(START_MAX_S):
            await _ready(simulator, control.faults)
            await _ready(daemon, api.ready)
    except TimeoutError:
        raise RunFailed(f"simulator and daemon did not start within {START_MAX_S:g} s") from None
    return Stage(api, control, (simulator, daemon), console)


async def _ready(process: Child, ask: Callable[[], Awaitable[object]]) -> None:
    while True:
        process.check()
        with suppress(aiohttp.ClientError, Unreachable, RequestFailed):
            await ask()
            return
        await asyncio.sleep(READY_POLL_S)


async def _run_operation(stage: Stage) -> int:
    console = stage.console
    known = [job.job_id for job in (await stage.control.truth()).jobs]
    request = {
        "jobs": [*known, *comparison.UNKNOWN_JOBS],
        "reason": "demonstration",
        "settle_s": SETTLE_S,
    }
    started_s = time.monotonic()
    submitted = await stage.api.submit(request, idempotency_key=str(uuid.uuid4()))
    operation = submitted.operation
    unknown = len(comparison.UNKNOWN_JOBS)
    console.print(
        f"operation: {operation.id}, {len(known)} jobs and {unknown} that the cloud does not know"
    )
    await _follow(stage, operation)
    took_s = time.monotonic() - started_s
    return await _judge(stage, operation, took_s)


async def _follow(stage: Stage, operation: Operation) -> None:
    """Watch the operation to its end, or until RUN_MAX_S; it is then judged as it is."""
    try:
        async with asyncio.timeout(RUN_MAX_S):
            await watch.watch(stage.api, operation, stage.console)
    except TimeoutError:
        for each in stage.children:
            each.check()
        stage.console.print(f"the operation is not finished after {RUN_MAX_S:g} s")


async def _judge(stage: Stage, operation: Operation, took_s: float) -> int:
    console = stage.console
    states = {each.job_id: each.state async for each in stage.api.terminations(operation.id)}
    truth = await stage.control.truth()
    rows = comparison.compare(truth, states)
    console.print(comparison.as_table(rows))
    for text in comparison.as_lines(await stage.control.quotas(), await stage.control.faults()):
        printing.print_line(console, text)
    shown = (await stage.api.operation(operation.id)).progress.instances
    hidden = comparison.hidden(truth, shown)
    if hidden:
        printing.print_line(console, hidden)
    correct = all(row.ok for row in rows) and not hidden
    verdict = "every job ended as expected" if correct else "NOT every job ended as expected"
    printing.print_line(console, f"{verdict}, after {duration(took_s)}")
    return 0 if correct else FAILED


def _write_config(directory: Path, scenario: Scenario, cloud_url: str, port: int) -> Path:
    """Write the daemon's configuration with the credentials and quotas of the scenario."""
    secret_id, secret_key = next(iter(scenario.secret_keys.items()))
    quotas = {
        action: calls
        for action, calls in scenario.limits_per_s.items()
        if action in Quotas.model_fields
    }
    sections: dict[str, dict[str, object]] = {
        "server": {"port": port},
        "database": {"url": f"sqlite:///{(directory / 'demo.db').as_posix()}"},
        "engine": {
            "starting_watch_s": STARTING_WATCH_S,
            "not_found_after_s": NOT_FOUND_AFTER_S,
        },
        f"accounts.{ACCOUNT}": {
            "endpoint": cloud_url,
            "cvm_endpoint": cloud_url,
            "regions": list(scenario.regions),
        },
        f"accounts.{ACCOUNT}.quotas": {**quotas},
        f"accounts.{ACCOUNT}.credentials": {
            "provider": "static",
            "secret_id": secret_id,
            "secret_key": secret_key,
        },
    }
    path = directory / "orchestrator.toml"
    # JSON strings, numbers and lists of strings are valid TOML.
    path.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for name, keys in sections.items()
        ),
        encoding="utf-8",
    )
    return path
